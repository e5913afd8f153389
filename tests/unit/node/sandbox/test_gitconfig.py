"""git's configuration: read as git reads it, written anew, reduced."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.node.sandbox.gitconfig import Entry, emit, executes, harmless, parse, paths, without_secrets

SECRET = "hunter2-4711"


def entry(name: str, value: str | None = "x") -> Entry:
    section, _, rest = name.partition(".")
    subsection, dot, key = rest.rpartition(".")
    return Entry(section=section, subsection=subsection if dot else None, key=key, value=value)


def git_says(folder: Path, text: str) -> list[tuple[str, str | None]] | None:
    """What git itself reads in such a file; ``None`` when it refuses it."""
    file = folder / "config"
    file.write_text(text)
    done = subprocess.run(
        ["git", "config", "--null", "--list", "--file", file], capture_output=True, check=False, cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"},
    )  # fmt: skip
    if done.returncode:
        return None
    items = [item.decode().partition("\n") for item in done.stdout.split(b"\0") if item]
    return [(name, value if newline else None) for name, newline, value in items]


def as_git(entries: list[Entry]) -> list[tuple[str, str | None]]:
    return [(".".join(p for p in (e.section, e.subsection, e.key) if p is not None), e.value) for e in entries]


TEXTS = [
    "[core]\n\tbare = false\n",
    "[Core]\n\tBARE = false\n",
    '[remote "a b"]\n url = https://x/y ; comment\n',
    '[remote "a\\"b\\\\c"]\nurl=x\n',
    "[remote.Origin]\nurl=x\n",
    "[a] b = c\n",
    "[a]b\n",
    "[a]\nb =\n",
    '[a]\nb = " c # d " e # f\n',
    "[a]\nb = c\\\n d\n",
    '[a]\nb = "c\\n\\t\\\\\\"d"\n',
    "[a]\nb = c   d  \n",
    "[a]\r\nb = c\r\n",
    "# x\n; y\n[a]\nb-c = d\n",
    "\ufeff[a]\nb = c\n",
    "[a]\nb = c",
    '[includeIf "gitdir:~/x"]\npath = y\n',
    "[a]\nb = c # d\\\n e = f\n",
]


@pytest.mark.parametrize("text", TEXTS)
def test_reads_what_git_reads(tmp_path: Path, text: str) -> None:
    assert as_git(parse(text)) == git_says(tmp_path, text)


@pytest.mark.parametrize("text", TEXTS)
def test_writes_what_git_reads_the_same(tmp_path: Path, text: str) -> None:
    entries = parse(text)
    assert git_says(tmp_path, emit(entries)) == as_git(entries) and parse(emit(entries)) == entries


@pytest.mark.parametrize(
    "text",
    ["[a\nb = c\n", "[a]\n1 = b\n", "[a]\nb c\n", '[a "b]\nc = d\n', '[a]\nb = "c\n', "[a]\nb = \\x\n",
     '[a "b" x]\n', "[a b]\n", "[a_b]\nc = d\n", '[a "b\\', "[a]\nb = \\"],
)  # fmt: skip
def test_refuses_what_git_refuses(tmp_path: Path, text: str) -> None:
    assert git_says(tmp_path, text) is None or text.endswith("\\")
    with pytest.raises(ValueError):
        parse(text)


def test_a_key_without_a_section_is_refused() -> None:
    """git takes it, and nothing can come of it."""
    with pytest.raises(ValueError, match="character"):
        parse("a = b\n")


@given(st.text(alphabet='[]"\\=#; \n\tab.!', max_size=40))
def test_never_fails_otherwise(text: str) -> None:
    """What cannot be read is a ``ValueError``; what can be read comes back the same."""
    try:
        entries = parse(text)
    except ValueError:
        return
    assert parse(emit(entries)) == entries


@pytest.mark.parametrize(
    "name",
    ["core.bare", "core.repositoryformatversion", "remote.origin.fetch", "branch.main.merge", "user.name",
     "submodule.x.active", "color.ui", "color.diff.meta", "advice.detachedhead", "pull.rebase"],
)  # fmt: skip
def test_harmless_keys(name: str) -> None:
    assert harmless(entry(name))


@pytest.mark.parametrize(
    "name",
    ["core.fsmonitor", "core.hookspath", "core.sshcommand", "core.editor", "core.pager", "core.worktree",
     "core.attributesfile", "core.gitproxy", "core.askpass", "core.alternaterefscommand", "diff.external",
     "diff.x.textconv", "diff.x.command", "filter.x.clean", "filter.x.smudge", "filter.x.process", "merge.x.driver",
     "alias.status", "pager.log", "credential.helper", "credential.https://x.helper", "include.path",
     "includeif.gitdir:/.path", "remote.x.uploadpack", "remote.x.receivepack", "remote.x.proxy", "remote.x.vcs",
     "url.ext::x.insteadof", "http.proxy", "http.sslverify", "http.https://x.sslverify", "http.extraheader",
     "gpg.program", "gpg.ssh.defaultkeycommand", "sequence.editor", "uploadpack.packobjectshook", "protocol.allow",
     "protocol.ext.allow", "interactive.difffilter", "browser.x.cmd", "difftool.x.cmd", "mergetool.x.cmd", "man.x.cmd",
     "web.browser", "sendemail.smtpserver", "trailer.x.command", "tar.x.command", "submodule.x.update",
     "lfs.customtransfer.x.path", "lfs.url", "lfs.standalonetransferagent", "anything.at.all", "core.new-key",
     "init.templatedir", "receive.procreceiverefs", "maintenance.x.schedule", "guitool.x.cmd", "hook.x.command"],
)  # fmt: skip
def test_every_other_key_is_not(name: str) -> None:
    assert not harmless(entry(name, "touch /tmp/x"))


@pytest.mark.parametrize("url", ["https://x/y.git", "ssh://git@x/y", "git@x:y.git", "../x", "/srv/x.git", "origin"])
def test_urls_that_go_somewhere(url: str) -> None:
    assert not executes(url) and harmless(entry("remote.origin.url", url)) and harmless(entry("branch.m.remote", url))


@pytest.mark.parametrize("url", ["ext::sh -c 'touch x'", "fd::7", "-oProxyCommand=x", "a\nb", "transport::x"])
def test_urls_that_execute(url: str) -> None:
    assert executes(url) and not harmless(entry("remote.origin.url", url))


def test_values_count_where_they_decide() -> None:
    assert harmless(entry("submodule.x.update", "merge")) and not harmless(entry("submodule.x.update", "!evil"))
    assert not harmless(entry("remote.origin.url", None))


def test_secrets_are_left_out() -> None:
    text = f"""[remote "origin"]
        url = https://me:{SECRET}@host/x.git
        url = https://{SECRET}@host
        pushurl = ssh://git:{SECRET}@host/x.git
        url = git@host:x.git
        fetch = +refs/heads/*:refs/remotes/origin/*
[url "https://me:{SECRET}@host/"]
        insteadOf = https://host/
[http "https://host/"]
        extraheader = Authorization: basic {SECRET}
        cookiefile = {SECRET}
[credential]
        helper = "!f() {{ echo password={SECRET}; }}; f"
[sendemail]
        smtppass = {SECRET}
[github]
        oauth-token = {SECRET}
[core]
        bare
"""
    shown = emit(without_secrets(parse(text)))
    assert SECRET not in shown
    assert "ssh://git@host/x.git" in shown and '"git@host:x.git"' in shown and '"https://host/x.git"' in shown
    assert '"https://host"' in shown and "+refs/heads/*" in shown and "\tbare\n" in shown
    assert '[url "https://host/"]' in shown


def test_without_secrets_nothing_changes() -> None:
    entries = parse('[remote "origin"]\nurl = https://host/x@y\n[core]\nbare = false\n[a]\nb = x://\n')
    assert without_secrets(entries) == entries


def test_what_else_git_reads() -> None:
    text = (
        '[core]\nhooksPath = .githooks\n[include]\npath = ../x\n[includeIf "onbranch:m"]\npath = y\n[include]\npath\n'
    )
    assert paths(parse(text)) == [("hooks", ".githooks"), ("include", "../x"), ("include", "y")]
