"""The stand-in for Kubernetes, with the rules that the page of the issuer ``kubernetes`` tells an operator to write."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import jwt

from contract.subject import Material, Refused
from leasehold.broker.issuers.builtin import BUILTIN, Parameters
from leasehold.broker.issuers.kubernetes import LABEL
from leasehold.broker.issuers.ports import Issuer
from leasehold.core.secret import Secret
from servers.kubernetes import ACCOUNT, CLUSTER, NAMESPACE, REGISTRY, KubernetesStandIn
from servers.standin import ADDRESS, Client

PAGE = Path(__file__).parents[2] / "docs" / "issuers" / "kubernetes.md"
_RULE = re.compile(r"resources: \[(.*?)\](?:, resourceNames: \[(.*?)\])?, verbs: \[(.*?)\]")
_OUTSIDE = (401, 403)


def rules(page: str) -> frozenset[str]:
    """Of the Role there, as ``verb resource`` and, where one is named, what it is called."""
    return frozenset(
        " ".join(filter(None, (verb.strip(' "'), resource.strip(' "'), named.strip(' "'))))
        for resource, named, verbs in _RULE.findall(page)
        for verb in verbs.split(",")
    )


class TokenSession:
    """A connection on which each request shows the token."""

    def __init__(self, kubernetes: KubernetesStandIn, token: str) -> None:
        claims = jwt.decode(token, options={"verify_signature": False})
        self.name = claims["kubernetes.io"]["secret"]["name"]
        self.client = Client(kubernetes, {"authorization": f"Bearer {token}"})
        self.closed = False

    def alive(self) -> bool:
        return self.client.status("GET", "/api/v1/namespaces/orders/pods") == 200

    def close(self) -> None:
        self.client.close()
        self.closed = True


class KubernetesSubject:
    """Tokens for the API server, and for a registry that asks it about tokens."""

    scope = frozenset({CLUSTER, REGISTRY})
    within: Sequence[str] = ("GET /api/v1/namespaces/orders/pods", "GET /registry/v2/")
    beyond: Sequence[str] = ("DELETE /api/v1/namespaces/orders/pods", "GET /api/v1/namespaces/orders/secrets")
    less = frozenset({CLUSTER})
    beyond_less = "GET /registry/v2/"
    outside = frozenset({"https://elsewhere.example"})
    ends_by_itself = True
    hostile: Sequence[Mapping[str, object]] = (
        *(
            {key: value}
            for key in ("namespace", "service_account")
            for value in ("", "a/b", "..", "A", "a_b", "-a", "a-", "a b", "a\n", "a?x", "a%2f", "a" * 64, 5)
        ),
        *({"audiences": audiences} for audiences in ([], [""], ["a b"], ["a\n"], ["\u00e4"], ["a", "a"], "a")),
        *(
            {"server": server}
            for server in ("http://k8s.example", "https://t@k8s.example", "https://k8s.example/api", "x")
        ),
        {"ca": "ca.pem"},
        {"insecure_skip_tls_verify": True},
    )

    def __init__(self, kubernetes: KubernetesStandIn) -> None:
        self.kubernetes = kubernetes
        self.secret = Secret(secrets.token_urlsafe(24).encode())
        self.rules = rules(PAGE.read_text())
        kubernetes.admins[self.secret.reveal().decode()] = self.rules
        self._sessions: list[TokenSession] = []

    def parameters(self, address: tuple[str, int] | None = None) -> Mapping[str, object]:
        host, port = address or (ADDRESS, self.kubernetes.port)
        return {
            "server": f"https://{host}:{port}",
            "ca": str(self.kubernetes.ca),
            "namespace": NAMESPACE,
            "service_account": ACCOUNT,
            "audiences": sorted(self.scope),
        }

    def issuer(self, parameters: Mapping[str, object], secret: Secret) -> Issuer:
        table = Parameters("kubernetes", parameters)
        issuer = BUILTIN["kubernetes"](table, secret)
        table.done()
        return issuer

    def attempt(self, material: Material, operation: str) -> None:
        session = TokenSession(self.kubernetes, material["token"].reveal().decode())
        try:
            status = session.client.status(*operation.split(" "))
            if status in _OUTSIDE:
                raise Refused(str(status))
            assert status == 200, status
        finally:
            session.close()

    def open(self, material: Material) -> TokenSession:
        session = TokenSession(self.kubernetes, material["token"].reveal().decode())
        if not session.alive():
            session.close()
            raise Refused("401")
        self._sessions.append(session)
        return session

    def accounts(self) -> Collection[str]:
        """By the label of the objects; where there is none, by their names."""
        return [each["metadata"]["labels"].get(LABEL, name) for name, each in self.kubernetes.objects.items()]

    def plant(self, name: str) -> None:
        self.kubernetes.make(_object_name(name), {LABEL: name})

    def remove(self, name: str) -> None:
        self.kubernetes.objects.pop(_object_name(name), None)

    def expires(self, name: str) -> float | None:
        return float(self.kubernetes.ends[_object_name(name)])

    def sessions(self, name: str) -> int:
        return len([each for each in self._sessions if each.name == _object_name(name) and not each.closed])


def _object_name(name: str) -> str:
    return name.replace("_", "-").lower()
