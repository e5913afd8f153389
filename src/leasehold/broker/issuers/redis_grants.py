"""What a user of a task may be granted on a Redis server: a small language, and what a server says of it. Pure.

::

    ~orders:* +@read                        keys by pattern, commands by category
    %R~stock:* ~orders:* +get +set          keys to read only; commands by name
    &news.* +subscribe +client|setname      channels; a subcommand

Each text stands for itself, as a selector of its own: the commands of one do not reach the keys of another. The last
word is the server's: it says which commands a category holds, and which of them are dangerous.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from leasehold.core.toml import Wrong

Categories = Mapping[str, Collection[str]]
"""The commands of each category, as ``ACL CAT`` has them; a subcommand is ``client|setname``."""

CATEGORIES = frozenset(
    [
        "bitmap",
        "blocking",
        "connection",
        "geo",
        "hash",
        "hyperloglog",
        "keyspace",
        "list",
        "pubsub",
        "read",
        "scripting",
        "set",
        "sortedset",
        "stream",
        "string",
        "transaction",
        "write",
    ]
)
"""Not here: ``admin``, ``dangerous`` and ``all``; ``fast`` and ``slow``, which hold something of everything."""
BY_NAME = frozenset(
    [
        "client|tracking",
        "dbsize",
        "pubsub|channels",
        "pubsub|numpat",
        "pubsub|numsub",
        "pubsub|shardchannels",
        "pubsub|shardnumsub",
        "randomkey",
        "scan",
        "select",
    ]
)
"""They tell of, or reach, what the patterns of keys and channels leave out. No category brings them."""
_NEVER_GROUPS = ("acl|", "config|", "function|", "module|")
_NEVER = frozenset({"script|debug", "script|flush", "script|kill"})
_MANUAL = "docs/issuers/redis.md has the language of grants"
_PATTERN = r"[A-Za-z0-9_.:/@{}*?\[\]^-]{1,128}"
_KEYS = re.compile(rf"(?P<how>~|%R~|%W~|%RW~)(?P<pattern>{_PATTERN})")
_CHANNELS = re.compile(rf"&{_PATTERN}")
_CATEGORY = re.compile(r"\+@(?P<name>[a-z]+)")
_COMMAND = re.compile(r"\+(?P<name>[a-z][a-z0-9._-]{0,40}(?:\|[a-z][a-z0-9-]{0,40})?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One text: patterns as ACL rules write them, names of categories and of commands; each sorted."""

    keys: tuple[str, ...]
    channels: tuple[str, ...]
    categories: tuple[str, ...]
    commands: tuple[str, ...]

    def __str__(self) -> str:
        categories = (f"+@{name}" for name in self.categories)
        return " ".join((*self.keys, *self.channels, *categories, *(f"+{name}" for name in self.commands)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """A selector's meaning: every command it allows, by name."""

    keys: frozenset[str]
    channels: frozenset[str]
    commands: frozenset[str]

    def __str__(self) -> str:
        shown = sorted(self.commands)
        more = [f"and {len(shown) - 5} commands"] if len(shown) > 5 else []
        return " ".join((*sorted(self.keys | self.channels), *(f"+{name}" for name in shown[:5]), *more)) or "nothing"


NOTHING = Right(keys=frozenset(), channels=frozenset(), commands=frozenset())


def parse(text: str) -> Grant:
    """Read one text; ``Wrong`` (a ``ValueError``) for everything that is none."""
    words = text.split(" ")
    keys = [found for word in words if (found := _KEYS.fullmatch(word))]
    channels = [word for word in words if _CHANNELS.fullmatch(word)]
    categories = [found["name"] for word in words if (found := _CATEGORY.fullmatch(word.lower()))]
    commands = [found["name"] for word in words if (found := _COMMAND.fullmatch(word.lower()))]
    if len(keys) + len(channels) + len(categories) + len(commands) != len(words):
        raise Wrong(f"{text!a} is no grant that a task can have", _MANUAL)
    twice = [name for name, count in Counter([key["pattern"] for key in keys]).items() if count > 1]
    if twice or any(len({*names}) != len(names) for names in (channels, categories, commands)):
        raise Wrong("something stands there twice", "leave one out")
    if not categories and not commands:
        raise Wrong(f"{text!a} allows no command", "add one, like +@read")
    for name in categories:
        if name not in CATEGORIES:
            raise Wrong(f"+@{name} is no category for a task", f"expected of {', '.join(sorted(CATEGORIES))}")
    for name in commands:
        if name in _NEVER or f"{name}|".startswith(_NEVER_GROUPS):
            raise Wrong(f"+{name} reaches everybody", _MANUAL)
    return Grant(
        keys=tuple(sorted(f"{key['how'].replace('%RW', '')}{key['pattern']}" for key in keys)),
        channels=tuple(sorted(channels)),
        categories=tuple(sorted(categories)),
        commands=tuple(sorted(commands)),
    )


def right(grant: Grant, categories: Categories) -> Right:
    """What it stands for on a server with these categories; ``Wrong`` for a command that is none, or is dangerous."""
    everything, unfit = _all(categories), _unfit(categories)
    for name in grant.commands:
        if name in unfit:
            raise Wrong(f"+{name} is dangerous, says the server", _MANUAL)
        if name not in everything:
            raise Wrong(f"+{name} is no command of the server, or a group of them", "name the subcommand")
    allowed = _of(grant, categories) - unfit - BY_NAME
    return Right(
        keys=frozenset(grant.keys), channels=frozenset(grant.channels), commands=allowed | frozenset(grant.commands)
    )


def rules(grant: Grant, categories: Categories) -> str:
    """The selector for ``ACL SETUSER``. What a category has and the task must not is taken out by name."""
    without = _of(grant, categories) & (_unfit(categories) | BY_NAME)
    return " ".join(
        (
            "(-@all",
            *grant.keys,
            *grant.channels,
            *(f"+@{name}" for name in grant.categories),
            *(f"-{name}" for name in sorted(without - frozenset(grant.commands))),
            *(f"+{name}" for name in grant.commands),
        )
    ) + ")"  # fmt: skip


def described(fields: Mapping[str, str], categories: Categories) -> Right:
    """What a server says of a selector, or of a user's own rules: the meaning, however it is written."""
    everything = _all(categories)
    allowed: set[str] = set()
    for word in fields["commands"].split():
        sign, name = word[0], word[1:]
        named = {command for command in everything if f"{command}|".startswith(f"{name}|")}
        if name.startswith("@"):
            named = {*everything} if name == "@all" else {*categories[name[1:]]} & everything
        allowed = allowed | named if sign == "+" else allowed - named
    return Right(
        keys=frozenset(fields["keys"].split()),
        channels=frozenset(fields["channels"].split()),
        commands=frozenset(allowed),
    )


def _all(categories: Categories) -> frozenset[str]:
    """Every command; of one with subcommands, these."""
    named = frozenset[str]().union(*categories.values())
    return named - {name.partition("|")[0] for name in named if "|" in name}


def _of(grant: Grant, categories: Categories) -> frozenset[str]:
    named = frozenset[str]().union(*(categories.get(name, ()) for name in grant.categories))
    return named & _all(categories)


def _unfit(categories: Categories) -> frozenset[str]:
    """What no task gets: what the server itself calls dangerous or administrative, and what changes others' code."""
    more = {name for name in _all(categories) if name.startswith(_NEVER_GROUPS)}
    return frozenset(more | _NEVER).union(categories["admin"], categories["dangerous"])
