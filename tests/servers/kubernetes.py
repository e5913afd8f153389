"""A stand-in for a Kubernetes API server: Secrets of one namespace, TokenRequest, and what its tokens may. Not one.

It does what the API's documentation says of ``serviceaccounts/NAME/token`` with a ``boundObjectRef``, of Secrets
(create, get, list by label and in pages, delete with a precondition) and of ``selfsubjectaccessreviews``: rules decide
what the issuer's account may, and a bound token is refused when its object is gone. What it cannot show: that an API
server remembers for some seconds that a token was good, admission, and other ways to sign.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import jwt

from servers.standin import Asked, StandIn

NAMESPACE, ACCOUNT = "leasehold-tasks", "deployer"
CLUSTER = "https://kubernetes.default.svc"
REGISTRY = "https://registry.example"
MAY = {("GET", "/api/v1/namespaces/orders/pods")}
"""What the service account itself may do at the API server."""
_VERBS = {"POST": "create", "GET": "get", "DELETE": "delete"}
_PAGE_MAX = 3


class KubernetesStandIn(StandIn):
    """``objects`` by name. ``admins``: tokens of issuers, and their rules as ``verb resource``.

    ``ends``: of the last token bound to each. ``altered``: claims laid over those of the next tokens; ``held``: a
    finalizer keeps what is deleted.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.admins: dict[str, frozenset[str]] = {}
        self.altered: dict[str, Any] = {}
        self.held = False
        self.ends: dict[str, Any] = {}
        self._key = secrets.token_urlsafe(32)
        super().__init__("kubernetes")

    def answer(self, asked: Asked) -> tuple[int, Any]:
        if asked.bearer.count(".") == 2:
            return self._used(asked)
        rules = self.admins.get(asked.bearer)
        if rules is None:
            return _status(401)
        match [asked.method, *asked.path.strip("/").split("/")]:
            case ["POST", "apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]:
                wanted = asked.body["spec"]["resourceAttributes"]
                return 201, {"status": {"allowed": f"{wanted['verb']} {wanted['resource']}" in rules}}
            case [method, "api", "v1", "namespaces", namespace, "secrets", *name] if namespace == NAMESPACE:
                verb = "list" if method == "GET" and not name else _VERBS[method]
                if f"{verb} secrets" not in rules:
                    return _status(403)
                return self._secrets(verb, name[0] if name else "", asked)
            case ["POST", "api", "v1", "namespaces", namespace, "serviceaccounts", account, "token"]:
                if namespace != NAMESPACE or f"create serviceaccounts/token {account}" not in rules:
                    return _status(403)
                return self._token(asked.body["spec"])
        return _status(403)

    def _secrets(self, verb: str, name: str, asked: Asked) -> tuple[int, Any]:
        if verb == "list":
            return self._page(asked.query)
        if verb == "create":
            return self.make(asked.body["metadata"]["name"], asked.body["metadata"]["labels"])
        found = self.objects.get(name)
        if found is None:
            return _status(404)
        if verb == "delete":
            if asked.body["preconditions"]["uid"] != found["metadata"]["uid"]:
                return _status(409)
            if not self.held:
                del self.objects[name]
            return _status(200)
        return 200, found

    def _page(self, query: Mapping[str, str]) -> tuple[int, Any]:
        matching = [each for each in self.objects.values() if query["labelSelector"] in each["metadata"]["labels"]]
        first = int(query.get("continue", "0&=").rstrip("&="))
        last = first + min(_PAGE_MAX, int(query["limit"]))
        after = {"continue": f"{last}&="} if last < len(matching) else {}
        return 200, {"metadata": after, "items": matching[first:last]}

    def make(self, name: str, labels: Mapping[str, str]) -> tuple[int, Any]:
        """A Secret, as anybody who may makes one."""
        if name in self.objects:
            return _status(409)
        self.objects[name] = {"metadata": {"name": name, "labels": dict(labels), "uid": secrets.token_hex(8)}}
        return 201, self.objects[name]

    def _token(self, spec: Mapping[str, Any]) -> tuple[int, Any]:
        bound, lasts_s = spec["boundObjectRef"], spec["expirationSeconds"]
        there = self.objects.get(bound["name"])
        if there is None or there["metadata"]["uid"] != bound["uid"] or bound["kind"] != "Secret":
            return _status(409)
        if lasts_s < 600:
            return _status(422)
        private = {"namespace": NAMESPACE, "secret": {"name": bound["name"], "uid": bound["uid"]}}
        claims = {
            "aud": spec["audiences"],
            "exp": int(self.now) + lasts_s,
            "sub": f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}",
            "kubernetes.io": private,
            **self.altered,
        }
        self.ends[bound["name"]] = claims["exp"]
        return 201, {"status": {"token": jwt.encode(claims, self._key, algorithm="HS256")}}

    def _used(self, asked: Asked) -> tuple[int, Any]:
        """By a task, at the API server or at something else that asks the API server about tokens."""
        wanted = REGISTRY if asked.path.startswith("/registry/") else CLUSTER
        try:
            options: Any = {"verify_exp": False}
            claims = jwt.decode(asked.bearer, self._key, algorithms=["HS256"], audience=wanted, options=options)
        except jwt.InvalidAudienceError:
            return _status(403)
        except jwt.InvalidTokenError:
            return _status(401)
        bound = claims["kubernetes.io"]["secret"]
        there = self.objects.get(bound["name"])
        if there is None or there["metadata"]["uid"] != bound["uid"] or claims["exp"] <= self.now:
            return _status(401)
        return _status(200 if wanted == REGISTRY or (asked.method, asked.path) in MAY else 403)


def _status(code: int) -> tuple[int, Any]:
    return code, {"kind": "Status", "code": code}
