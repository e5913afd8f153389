"""Issuers that packages bring: found by name, made behind the same door, and named when they are broken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fakes.packages import installed
from leasehold.broker.issuers.builtin import BUILTIN, make
from leasehold.broker.issuers.checked import CheckedIssuer
from leasehold.broker.issuers.plugins import GROUP
from leasehold.core.errors import ConfigError
from leasehold.core.secret import Secret

SECRET = Secret(b"the-administrative-one")
SOUND = """
from leasehold.broker.lease.machine import Revocability

class Issuer:
    kind = "clay"
    revocability = Revocability.NOW
    scope = frozenset({"pots"})
    def __init__(self, pots):
        self.pots = pots
    async def check(self): ...
    async def issue(self, order): ...
    async def revoke(self, name, kept=None): ...
    async def find(self): ...
    async def close(self): ...

def make(parameters, secret):
    return Issuer(parameters.some("pots", str))
"""
POTS = {"pots": ["red"]}
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    """Installs a package with one module, for the length of a test."""
    with ExitStack() as stack:

        def one(code: str = SOUND, *kinds: str, package: str = "potter") -> None:
            module = f"module_{package}"
            folder = tmp_path / package
            folder.mkdir()
            (folder / f"{module}.py").write_text(code)
            points = dict.fromkeys(kinds or ("clay",), f"{module}:make")
            stack.enter_context(installed(folder, package, "1.2", {GROUP: points}))
            stack.callback(sys.modules.pop, module, None)

        yield one


def refused(kind: str = "clay") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        make(kind, POTS, SECRET)
    error = caught.value
    assert error.hint
    assert error.__context__ is None
    return error


def test_it_comes_behind_the_door(install: Install) -> None:
    assert "no issuer clay" in refused().message
    install()
    issuer = make("clay", POTS, SECRET)
    assert isinstance(issuer, CheckedIssuer)
    assert (issuer.kind, issuer.scope) == ("clay", {"pots"})


def test_its_parameters_are_read_as_strictly(install: Install) -> None:
    install()
    for parameters, said in (({**POTS, "pts": 1}, "pts: unknown key"), ({"pots": 1}, "pots: expected a list")):
        with pytest.raises(ConfigError) as caught:
            make("clay", parameters, SECRET)
        assert caught.value.message.startswith(f"issuer(clay): {said}")


def test_what_nobody_configures_is_never_imported(install: Install) -> None:
    install("raise SystemExit('imported')")
    install(SOUND.replace('"clay"', '"wood"'), "wood", package="carver")
    assert make("wood", POTS, SECRET).kind == "wood"
    assert "module_potter" not in sys.modules
    assert "potter 1.2 cannot be loaded: SystemExit" in refused().message


@pytest.mark.parametrize("kind", ["redis", "static", "oidc", "rabbitmq"])
def test_none_stands_in_for_what_is_our_own(install: Install, kind: str) -> None:
    """Also not for one that this version has no code for."""
    install("raise SystemExit('imported')", kind)
    if kind in BUILTIN:
        with pytest.raises(ConfigError, match="is missing"):
            make(kind, {}, SECRET)
    else:
        assert refused(kind).message == f"there is no issuer {kind}"


def test_a_package_that_tries_is_refused_altogether(install: Install) -> None:
    install(SOUND, "clay", "redis")
    error = refused()
    assert "potter 1.2" in error.message
    assert "redis" in error.message


def test_two_packages_of_one_kind_are_both_named(install: Install) -> None:
    install()
    install(package="other-potter")
    assert "other-potter 1.2 and potter 1.2 both" in refused().message


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_library", "cannot be loaded: ModuleNotFoundError (no_such_library is missing)"),
        ("def make(:", "cannot be loaded: SyntaxError"),
        ("", "cannot be loaded: AttributeError"),
        ("raise KeyboardInterruptOfItsOwn", "cannot be loaded: NameError"),
        ("make = 5", "cannot make its issuer: TypeError"),
        ("def make(parameters, secret): raise OSError(secret.reveal())", "cannot make its issuer: OSError"),
        ("def make(parameters, secret): return None", "cannot make its issuer: AttributeError"),
        (SOUND.replace('kind = "clay"', 'kind = "redis"'), "an issuer of another kind"),
        (SOUND.replace("Revocability.NOW", "'now'"), "does not say what revoking does"),
        (SOUND.replace("Revocability.NOW", "Revocability.STOPS_BEING_INJECTED"), "does not say what revoking does"),
        (SOUND.replace("frozenset({", "set({"), "does not say what it grants"),
        (SOUND.replace('frozenset({"pots"})', "frozenset({5})"), "does not say what it grants"),
        (SOUND.replace("async def revoke", "def revoke"), "an issuer without async def revoke"),
        (SOUND.replace("async def find(self): ...", ""), "an issuer without async def find"),
    ],
)
def test_a_broken_one_is_named_with_its_package(install: Install, code: str, said: str) -> None:
    install(code)
    error = refused()
    assert error.message.startswith("issuer(clay): the package potter 1.2 ")
    assert said in error.message
    assert SECRET.reveal().decode() not in f"{error!r} {vars(error)}"


def test_a_library_that_it_needs_later_is_named(install: Install) -> None:
    install("def make(parameters, secret): import no_such_library")
    error = refused()
    assert error.message == "issuer(clay): the package no_such_library is not installed"


def test_one_without_a_package_is_named_by_its_module(install: Install) -> None:
    """Nothing but an entry point says where it is from."""
    from importlib.metadata import EntryPoint

    from leasehold.broker.issuers.plugins import _package

    assert _package(EntryPoint("clay", "module_potter:make", GROUP)) == "module_potter"
