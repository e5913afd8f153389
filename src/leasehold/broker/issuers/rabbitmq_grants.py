"""What a user of a task may be granted on a RabbitMQ server: a small language, and the patterns it becomes. Pure.

::

    READ ON orders.new IN /shop             what may be read: consumed, or bound to
    READ, WRITE ON orders.* IN /shop        a name's beginning; the star stands at its end
    CONFIGURE ON tmp.* IN /                 queues and exchanges to make and to delete

A virtual host keeps one pattern for each right, a regular expression that is searched for. Ours match whole names:
``\\A``, ``\\z``, where ``^`` and ``$`` would let a line's end pass.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from leasehold.core.toml import Wrong

RIGHTS = ("CONFIGURE", "READ", "WRITE")
NONE = "^$"
"""The pattern of nothing, as the server's own tools write it."""
_MANUAL = "docs/issuers/rabbitmq.md has the language of grants"
_GRANT = re.compile(
    r"(?P<rights>(?:configure|write|read)(?:, ?(?:configure|write|read))*)"
    r" on (?P<name>[a-z0-9_][a-z0-9_.:@+-]{0,126}\*?|\*) in (?P<vhost>[a-z0-9_./:@-]{1,64})",
    re.IGNORECASE,
)
_SERVERS_OWN = "amq."
_TRACED = "amq.rabbitmq."

Permissions = tuple[str, str, str]
"""The patterns in one virtual host, in the order of :data:`RIGHTS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One text. ``name``: of queues and exchanges, all that begin with it when ``prefix``."""

    rights: tuple[str, ...]
    name: str
    prefix: bool
    vhost: str

    def __str__(self) -> str:
        return f"{', '.join(self.rights)} ON {self.name}{'*' if self.prefix else ''} IN {self.vhost}"


def parse(text: str) -> Grant:
    """Read one text; ``Wrong`` (a ``ValueError``) for everything that is none."""
    match = _GRANT.fullmatch(text)
    if not match:
        raise Wrong(f"{text!a} is no grant that a task can have", _MANUAL)
    rights = [right.strip().upper() for right in match["rights"].split(",")]
    if len({*rights}) != len(rights):
        raise Wrong("a right stands there twice", "leave one out")
    name = match["name"]
    if name.startswith(_TRACED):
        raise Wrong(f"{name} is the server's own", "messages of others are in there")
    return Grant(
        rights=tuple(right for right in RIGHTS if right in rights),
        name=name.removesuffix("*"),
        prefix=name.endswith("*"),
        vhost=match["vhost"],
    )


def permissions(grants: Collection[Grant]) -> Mapping[str, Permissions]:
    """What they come to, for each virtual host."""
    found: dict[str, Permissions] = {}
    for vhost in {grant.vhost for grant in grants}:
        here = [grant for grant in grants if grant.vhost == vhost]
        configure, read, write = (_pattern([grant for grant in here if right in grant.rights]) for right in RIGHTS)
        found[vhost] = (configure, read, write)
    return found


def _pattern(grants: Collection[Grant]) -> str:
    names = sorted({_name(grant) for grant in grants})
    return rf"\A(?:{'|'.join(names)})\z" if names else NONE


def _name(grant: Grant) -> str:
    if not grant.prefix:
        return re.escape(grant.name)
    # Who may write to the server's own exchanges reaches every queue: only where they are named.
    own = f"(?!{re.escape(_SERVERS_OWN if not grant.name.startswith(_SERVERS_OWN) else _TRACED)})"
    return f"{own}{re.escape(grant.name)}.*"
