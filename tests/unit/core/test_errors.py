"""The form in which errors leave the broker."""

from __future__ import annotations

from leasehold.core.errors import ConfigError, LeaseholdError, SandboxError


def test_an_error_says_its_code_what_happened_and_what_helps() -> None:
    error = ConfigError("line 3 has no key", hint="add one")
    assert str(error) == error.message == "line 3 has no key"
    assert error.as_dict() == {"code": "config-invalid", "message": "line 3 has no key", "hint": "add one"}


def test_a_class_without_a_code_of_its_own_is_internal() -> None:
    assert LeaseholdError("x", hint="y").as_dict()["code"] == "internal"
    assert SandboxError("x", hint="y").code != "internal"
