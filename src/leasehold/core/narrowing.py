"""What a task gets of the operator's credentials: the intersection of what everybody says, never more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

from leasehold.core.errors import GrantRefused
from leasehold.core.model import DEFAULT_METHODS, Credential, GrantRequest, OperatorConfig, ProjectConfig, Rule
from leasehold.core.paths import intersection


def narrow(
    operator: OperatorConfig, project: ProjectConfig | None, asked: Sequence[str] | None
) -> tuple[Credential, ...]:
    """Operator's credentials ∩ project's grants ∩ the command line's names, in the operator's order.

    ``None``: nothing was said, so nothing is narrowed. ``GrantRefused`` for what was asked for and cannot be had.
    """
    by_name = {credential.name: credential for credential in operator.credentials}
    requests = {grant.credential: grant for grant in project.grants} if project else {}
    for name in (*requests, *(asked or ())):
        if name not in by_name:
            near = get_close_matches(name, by_name, 1)
            raise GrantRefused(
                f"there is no credential {name!a}",
                hint=f"did you mean {near[0]}?" if near else "see `leasehold credential list`",
            )
        if project is not None and name not in requests:
            raise GrantRefused(f"{project.path} does not ask for {name}", hint=f"add [grants.{name}] to it")
    chosen = [n for n in by_name if (project is None or n in requests) and (asked is None or n in asked)]
    return tuple(_narrowed(by_name[n], requests[n]) if n in requests else by_name[n] for n in chosen)


def _narrowed(credential: Credential, request: GrantRequest) -> Credential:
    endpoints = tuple(narrowed for rule in credential.endpoints if (narrowed := _narrowed_rule(rule, request)))
    _check_used(request, endpoints)
    ttl_s = min(credential.max_ttl_s, request.ttl_s or credential.max_ttl_s)
    return replace(credential, max_ttl_s=ttl_s, endpoints=endpoints)


def _narrowed_rule(rule: Rule, request: GrantRequest) -> Rule | None:
    """What is left of a rule; nothing of git and other protocols, which have no methods and paths to narrow."""
    if rule.git is not None or rule.is_stream:
        return rule if request.methods is None and request.paths is None else None
    methods, paths = rule.methods, rule.paths
    if request.methods is not None:
        has = ("GET",) if rule.websocket else rule.methods or DEFAULT_METHODS
        methods = tuple(method for method in request.methods if method in has)
    if request.paths is not None:
        both = [intersection(p, q) for p in request.paths for q in rule.paths or (p,)]
        paths = tuple(dict.fromkeys(path for path in both if path is not None))
    if (request.methods is not None and not methods) or (request.paths is not None and not paths):
        return None
    return replace(rule, methods=methods, paths=paths)


def _check_used(request: GrantRequest, endpoints: Sequence[Rule]) -> None:
    """Refuse what the project asks for and gets nothing of: it would look like a permission and be none."""
    name = request.credential
    if not endpoints:
        raise GrantRefused(
            f"[grants.{name}] leaves nothing of {name}", hint="widen its methods and paths, or leave them out"
        )
    for method in request.methods or ():
        if not any(method in rule.methods for rule in endpoints):
            raise GrantRefused(
                f"[grants.{name}] methods: no endpoint of {name} that is left allows {method}", hint="leave it out"
            )
    for path in request.paths or ():
        if not any(intersection(path, other) for rule in endpoints for other in rule.paths):
            raise GrantRefused(
                f"[grants.{name}] paths: no endpoint of {name} that is left allows {path}", hint="leave it out"
            )
