"""Issuers that other packages bring, by the entry points of the group ``leasehold.issuers`` (importlib.metadata).

Asked only for a kind that does not come with Leasehold: so no package stands in for a built-in issuer, and one that no
configuration names is never imported. Installing makes an issuer available; the operator's file makes it active.
``docs/issuers/writing-one.md`` says what a package has to bring.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from leasehold.broker.lease.machine import Revocability
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret
from leasehold.core.text import printable

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from leasehold.broker.issuers.builtin import Parameters
    from leasehold.broker.issuers.ports import Issuer

GROUP = "leasehold.issuers"

_VERBS = ("check", "issue", "revoke", "find", "close")
_MANUAL = "docs/issuers/writing-one.md says what an issuer has to be"


def find(kind: str, reserved: Collection[str]) -> Callable[[Parameters, Secret], Issuer] | None:
    """The factory of a kind that exactly one package brings, imported when it is called; ``None`` if none does.

    ``reserved``: the kinds that come with Leasehold. ``ConfigError`` names the package that is at fault.
    """
    from importlib.metadata import entry_points  # here, because most brokers never come here

    there = entry_points(group=GROUP)
    points = [point for point in there if point.name == kind]
    if kind in reserved or not points:
        return None
    packages = sorted({_package(point) for point in points})
    if len(points) > 1:
        raise _error(kind, f"{' and '.join(packages)} both bring it", "uninstall one of them")
    theirs = {point.name for point in there if _package(point) == packages[0]}
    taken = sorted(theirs & {*reserved})
    if taken:
        raise _error(kind, f"the package {packages[0]} names an issuer {taken[0]}, which is Leasehold's own", _MANUAL)
    return lambda parameters, secret: _make(points[0], parameters, secret)


def _make(point: EntryPoint, parameters: Parameters, secret: Secret) -> Issuer:
    try:
        factory = point.load()
    # One that ends the process while it is imported would end the broker.
    except (Exception, SystemExit) as e:
        missing = f" ({e.name} is missing)" if isinstance(e, ModuleNotFoundError) else ""
        problem = f"cannot be loaded: {type(e).__name__}{missing}"
    else:
        try:
            issuer: Issuer = factory(parameters, secret)
            problem = _unfit(issuer, point.name)
            if not problem:
                return issuer
        except (ConfigError, ModuleNotFoundError):
            raise  # about its parameters, or a library that it needs: the caller says which
        except Exception as e:
            problem = f"cannot make its issuer: {type(e).__name__}"
    # Behind the except block: what the package's frames hold is not to be carried along.
    raise _error(point.name, f"the package {_package(point)} {problem}", "is it made for this version of Leasehold?")


def _unfit(issuer: Issuer, kind: str) -> str:
    """What keeps it from being an issuer of this kind, or nothing."""
    if issuer.kind != kind:
        return "made an issuer of another kind"
    if not isinstance(issuer.revocability, Revocability) or issuer.revocability is Revocability.STOPS_BEING_INJECTED:
        return "does not say what revoking does"
    if not isinstance(issuer.scope, frozenset) or not all(isinstance(text, str) for text in issuer.scope):
        return "does not say what it grants"
    lacks = [verb for verb in _VERBS if not inspect.iscoroutinefunction(getattr(issuer, verb, None))]
    return f"made an issuer without async def {lacks[0]}" if lacks else ""


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module


def _error(kind: str, message: str, hint: str) -> ConfigError:
    return ConfigError(printable(f"issuer({kind}): {message}"), hint=hint)
