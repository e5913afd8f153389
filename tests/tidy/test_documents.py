"""What is written for people is true: named tests, pages and files exist, help texts are the real ones."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from leasehold.core import errors
from leasehold.inside import agent
from leasehold.node.egress import replies
from tidy.sources import ROOT, assert_none, files, name, python, text, tree

DOCS = ROOT / "docs"
PAGES = [path for path in files() if path.suffix == ".md"]
_TEST = re.compile(r"(tests/[\w/.-]+\.py)(?:::(\w+(?:::\w+)?))?")
_CODE = re.compile(r"[a-z]+(?:-[a-z]+)*\Z")


def functions(path: Path) -> set[str]:
    """The tests of a file, as ``name`` and ``Class::name``."""
    found = set()
    for node in tree(path).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = [item.name for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))]
            found |= {node.name, *(f"{node.name}::{item}" for item in inner)}
    return found


def untrue(page: str) -> list[str]:
    """Tests that a page names and that do not exist."""
    wrong = []
    for match in _TEST.finditer(page):
        path = ROOT / match[1]
        if not path.is_file() or (match[2] and match[2] not in functions(path)):
            wrong.append(match[0])
    return wrong


def test_the_threat_model_names_tests() -> None:
    page = text(DOCS / "threat-model.md")
    assert len(set(_TEST.findall(page))) > 10, "each row names the test that holds its control"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_named_test_exists(page: Path) -> None:
    assert_none(untrue(text(page)))


def test_a_test_that_does_not_exist_is_noticed() -> None:
    this = name(Path(__file__))
    assert untrue(f"`{this}::test_a_test_that_does_not_exist_is_noticed`") == []
    assert untrue(f"{this} and {this}::test_gone and tests/gone.py") == [f"{this}::test_gone", "tests/gone.py"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(
        r"\]\((?!https?://|#|mailto:)([^)#\s]+)", re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)
    )
    assert_none(target for target in targets if not (page.parent / target).exists())


def codes() -> set[str]:
    """Every code that a person, a program or an agent can meet."""
    found = _scripted() | {errors.LeaseholdError.code, *(kind.code for kind in errors.LeaseholdError.__subclasses__())}
    found |= {*replies._TEXTS, *(row[1] for row in (*replies._BY_FLAG, *replies._BY_STATUS))}
    for path in python("src"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                found |= {c for k in node.keywords if k.arg == "code" for c in _constants(k.value)}
            elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "code" for t in node.targets):
                found |= _constants(node.value)
            elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == "code":
                found |= {c for side in node.comparators for c in _constants(side)}
    return found


def _scripted() -> set[str]:
    """The codes of the scrubber's answers."""
    scripts = "".join(text(path) for path in files() if path.suffix == ".lua")
    return set(re.findall(r'(?:refuse\([^,"]+, |error_body\()"([a-z-]+)"', scripts))


def _constants(node: ast.expr) -> set[str]:
    if isinstance(node, ast.IfExp):
        return _constants(node.body) | _constants(node.orelse)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and _CODE.match(node.value):
        return {node.value}
    return set()


def test_every_code_has_its_page_and_every_page_its_code() -> None:
    pages = {path.stem for path in (DOCS / "errors").iterdir()}
    assert_none(f"{code}: no page" for code in codes() - pages)
    assert_none(f"{code}: no such code" for code in pages - codes())


def test_what_sends_an_agent_to_explain_is_explained() -> None:
    rows = (*replies._BY_FLAG, *replies._BY_STATUS)
    found = (*_scripted(), *replies._TEXTS, *(row[1] for row in rows))
    assert_none(code for code in found if code not in agent._WHY)


def test_every_page_of_a_code_says_when_shows_it_and_says_what_to_do() -> None:
    for path in sorted((DOCS / "errors").iterdir()):
        page = text(path)
        assert page.startswith(f"# {path.stem}\n\n"), name(path)
        assert page.count("```") == 2, name(path)
        assert "\nWhat to do:\n\n- " in page, name(path)
        shown = page.split("```")[1]
        assert f"error: {path.stem}: " in shown or f'"code": "{path.stem}"' in shown, name(path)


def helps(page: str) -> list[tuple[list[str], str]]:
    """The ``$ leasehold … --help`` of a page's console blocks: arguments, and what is shown below."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE):
            program, *arguments = command.split()
            if program.rpartition("/")[2] == "leasehold" and "--help" in arguments:
                found.append((arguments, shown))
    return found


def test_help_texts_are_the_real_ones() -> None:
    """The README shows at least the first one."""
    blocks = [block for page in PAGES for block in helps(text(page))]
    assert ["--help"] in [arguments for arguments, _ in helps(text(ROOT / "README.md"))]
    for arguments, shown in blocks:
        done = subprocess.run(
            [sys.executable, "-m", "leasehold", *arguments],
            env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.rstrip() == done.stdout.rstrip(), arguments


def test_a_help_text_is_found_in_its_block() -> None:
    page = "```console\n$ ls\nx\n$ .venv/bin/leasehold run --help\nusage: a\n\nb\n$ leasehold run\n```\n"
    assert helps(page) == [(["run", "--help"], "usage: a\n\nb\n")]


def test_the_changelog_begins_with_what_is_unreleased_and_with_security() -> None:
    sections = re.findall(r"^(##+) (.*)$", text(ROOT / "CHANGELOG.md"), flags=re.MULTILINE)
    assert sections[:2] == [("##", "Unreleased"), ("###", "Security")]


def test_the_licence_is_there() -> None:
    licence = text(ROOT / "LICENSE")
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
    assert 'license = { text = "Apache-2.0" }' in text(ROOT / "pyproject.toml")
