"""Installation tokens of a GitHub App: for named repositories and permissions, taken back with themselves.

GitHub's REST API 2022-11-28, "Create an installation access token for an app" and "Revoke an installation access
token"; the App shows itself by a JWT (RFC 7519) signed with RS256.

- A token has each of its permissions in each of its repositories, so an order that is no such rectangle is refused
  instead of rounded up. Without ``repositories`` a token is for all: they are always named, and read back.
- A token lasts an hour, whatever was ordered: it outlasts the order and is taken back before. GitHub gives it no name;
  only who has it can end it, so it is kept. One whose answer was lost nobody has; it ends within its hour.
- Times in the JWT are of GitHub's own clock, which a request that costs nothing tells: with ours, a clock that is a
  minute ahead would be refused.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import product

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from leasehold.broker.issuers.answers import Answer, nonsense
from leasehold.broker.issuers.ports import NAME_PREFIX, Issued, Order
from leasehold.broker.issuers.rest import Rest
from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import IssuerError
from leasehold.core.secret import Secret
from leasehold.core.toml import Wrong

LASTS_S = 3600.0
"""How long a token lasts. GitHub takes no wish about that."""

HEADERS = {"accept": "application/vnd.github+json", "x-github-api-version": "2022-11-28"}

_NAME = re.compile(rf"{NAME_PREFIX}[a-z0-9_]{{1,29}}")
_GRANT = re.compile(r"([a-z_]+):([a-z]+) on ([a-z0-9][a-z0-9_-]{0,99})/([a-z0-9._-]{1,100})")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_JWT_BEFORE_S, _JWT_LASTS_S = 60, 600
_KEY_BITS_MIN = 2048
_BOTH = frozenset({"read", "write"})
_READ = frozenset({"read"})
_PERMISSIONS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "actions", "artifact_metadata", "attestations", "checks", "codespaces", "contents", "dependabot_secrets",
            "deployments", "discussions", "environments", "issues", "merge_queues", "packages", "pages",
            "pull_requests", "repository_custom_properties", "repository_hooks", "repository_projects",
            "secret_scanning_alerts", "secrets", "security_events", "single_file", "statuses", "vulnerability_alerts",
        ),
        _BOTH,
    ),
    "administration": _READ,
    "metadata": _READ,
    "workflows": frozenset({"write"}),
}  # fmt: skip
"""What can be granted in a repository. With ``administration:write`` a task could add a deploy key, which lasts."""
_MANUAL = "docs/issuers/github-app.md says what the App needs"
_DEFECT = "this is a defect in Leasehold; please report it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One permission in one repository. ``repository``: ``owner/name`` in lower case, which GitHub does not tell."""

    permission: str
    level: str
    repository: str

    def __str__(self) -> str:
        return f"{self.permission}:{self.level} on {self.repository}"


def parse(text: str) -> Grant:
    """Of ``contents:read on owner/name``; ``Wrong`` for anything else."""
    match = _GRANT.fullmatch(text.lower()) if text.isascii() else None
    if not match or match[4] in (".", "..") or match[4].endswith(".git"):
        raise Wrong(
            "expected PERMISSION:LEVEL on OWNER/NAME, found something else", "such as contents:read on acme/web"
        )
    if match[1] not in _PERMISSIONS:
        raise Wrong(f"there is no permission {match[1]} in a repository", f"there are: {', '.join(_PERMISSIONS)}")
    if match[2] not in _PERMISSIONS[match[1]]:
        levels = " or ".join(sorted(_PERMISSIONS[match[1]]))
        raise Wrong(f"expected {match[1]}:{levels}, found {match[1]}:{match[2]}", _MANUAL)
    return Grant(permission=match[1], level=match[2], repository=f"{match[3]}/{match[4]}")


def rectangle(grants: Collection[Grant]) -> tuple[dict[str, str], list[str]]:
    """The permissions and the repositories that say the same as ``grants``; ``Wrong`` when nothing does."""
    permissions = {grant.permission: grant.level for grant in grants}
    repositories = sorted({grant.repository for grant in grants})
    if len({repository.partition("/")[0] for repository in repositories}) > 1:
        raise Wrong("repositories of two owners", "an installation is for one; make one credential for each")
    whole = {
        Grant(permission=permission, level=level, repository=repository)
        for (permission, level), repository in product(permissions.items(), repositories)
    }
    if {*grants} != whole:
        raise Wrong("a token has each permission in each repository", "make one credential for each set of these")
    return permissions, repositories


class GithubAppIssuer:
    """See :class:`leasehold.broker.issuers.ports.Issuer`.

    ``key``: the App's private key in PEM. ``client``: its client id, or its id. ``allowed``: what an order's scope may
    hold, a rectangle.
    """

    kind = "github-app"
    revocability = Revocability.NOW
    outlasts_s = LASTS_S

    def __init__(self, api: Rest, key: Secret, *, client: str, installation: int, allowed: Collection[Grant]) -> None:
        self._api = api
        self._key = key
        self._client = client
        self._installation = installation
        self._allowed = {str(grant): grant for grant in allowed}
        self.scope = frozenset(self._allowed)

    async def check(self) -> None:
        """Makes a token with all grants, and takes it back."""
        token, _ = await self._create(self.scope)
        await self._end(token)

    async def issue(self, order: Order) -> Issued:
        """A new one at each call."""
        _ours(order.name)
        if not order.scope <= self.scope:
            raise IssuerError("the order's scope is not in the configured grants", hint=_DEFECT)
        token, answer = await self._create(order.scope)
        try:
            return Issued(
                material={"token": token},
                expires=answer.instant("expires_at"),
                scope=_granted(answer, order.scope),
                kept=token,
            )
        except IssuerError as e:
            failure = e
        # What this answer does not say, nobody will: it is taken back here, where the token is known.
        await self._end(token)
        raise failure

    async def revoke(self, name: str, kept: Secret | None = None) -> bool:
        """Have the token end itself, and see that GitHub refuses it. One that nobody has ends within its hour."""
        _ours(name)
        if kept is None:
            return False
        await self._end(kept)
        return True

    async def find(self) -> Collection[str]:
        """GitHub lists no tokens."""
        return ()

    async def close(self) -> None:
        await self._api.close()

    async def _create(self, scope: Collection[str]) -> tuple[Secret, Answer]:
        try:
            permissions, repositories = rectangle([self._allowed[text] for text in scope])
            problem = "" if repositories else "an order without a scope"
        except Wrong as e:
            problem = str(e)
        if problem:
            raise IssuerError(problem, hint=_MANUAL)
        clock = await self._api.ask("GET", "/rate_limit")
        answer = await self._api.ask(
            "POST",
            f"/app/installations/{self._installation}/access_tokens",
            authorization=f"Bearer {_signed(self._key, self._client, int(clock.date))}",
            body={"permissions": permissions, "repositories": [name.partition("/")[2] for name in repositories]},
        )
        if answer.status != 201:
            raise _refusal(answer.status)
        token = answer.text("token")
        if not _TOKEN.fullmatch(token):
            raise nonsense()
        return Secret(token.encode()), answer

    async def _end(self, token: Secret) -> None:
        bearer = f"Bearer {token.reveal().decode()}"
        ended = await self._api.ask("DELETE", "/installation/token", authorization=bearer)
        if ended.status not in (204, 401):
            raise _refusal(ended.status)
        seen = await self._api.ask("GET", "/installation/repositories?per_page=1", authorization=bearer)
        if seen.status != 401:
            raise IssuerError(f"the token is not refused yet (status {seen.status})", hint="it will be tried again")


def _granted(answer: Answer, ordered: Collection[str]) -> frozenset[str]:
    """What the token may do, by GitHub's own words. Reading metadata comes with every token, and is not counted."""
    permissions, repositories = answer.get("permissions"), answer.get("repositories")
    if not isinstance(permissions, dict):
        raise nonsense()
    if answer.get("repository_selection") != "selected" or not isinstance(repositories, list):
        places = ["all repositories"]
    else:
        places = [str(each.get("full_name") if isinstance(each, dict) else each).lower() for each in repositories]
    granted = {
        f"{permission}:{level} on {place}" for (permission, level), place in product(permissions.items(), places)
    }
    implied = {f"metadata:read on {text.rpartition(' ')[2]}" for text in ordered}
    return frozenset(granted - (implied - {*ordered}))


def _signed(key: Secret, client: str, now: int) -> str:
    """A JWT for the App, valid for less than ten minutes from ``now`` on."""
    header = {"alg": "RS256", "typ": "JWT"}
    claims = {"iat": now - _JWT_BEFORE_S, "exp": now - _JWT_BEFORE_S + _JWT_LASTS_S, "iss": client}
    signing = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
    signature = _private(key).sign(signing.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signing}.{_encoded(signature)}"


def _private(key: Secret) -> rsa.RSAPrivateKey:
    try:
        private = load_pem_private_key(key.reveal(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, rsa.RSAPrivateKey) or private.key_size < _KEY_BITS_MIN:
        raise IssuerError(
            "the secret is no private key in PEM as GitHub makes them, and would be refused",
            hint="`leasehold secret set NAME < the-app.private-key.pem` stores one",
        )
    return private


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _ours(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise IssuerError("the name is none that Leasehold gives", hint=_DEFECT)


def _refusal(status: int) -> IssuerError:
    if status == 401:
        return IssuerError("GitHub refuses the App's key", hint="is it a key of this client_id, and not deleted there?")
    if status in (403, 404):
        return IssuerError(f"GitHub refuses (status {status})", hint="is the App still installed, and not suspended?")
    if status == 422:
        return IssuerError(
            "GitHub refuses the repositories or the permissions (status 422)",
            hint="the installation has to have each of the grants",
        )
    return IssuerError(f"GitHub answered with status {status}", hint="look at its status page, then try again")
