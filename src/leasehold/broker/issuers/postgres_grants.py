"""What a role of a task may be granted: a small language, parsed here and emitted by psycopg. Pure.

::

    CONNECT | TEMPORARY                                    the database of the server's URL
    SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON [TABLE] s.t
    … ON ALL TABLES IN SCHEMA s                            those that there are, and that the issuer may hand on
    USAGE, SELECT, UPDATE ON SEQUENCE s.q | ON ALL SEQUENCES IN SCHEMA s
    USAGE, CREATE ON SCHEMA s
    MEMBER OF r

Words in any case; names are folded to lower case, as SQL does. What needs quotes cannot be named: a group role can have
it, and ``MEMBER OF`` gives that.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from psycopg import sql

from leasehold.core.toml import Wrong

_MANUAL = "docs/issuers/postgres.md has the language of grants"
_NAME = r"[a-z_][a-z0-9_$]{0,62}"
_LIST = r"(?P<privileges>[a-z]+(?: ?, ?[a-z]+)*)"
_PRINTABLE = re.compile(r"[ -~]+")


class Target(enum.StrEnum):
    """What a privilege is on, in the words of ``GRANT``."""

    DATABASE = "DATABASE"
    SCHEMA = "SCHEMA"
    TABLE = "TABLE"
    ALL_TABLES = "ALL TABLES IN SCHEMA"
    SEQUENCE = "SEQUENCE"
    ALL_SEQUENCES = "ALL SEQUENCES IN SCHEMA"
    ROLE = "ROLE"


_TABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
_SEQUENCE = ("USAGE", "SELECT", "UPDATE")
# Not here: TRIGGER and REFERENCES, which act with other people's rights.
_PRIVILEGES = {
    Target.DATABASE: ("CONNECT", "TEMPORARY"),
    Target.SCHEMA: ("USAGE", "CREATE"),
    Target.TABLE: _TABLE,
    Target.ALL_TABLES: _TABLE,
    Target.SEQUENCE: _SEQUENCE,
    Target.ALL_SEQUENCES: _SEQUENCE,
    Target.ROLE: ("MEMBER",),
}
_FORMS = tuple(
    (target, re.compile(form))
    for target, form in (
        (Target.DATABASE, r"(?P<privileges>connect|temporary)"),
        (Target.ROLE, rf"(?P<privileges>member) of (?P<name>{_NAME})"),
        (Target.SCHEMA, rf"{_LIST} on schema (?P<schema>{_NAME})"),
        (Target.ALL_TABLES, rf"{_LIST} on all tables in schema (?P<schema>{_NAME})"),
        (Target.ALL_SEQUENCES, rf"{_LIST} on all sequences in schema (?P<schema>{_NAME})"),
        (Target.SEQUENCE, rf"{_LIST} on sequence (?P<schema>{_NAME})\.(?P<name>{_NAME})"),
        (Target.TABLE, rf"{_LIST} on (?:table )?(?P<schema>{_NAME})\.(?P<name>{_NAME})"),
    )
)
SAFE_PREDEFINED = frozenset(
    {"pg_read_all_data", "pg_write_all_data", "pg_read_all_settings", "pg_read_all_stats", "pg_stat_scan_tables"}
)
"""Predefined roles that a task may be in; the others reach the server's files, programs or other people's sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One template. ``schema`` and ``name`` are empty where ``target`` has none."""

    privileges: tuple[str, ...]
    target: Target
    schema: str = ""
    name: str = ""

    def __str__(self) -> str:
        privileges = ", ".join(self.privileges)
        if self.target is Target.DATABASE:
            return privileges
        if self.target is Target.ROLE:
            return f"MEMBER OF {self.name}"
        return f"{privileges} ON {self.target} {'.'.join(filter(None, (self.schema, self.name)))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One privilege on one object, as the server's catalogue has it. ``kind``: ``TABLE``, ``SEQUENCE``, ``ROLE`` …"""

    kind: str
    schema: str
    name: str
    privilege: str
    grantable: bool = False

    def __str__(self) -> str:
        at = ".".join(filter(None, (self.schema, self.name)))
        return f"{self.privilege} ON {self.kind} {at}{' WITH GRANT OPTION' if self.grantable else ''}"


def parse(text: str) -> Grant:
    """Read one template; ``Wrong`` (a ``ValueError``) for everything that is none."""
    if not _PRINTABLE.fullmatch(text):
        raise Wrong("expected a grant, found nothing or control characters", _MANUAL)
    folded = " ".join(text.lower().split())
    for target, form in _FORMS:
        match = form.fullmatch(folded)
        if match:
            parts = match.groupdict()
            privileges = [item.strip().upper() for item in parts["privileges"].split(",")]
            grant = Grant(
                privileges=tuple(item for item in _PRIVILEGES[target] if item in privileges),
                target=target,
                schema=parts.get("schema") or "",
                name=parts.get("name") or "",
            )
            _check(grant, privileges)
            return grant
    raise Wrong(f"{text!a} is no grant that a task can have", _MANUAL)


def _check(grant: Grant, privileges: Collection[str]) -> None:
    allowed = _PRIVILEGES[grant.target]
    for item in privileges:
        if item not in allowed:
            raise Wrong(f"expected of {', '.join(allowed)}, found {item}", _MANUAL)
    if len(grant.privileges) != len(privileges):
        raise Wrong("a privilege stands there twice", "leave one out")
    if grant.schema.startswith("pg_") or grant.schema == "information_schema":
        raise Wrong(f"{grant.schema} is the server's own schema", "passwords and settings of others are in there")
    if grant.target is Target.ROLE and grant.name.startswith("pg_") and grant.name not in SAFE_PREDEFINED:
        raise Wrong(f"{grant.name} reaches beyond the data", f"expected one of {', '.join(sorted(SAFE_PREDEFINED))}")


def expected(
    grant: Grant, database: str, relations: Iterable[tuple[str, str, str, Collection[str]]]
) -> frozenset[Right]:
    """The rights that it stands for. ``relations``: kind, schema and name of tables and sequences, and what the issuer
    may hand on there; of "all" those are meant.
    """
    if grant.target is Target.DATABASE:
        objects = [("DATABASE", "", database, grant.privileges)]
    elif grant.target in (Target.ALL_TABLES, Target.ALL_SEQUENCES):
        kind = grant.target.split()[1].removesuffix("S")
        objects = [
            (*found[:3], tuple(item for item in grant.privileges if item in found[3]))
            for found in relations
            if found[:2] == (kind, grant.schema)
        ]
    else:
        objects = [(str(grant.target), grant.schema, grant.name, grant.privileges)]
    return frozenset(
        Right(kind=kind, schema=schema, name=name, privilege=privilege)
        for kind, schema, name, privileges in objects
        for privilege in privileges
    )


def granting(rights: Collection[Right], role: str) -> Iterator[sql.Composed]:
    """``GRANT`` of them to ``role``."""
    groups = sorted(right.name for right in rights if right.kind == Target.ROLE)
    if groups:
        names = sql.SQL(", ").join(map(sql.Identifier, groups))
        yield sql.SQL("GRANT {} TO {}").format(names, sql.Identifier(role))
    yield from _each(sql.SQL("GRANT {} ON {} {} TO {}"), rights, role)


def revoking(rights: Collection[Right], role: str) -> Iterator[sql.Composed]:
    """``REVOKE`` of them from ``role``; membership, which goes with the role, and what we never grant, is left out."""
    yield from _each(sql.SQL("REVOKE {} ON {} {} FROM {}"), rights, role)


def _each(form: sql.SQL, rights: Collection[Right], role: str) -> Iterator[sql.Composed]:
    """One statement for each privilege and kind of object."""
    for kind in (Target.DATABASE, Target.SCHEMA, Target.TABLE, Target.SEQUENCE):
        for privilege in _PRIVILEGES[kind]:
            among = (right for right in rights if (right.kind, right.privilege) == (kind, privilege))
            names = sorted(tuple(filter(None, (right.schema, right.name))) for right in among)
            if names:
                objects = sql.SQL(", ").join(sql.Identifier(*name) for name in names)
                yield form.format(sql.SQL(privilege), sql.SQL(kind), objects, sql.Identifier(role))


def role(text: str) -> str:
    """A role's name, folded to lower case; ``Wrong`` for one that needs quotes, or is the server's own."""
    name = text.lower()
    if not re.fullmatch(_NAME, name) or name.startswith("pg_"):
        raise Wrong("expected the name of a role, found something else", _MANUAL)
    return name
