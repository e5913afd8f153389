"""git's configuration files (git-config(1)): read, written anew, without secrets, and with harmless keys only. Pure.

No list can name every key that makes git execute something: filters, drivers and aliases have names that anybody may
choose (BOUNDARY F4). So what an agent wrote is taken over by an allow-list, and always written anew: what this parser
understands differently from git is at worst lost.
"""

from __future__ import annotations

from leasehold.core.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SPACES = " \t\r\n"
_ESCAPES = {"n": "\n", "t": "\t", "b": "\b", "\\": "\\", '"': '"'}

# Keys that at most choose between ways of git's own, with any value.
_ANY = frozenset((
    "core.repositoryformatversion", "core.filemode", "core.bare", "core.logallrefupdates", "core.ignorecase",
    "core.precomposeunicode", "core.symlinks", "core.autocrlf", "core.eol", "core.safecrlf", "core.abbrev",
    "core.compression", "core.bigfilethreshold", "core.quotepath", "core.sparsecheckout", "core.sparsecheckoutcone",
    "core.preloadindex", "core.multipackindex", "core.commitgraph", "core.untrackedcache", "core.longpaths",
    "extensions.objectformat", "extensions.refstorage", "extensions.partialclone", "extensions.noop",
    "extensions.preciousobjects", "extensions.relativeworktrees", "extensions.worktreeconfig",
    "remote.*.fetch", "remote.*.push", "remote.*.tagopt", "remote.*.prune", "remote.*.prunetags", "remote.*.promisor",
    "remote.*.partialclonefilter", "remote.*.mirror", "remote.*.skipfetchall", "remote.*.followremotehead",
    "branch.*.merge", "branch.*.rebase", "branch.*.description", "submodule.*.active", "submodule.*.branch",
    "submodule.*.ignore", "submodule.*.fetchrecursesubmodules", "submodule.*.shallow", "submodule.active",
    "user.name", "user.email", "author.name", "author.email", "committer.name", "committer.email",
    "init.defaultbranch", "pull.rebase", "pull.ff", "push.default", "push.autosetupremote", "push.followtags",
    "fetch.prune", "fetch.prunetags", "merge.ff", "merge.conflictstyle", "rebase.autostash", "rebase.autosquash",
    "rerere.enabled", "rerere.autoupdate", "commit.gpgsign", "tag.gpgsign", "commit.verbose", "gc.auto",
    "gc.autodetach", "index.version", "index.sparse", "feature.manyfiles", "feature.experimental", "advice.*",
    "color.*", "status.*", "log.date", "log.decorate", "diff.algorithm", "diff.renames", "diff.colormoved",
    "lfs.repositoryformatversion", "pack.threads", "checkout.defaultremote", "clone.defaultremotename",
))  # fmt: skip
# Where git goes: a URL or path, or the name of a remote, but no transport that executes (`ext::sh -c`).
_URLS = frozenset(("remote.*.url", "remote.*.pushurl", "submodule.*.url", "branch.*.remote", "branch.*.pushremote",
                   "remote.pushdefault"))  # fmt: skip
_UPDATES = frozenset(("checkout", "rebase", "merge", "none"))


@record
class Entry:
    """``section`` and ``key`` are in lower case; ``subsection`` is ``None`` when there is none; ``value`` is ``None``
    for a key without ``=``, which means true."""

    section: str
    subsection: str | None
    key: str
    value: str | None

    @property
    def name(self) -> str:
        """Without the subsection, for which ``*`` stands."""
        return f"{self.section}.{self.key}" if self.subsection is None else f"{self.section}.*.{self.key}"


def parse(text: str) -> list[Entry]:
    """The entries in their order; ``ValueError`` for what git would not read either."""
    return _Reader(text.removeprefix("\ufeff").replace("\r\n", "\n")).entries()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def _next(self) -> str:
        """The next character, or an empty string at the end."""
        char = self._text[self._at : self._at + 1]
        self._at += 1
        return char

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def entries(self) -> list[Entry]:
        found: list[Entry] = []
        section: str | None = None
        subsection: str | None = None
        while char := self._next():
            if char in _SPACES:
                continue
            if char in "#;":
                self._skip_line()
            elif char == "[":
                section, subsection = self._header()
            elif char.isascii() and char.isalpha() and section is not None:
                key, value = self._assignment(char)
                found.append(Entry(section=section, subsection=subsection, key=key, value=value))
            else:
                raise ValueError(f"unexpected character at {self._at}")
        return found

    def _skip_line(self) -> None:
        end = self._text.find("\n", self._at)
        self._at = len(self._text) if end < 0 else end + 1

    def _header(self) -> tuple[str, str | None]:
        name = ""
        while (char := self._next()) not in ("]", " ", "\t", ""):
            if not (char.isascii() and (char.isalnum() or char in "-.")):
                raise ValueError("a section's name")
            name += char.lower()
        if char == "]":
            section, dot, rest = name.partition(".")
            return section, rest if dot else None
        while char in (" ", "\t"):
            char = self._next()
        if char != '"':
            raise ValueError("a section's header")
        subsection = ""
        while (char := self._next()) != '"':
            if char == "\\":
                char = self._next()
            if char in ("", "\n"):
                raise ValueError("a subsection's name")
            subsection += char
        if self._next() != "]":
            raise ValueError("a section's header")
        return name, subsection

    def _assignment(self, first: str) -> tuple[str, str | None]:
        key = first
        while (char := self._peek()) and char.isascii() and (char.isalnum() or char == "-"):
            key += self._next()
        while self._peek() in (" ", "\t"):
            self._next()
        char = self._next()
        if char in ("\n", ""):
            return key.lower(), None
        if char != "=":
            raise ValueError("a key")
        return key.lower(), self._value()

    def _value(self) -> str:
        parts: list[str] = []
        spaces, quoted = "", False
        while True:
            char = self._next()
            if char in ("\n", ""):
                if quoted:
                    raise ValueError("a quote that does not end")
                return "".join(parts)
            if char in _SPACES and not quoted:
                spaces += char if parts else ""
                continue
            if char in "#;" and not quoted:
                self._skip_line()
                return "".join(parts)
            parts.append(spaces)
            spaces = ""
            if char == '"':
                quoted = not quoted
            elif char != "\\":
                parts.append(char)
            elif (escaped := self._next()) in _ESCAPES:
                parts.append(_ESCAPES[escaped])
            elif escaped != "\n":
                raise ValueError("an escape")


def emit(entries: Iterable[Entry]) -> str:
    """The text of a file with these entries and nothing else."""
    lines: list[str] = []
    last: tuple[str, str | None] | None = None
    for entry in entries:
        if (entry.section, entry.subsection) != last:
            last = entry.section, entry.subsection
            lines.append(
                f"[{entry.section}]" if entry.subsection is None else f"[{entry.section} {_subsection(entry)}]"
            )
        lines.append(f"\t{entry.key}" if entry.value is None else f"\t{entry.key} = {_quoted(entry.value)}")
    return "".join(f"{line}\n" for line in lines)


def _subsection(entry: Entry) -> str:
    return '"' + (entry.subsection or "").replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(value: str) -> str:
    for char, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\t", "\\t"), ("\b", "\\b")):
        value = value.replace(char, escape)
    return f'"{value}"'


def harmless(entry: Entry) -> bool:
    """Whether git may read this entry of a file that an agent wrote."""
    name = entry.name
    if name in _ANY or f"{entry.section}.*" in _ANY:
        return True
    if name in _URLS:
        return entry.value is not None and not executes(entry.value)
    return name == "submodule.*.update" and entry.value in _UPDATES


def executes(url: str) -> bool:
    """Whether a URL names a transport helper, or could be taken for an option."""
    scheme, colons, _ = url.partition("::")
    return url.startswith("-") or (bool(colons) and "/" not in scheme) or any(ord(char) < 32 for char in url)


def without_secrets(entries: Iterable[Entry]) -> list[Entry]:
    """The entries that an agent may read: no user information in URLs, no headers, helpers and passwords."""
    kept: list[Entry] = []
    for entry in entries:
        if entry.section == "credential" or entry.key in ("extraheader", "cookiefile", "sslkey", "sslcert"):
            continue
        if any(word in entry.key for word in ("pass", "token", "secret", "credential", "apikey")):
            continue
        kept.append(
            Entry(
                section=entry.section,
                subsection=None if entry.subsection is None else _without_user(entry.subsection),
                key=entry.key,
                value=None if entry.value is None else _without_user(entry.value),
            )
        )
    return kept


def _without_user(text: str) -> str:
    """Without the user information of each URL in it; a plain user name for ssh stays, because it is an address."""
    parts = text.split("://")
    for i, part in enumerate(parts[1:], 1):
        end = min((at for at in (part.find(char) for char in "/?# \t\n'\"") if at >= 0), default=len(part))
        user, at, host = part[:end].rpartition("@")
        if at:
            keep = user.partition(":")[0] if parts[i - 1].endswith(("ssh", "git")) else ""
            parts[i] = (f"{keep}@" if keep else "") + host + part[end:]
    return "://".join(parts)


def paths(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """(kind, path) of what git reads or executes besides: ``hooks`` folders and ``include``d files."""
    found = []
    for entry in entries:
        if entry.value and entry.name == "core.hookspath":
            found.append(("hooks", entry.value))
        elif entry.value and entry.name in ("include.path", "includeif.*.path"):
            found.append(("include", entry.value))
    return found
