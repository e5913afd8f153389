"""What clients may ask of the daemon: secrets, credentials, the audit log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from leasehold.broker.audit.model import Event, Outcome
from leasehold.wiring.following import BEHIND_MAX

from .host import Host, Scenario, a_descriptor, held


def test_a_secret_is_set_listed_and_removed_and_each_change_is_recorded(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        await host.store()
        client = host.client()
        listed = await client.ask("secret.list")
        assert [entry["name"] for entry in listed["secrets"]] == ["forge-token"]
        assert "s3cr3t" not in str(listed)
        assert await client.ask("secret.rm", name="forge-token") == {"ok": True}
        assert (await client.ask("secret.rm", name="forge-token"))["error"]["code"]
        assert [(record.event, record.fields["name"]) for record in host.records()] == [
            ("secret:set", "forge-token"),
            ("secret:removed", "forge-token"),
        ]

    run(scenario)


def test_an_operation_that_it_does_not_know_is_refused_and_the_next_answered(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        client = host.client()
        for wrong in ("unknown", "_secret_set", "task.started"):
            assert (await client.ask(wrong))["error"]["code"] == "usage"
        assert (await client.ask("secret.list"))["ok"] is True

    run(scenario)


def test_what_is_no_request_ends_the_connection_and_is_not_repeated(
    run: Callable[[Scenario], None], capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(host: Host) -> None:
        for fields in ({"name": "x"}, {"name": "x", "value_b64": "s3cr3t!"}, {"name": "x", "value_b64": 7}):
            client = host.client()
            client.tell("secret.set", **fields)
            assert await client.next() is None
        client = host.client()
        client.sock.sendall(b"\0\0\0\x06s3cr3t")
        assert await client.next() is None
        assert (await host.client().ask("secret.list"))["secrets"] == []

    run(scenario)
    said = capsys.readouterr().err
    assert said.count("client sent what is no request") == 4
    assert "s3cr3t" not in said


def test_descriptors_that_nobody_asked_for_are_closed(run: Callable[[Scenario], None], tmp_path: Path) -> None:
    async def scenario(host: Host) -> None:
        fd = a_descriptor(tmp_path)
        assert (await host.client().ask("secret.list", fd, fd))["ok"] is True
        os.close(fd)
        assert held(tmp_path) == 0

    run(scenario)


def test_credentials_are_checked_without_showing_them(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        client = host.client()
        missing = await client.ask("credential.check", config=str(host.config), name="forge")
        assert [(found["name"], bool(found["error"])) for found in missing["credentials"]] == [("forge", True)]
        await host.store()
        both = await client.ask("credential.check", config=str(host.config))
        assert [(found["name"], bool(found["error"])) for found in both["credentials"]] == [
            ("forge", False),
            ("own", True),
        ]
        assert "s3cr3t" not in str(both)

    run(scenario)


def test_the_audit_log_is_searched_verified_and_shown(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        await host.store()
        await host.store()
        client = host.client()
        page = await client.ask("audit.query", event="secret:set", limit=1)
        assert [record["seq"] for record in page["records"]] == [2]
        assert (await client.ask("audit.query", event="unknown"))["error"]["code"] == "usage"
        verified = await client.ask("audit.verify")
        assert (verified["ok"], verified["records"]) == (True, 2)
        client.tell("audit.tail", count=1)
        last = await client.next()
        assert last is not None
        assert last["record"]["seq"] == 2
        assert await client.next() is None

    run(scenario)


def test_whoever_follows_sees_each_new_record(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        await host.store()
        client = host.client()
        assert (await client.ask("audit.tail", follow=True))["record"]["seq"] == 1
        await host.store()
        record = await client.next()
        assert record is not None
        assert record["record"]["seq"] == 2

    run(scenario)


def test_whoever_follows_too_slowly_is_told_and_cut_off(run: Callable[[Scenario], None]) -> None:
    async def scenario(host: Host) -> None:
        row = {"event": Event.DAEMON_STARTED, "outcome": Outcome.DONE, "pid": 1}
        host.daemon._audit.append_many([row])
        client = host.client()
        assert (await client.ask("audit.tail", follow=True))["record"]["seq"] == 1
        host.daemon._audit.append_many([row] * (BEHIND_MAX + 1))
        for number in range(BEHIND_MAX):
            message = await client.next()
            assert message is not None
            assert message["record"]["seq"] == number + 2
        message = await client.next()
        assert message is not None
        assert message["error"]["code"] == "broker-unavailable"
        assert "records behind" in message["error"]["message"]
        assert await client.next() is None

    run(scenario)
