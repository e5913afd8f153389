"""Records that every part may know. Frozen, slotted, keyword-only; parsed once, at the edge."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class AgentClass(enum.StrEnum):
    LOCAL = "local"
    CI = "ci"
    REMEDIATION = "remediation"


class Role(enum.StrEnum):
    EXECUTE = "execute"
    FETCH = "fetch"
    DEPLOY = "deploy"


class Environment(enum.StrEnum):
    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectHeader:
    """Set header ``name`` to ``format`` with ``{secret}`` replaced."""

    name: str
    format: str = "{secret}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectBasic:
    """RFC 7617 basic authentication: ``username`` and the secret as password."""

    username: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectQuery:
    """Set the query parameter ``name`` to the secret, percent-encoded."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectAws:
    """Sign the request anew (AWS Signature Version 4) for ``service`` in ``region``."""

    service: str
    region: str


InjectValue = InjectHeader | InjectBasic | InjectQuery
"""Where a secret is put as it is."""
Inject = InjectValue | InjectAws


@dataclass(frozen=True, slots=True, kw_only=True)
class GitRule:
    """Git smart HTTP on one repository. ``access``: ``read`` (upload-pack) or ``write`` (also receive-pack)."""

    repository: str
    access: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What may be asked of one host and port. Host is canonical (see :mod:`leasehold.core.names`).

    ``methods``: upper case; empty means the safe default set of :data:`DEFAULT_METHODS`.
    ``paths``: patterns of :mod:`leasehold.core.paths`; empty means every path.
    ``git``: when given, ``methods`` and ``paths`` are empty and follow from it.
    ``host_keys``: of an SSH host, each ``type base64`` as in ``known_hosts``.
    """

    host: str
    port: int = 443
    scheme: str = "https"
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    git: GitRule | None = None
    websocket: bool = False
    inject: Inject | None = None
    host_keys: tuple[str, ...] = ()

    @property
    def is_stream(self) -> bool:
        """Whether it is a connection of another protocol, and no request of HTTP."""
        return self.scheme in STREAM_PORTS


STREAM_PORTS = {"postgres": 5432, "mysql": 3306, "redis": 6379, "ssh": 22}
"""Protocols that are no HTTP, and their usual ports. Such a rule's scheme is its protocol."""
DEFAULT_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A definition in the operator's configuration. ``secret`` is a reference, never a value.

    ``parameters``: what else the issuer wants, as it stands in the file; the issuer reads it. ``expose``: variable to
    the part of a credential of its own that a task may have in it, when it is started so; after ``file:``, in a file
    whose path the variable has.
    """

    name: str
    issuer: str
    secret: str
    environment: Environment
    role: Role
    max_ttl_s: int
    endpoints: tuple[Rule, ...]
    parameters: tuple[tuple[str, object], ...] = ()
    expose: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholder:
    """An environment variable that SDKs insist on, filled with a canary that begins with ``prefix``."""

    variable: str
    credential: str
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How upstream names become addresses. ``resolve``: name to address; ``allow_private``: CIDRs."""

    resolve: tuple[tuple[str, str], ...] = ()
    allow_private: tuple[str, ...] = ()
    upstream_ca: str = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """``hide``/``read_only``: workspace patterns; ``tools``: folders shown read-only at their own path;
    ``env``: names of variables passed through besides the built-in allow-list."""

    hide: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorConfig:
    """The operator's ``config.toml``, read and checked."""

    path: str
    trust_domain: str
    network: Network
    hosts: tuple[Rule, ...]
    credentials: tuple[Credential, ...]
    sandbox: SandboxSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRequest:
    """One ``[grants.NAME]`` of a project file: what it asks for, possibly narrowed. ``None`` means not narrowed."""

    credential: str
    methods: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectConfig:
    """The project's ``leasehold.toml``: a request, which can only narrow."""

    path: str
    grants: tuple[GrantRequest, ...]
    hide: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """What one task may have: operator's configuration, narrowed by the project and the command line.

    ``exposed``: the credentials of which it gets one of its own in its environment.
    """

    agent_class: AgentClass
    profile: str
    purpose: str
    workspace: str
    ttl_s: int
    credentials: tuple[Credential, ...]
    hosts: tuple[Rule, ...]
    placeholders: tuple[Placeholder, ...]
    network: Network
    sandbox: SandboxSettings
    exposed: tuple[str, ...] = ()
