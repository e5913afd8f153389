"""From a request to what the task may have: operator's configuration ∩ project's request (DESIGN 4, step 1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leasehold.broker.issuers.builtin import make
from leasehold.core.config import narrow, read_operator, read_project
from leasehold.core.errors import ConfigError, GrantRefused
from leasehold.core.limits import LIMITS
from leasehold.core.model import (
    AgentClass,
    Credential,
    InjectBasic,
    InjectHeader,
    OperatorConfig,
    Placeholder,
    Rule,
    SandboxSettings,
    TaskPlan,
)
from leasehold.core.profiles import Profile, key_variables, profile_for
from leasehold.core.secret import Secret

_LONGEST_S = {
    AgentClass.LOCAL: LIMITS.local_ttl_s_max,
    AgentClass.CI: LIMITS.ci_ttl_s_max,
    AgentClass.REMEDIATION: LIMITS.remediation_ttl_s_max,
}
PROJECT_FILE = "leasehold.toml"
# Parameters are lists and tables, which cannot be looked up by hash.
_checked: deque[Credential] = deque(maxlen=64)


def plan_task(message: dict[str, Any]) -> TaskPlan:
    """The plan for one ``task.open``. Every refusal is an error that names the place."""
    agent_class = _agent_class(str(message.get("class") or "local"))
    workspace = str(message["workspace"])
    profile = profile_for(message.get("profile"), [str(part) for part in message.get("command") or ()])
    operator = read_operator(Path(str(message["config"])))
    project_file = Path(workspace) / PROJECT_FILE
    # A folder of that name is the mount point of another run in this workspace: nothing that an agent could have made.
    there = project_file.is_symlink() or (project_file.exists() and not project_file.is_dir())
    project = read_project(project_file) if there else None
    asked = message.get("grants")
    credentials = narrow(operator, project, tuple(str(name) for name in asked) if asked else None)
    exposed = _exposed(credentials, [str(name) for name in message.get("expose") or ()])
    sandbox = operator.sandbox
    if project is not None:
        sandbox = SandboxSettings(
            hide=(*sandbox.hide, *project.hide),
            read_only=(*sandbox.read_only, *project.read_only),
            tools=sandbox.tools,
            env=sandbox.env,
        )
    return TaskPlan(
        agent_class=agent_class,
        profile=profile.name,
        purpose=str(message.get("purpose") or ""),
        workspace=workspace,
        ttl_s=_ttl(agent_class, message.get("ttl_s")),
        credentials=credentials,
        hosts=_hosts(operator, profile, credentials),
        placeholders=_placeholders(credentials),
        network=operator.network,
        sandbox=sandbox,
        exposed=exposed,
    )


def _exposed(credentials: Sequence[Credential], names: Sequence[str]) -> tuple[str, ...]:
    by_name = {credential.name: credential for credential in credentials}
    for name in names:
        if name not in by_name:
            raise GrantRefused(f"the task has no credential {name!a}", hint="see `leasehold credential list`")
        if not by_name[name].expose:
            raise GrantRefused(
                f"{name} may not enter a compartment",
                hint="most tools work without; else the operator allows it: expose",
            )
    return tuple(dict.fromkeys(names))


def check_issuers(credentials: Sequence[Credential]) -> None:
    """``ConfigError`` for parameters that their issuer does not take; asks no provider. May take a while."""
    for credential in credentials:
        if credential.issuer != "static" and credential not in _checked:
            try:
                make(credential.issuer, dict(credential.parameters), Secret(b""))
            except ConfigError as e:
                raise ConfigError(f"credentials.{credential.name}: {e.message}", hint=e.hint) from None
            _checked.append(credential)


def _agent_class(name: str) -> AgentClass:
    if name in AgentClass.__members__.values():
        return AgentClass(name)
    known = ", ".join(AgentClass)
    raise GrantRefused(f"there is no class {name!a}", hint=f"the classes are {known}")


def _ttl(agent_class: AgentClass, asked: object) -> int:
    longest = _LONGEST_S[agent_class]
    if asked is None:
        return longest
    if not isinstance(asked, int) or not 0 < asked <= longest:
        raise GrantRefused(
            f"a task of class {agent_class} lasts at most {longest} s, {asked} were asked for",
            hint="give a shorter --ttl",
        )
    return asked


def _hosts(operator: OperatorConfig, profile: Profile, credentials: Sequence[Credential]) -> tuple[Rule, ...]:
    """What is reachable without a credential: the operator's hosts, and what the profile cannot do without."""
    taken = {rule.host for credential in credentials for rule in credential.endpoints}
    taken |= {rule.host for rule in operator.hosts}
    return operator.hosts + tuple(Rule(host=host) for host in profile.hosts if host not in taken)


def _placeholders(credentials: Sequence[Credential]) -> tuple[Placeholder, ...]:
    """A placeholder for each variable in which SDKs look for the key of a host that gets one injected."""
    at = {
        (rule.host, _header(rule)): credential.name
        for credential in credentials
        for rule in credential.endpoints
        if rule.inject is not None
    }
    return tuple(
        Placeholder(variable=variable.name, credential=at[(variable.host, variable.header)], prefix=variable.prefix)
        for variable in key_variables(at)
    )


def _header(rule: Rule) -> str:
    if isinstance(rule.inject, InjectHeader):
        return rule.inject.name.lower()
    return "authorization" if isinstance(rule.inject, InjectBasic) else ""
