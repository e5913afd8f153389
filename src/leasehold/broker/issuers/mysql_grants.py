"""What a user of a task may be granted on MariaDB or MySQL: a small language, and what a server says of it. Pure.

::

    SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, SHOW VIEW ON shop.orders      one table or view
    …, CREATE TEMPORARY TABLES, LOCK TABLES ON shop.*                                         one database
    EXECUTE ON PROCEDURE shop.place_order | ON FUNCTION shop.total

Words in any case, names as the server has them. Not here: what acts with other people's rights later (``TRIGGER``,
``EVENT``, ``CREATE VIEW``, ``CREATE ROUTINE``), and every privilege on the whole server.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from leasehold.core.toml import Wrong

_MANUAL = "docs/issuers/mysql.md has the language of grants"
_NAME = r"[A-Za-z_][A-Za-z0-9_$]{0,63}"
_LIST = r"(?P<privileges>[A-Za-z]+(?: [A-Za-z]+)*(?: ?, ?[A-Za-z]+(?: [A-Za-z]+)*)*)"
_PRINTABLE = re.compile(r"[ -~]+")
OWN_DATABASES = frozenset({"mysql", "information_schema", "performance_schema", "sys"})
"""The server's own: passwords, other people's statements, settings."""


class Target(enum.StrEnum):
    """What a privilege is on."""

    DATABASE = "DATABASE"
    TABLE = "TABLE"
    PROCEDURE = "PROCEDURE"
    FUNCTION = "FUNCTION"


_TABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "INDEX", "SHOW VIEW")
_PRIVILEGES = {
    Target.DATABASE: (*_TABLE, "CREATE TEMPORARY TABLES", "LOCK TABLES"),
    Target.TABLE: _TABLE,
    Target.PROCEDURE: ("EXECUTE",),
    Target.FUNCTION: ("EXECUTE",),
}
_FORMS = tuple(
    (target, re.compile(form))
    for target, form in (
        (Target.DATABASE, rf"{_LIST} (?i:on) (?P<database>{_NAME})\.\*"),
        (Target.TABLE, rf"{_LIST} (?i:on) (?P<database>{_NAME})\.(?P<name>{_NAME})"),
        (Target.PROCEDURE, rf"{_LIST} (?i:on procedure) (?P<database>{_NAME})\.(?P<name>{_NAME})"),
        (Target.FUNCTION, rf"{_LIST} (?i:on function) (?P<database>{_NAME})\.(?P<name>{_NAME})"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One text. ``name``: of the table or routine; empty for a whole database."""

    privileges: tuple[str, ...]
    target: Target
    database: str
    name: str = ""

    def __str__(self) -> str:
        routine = f"{self.target} " if self.target in (Target.PROCEDURE, Target.FUNCTION) else ""
        return f"{', '.join(self.privileges)} ON {routine}{self.database}.{self.name or '*'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """One privilege, as the server says it. ``at``: as after ``ON``, with its quotes."""

    privilege: str
    at: str
    grantable: bool = False

    def __str__(self) -> str:
        return f"{self.privilege} ON {self.at}{' WITH GRANT OPTION' if self.grantable else ''}"


def parse(text: str) -> Grant:
    """Read one text; ``Wrong`` (a ``ValueError``) for everything that is none."""
    if not _PRINTABLE.fullmatch(text):
        raise Wrong("expected a grant, found nothing or control characters", _MANUAL)
    spaced = " ".join(text.split())
    for target, form in _FORMS:
        match = form.fullmatch(spaced)
        if match:
            parts = match.groupdict()
            privileges = [item.strip().upper() for item in parts["privileges"].split(",")]
            grant = Grant(
                privileges=tuple(item for item in _PRIVILEGES[target] if item in privileges),
                target=target,
                database=parts["database"],
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
    if grant.database.lower() in OWN_DATABASES:
        raise Wrong(f"{grant.database} is the server's own database", "passwords and settings of others are in there")


def quoted(name: str) -> str:
    """A name that the server takes for nothing else."""
    return f"`{name.replace('`', '``')}`"


def account(name: str, host: str) -> str:
    """A user as statements and the server's answers name it."""
    return f"{quoted(name)}@{quoted(host)}"


def at(grant: Grant, *, patterns: bool) -> str:
    """What comes after ``ON``. ``patterns``: the server takes the name of a whole database for one.

    Only there; the database of a table is always just a name.
    """
    if grant.target is Target.DATABASE:
        database = grant.database.replace("_", r"\_") if patterns else grant.database
        return f"{quoted(database)}.*"
    routine = "" if grant.target is Target.TABLE else f"{grant.target} "
    return f"{routine}{quoted(grant.database)}.{quoted(grant.name)}"


def expected(grant: Grant, *, patterns: bool) -> frozenset[Right]:
    """The rights that it stands for."""
    where = at(grant, patterns=patterns)
    return frozenset(Right(privilege=privilege, at=where) for privilege in grant.privileges)


def said(lines: Iterable[str], user: str) -> frozenset[Right]:
    """What ``SHOW GRANTS`` answers about ``user`` (see :func:`account`). A line of another form is a right of its own.

    ``USAGE`` on everything is no right at all.
    """
    return frozenset(right for line in lines for right in _said(line, user)) - {Right(privilege="USAGE", at="*.*")}


def _said(line: str, user: str) -> Iterator[Right]:
    found = re.fullmatch(
        rf"GRANT (?P<privileges>[A-Z_ ]+(?:, [A-Z_ ]+)*) ON (?P<at>.+?) TO {re.escape(user)}(?P<rest>| .*)", line
    )
    if found is None:
        # Columns, roles, proxies: never its text, in which a password's digest may stand.
        yield Right(privilege="SOMETHING", at="what no grant names")
        return
    for privilege in found["privileges"].split(", "):
        yield Right(privilege=privilege, at=found["at"], grantable="GRANT OPTION" in found["rest"])
