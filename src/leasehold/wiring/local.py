"""Broker and node together, for one person: chooses the implementations and answers the clients (DESIGN 3)."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.broker.audit.query import Filter
from leasehold.broker.identity.peer import Peer, peer_of
from leasehold.broker.issuers.builtin import make
from leasehold.broker.lease.issuing import Clocks, Issuing
from leasehold.broker.lease.ports import Ledger
from leasehold.broker.lease.sealing import Recipes
from leasehold.broker.lease.service import Leases
from leasehold.broker.vault.keys import audit_key, ledger_key, master_key
from leasehold.broker.vault.references import resolve as resolve_reference
from leasehold.broker.vault.store import Vault
from leasehold.core.config import read_operator
from leasehold.core.errors import AuditError, EgressError, LeaseholdError, LedgerError, UsageError
from leasehold.core.model import Credential
from leasehold.core.secret import Secret
from leasehold.node.egress.process import EnvoyProcess
from leasehold.node.guard import handback
from leasehold.wiring.connection import Connection
from leasehold.wiring.following import follow, tail
from leasehold.wiring.leasing import Leasing
from leasehold.wiring.plans import check_issuers, plan_task
from leasehold.wiring.tasks import Task, Tasks

_REFRESH_S = 30.0
_EXPIRE_S = 1.0
_SET_BACK_S = 5.0
_RESTART_WAIT_S = 0.2
_LEDGER = "ledger.db"
_SWEEPS_MAX = 8
_COUNTER = re.compile(
    r"^(?:http\.(?P<task>[a-z0-9]+)\.downstream_rq|tcp\.(?P<stream>[a-z0-9]+)\.downstream_cx)_total: (?P<count>\d+)$",
    re.MULTILINE,
)

Answer = dict[str, Any]


class Daemon:
    """Everything that lives as long as the daemon."""

    def __init__(self, *, state: Path, runtime: Path, clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock
        key = master_key(state)
        self._vault = Vault(state / "vault", key, clock)
        self._audit = AuditLog(state / "audit", audit_key(key), clock=clock)
        self._peers: dict[str, Peer] = {}
        self._issuing = Issuing(
            self._open_ledger,
            self._audit,
            Recipes(ledger_key(key)),
            make,
            Clocks(wall=clock, boot=_boot),
            owner=f"{os.getpid()}-{token_hex(8)}",
        )
        leases = Leases(self._audit, self._resolve, clock, self._issuing)
        self._tasks = Tasks(runtime=runtime, audit=self._audit, leases=leases, clock=clock, counter=self._count)
        self._egress = self._tasks.egress
        self._leasing = Leasing(
            self._tasks, leases, self._issuing, self._audit, (state / _LEDGER).exists, self._of_vault
        )
        self._broker_socket = runtime / "envoy-broker.sock"
        for stale in (*runtime.glob("*-*.sock"), *runtime.glob("netns-*")):
            stale.unlink()
        for folder in runtime.glob("behind-*"):
            shutil.rmtree(folder)
        self._envoy = EnvoyProcess(runtime, self._broker_socket, workers=min(2, os.cpu_count() or 1))
        self._background: set[asyncio.Task[Any]] = set()
        self._clients = 0
        self._skew = clock() - _boot()
        self.stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._operations: dict[str, Callable[[dict[str, Any]], Awaitable[Answer]]] = {
            "secret.set": self._secret_set,
            "secret.list": self._secret_list,
            "secret.rm": self._secret_rm,
            "credential.check": self._credential_check,
            "audit.query": self._audit_query,
            "audit.verify": self._audit_verify,
            "daemon.status": self._status,
            "daemon.stop": self._stop_asked,
        }

    async def start(self) -> None:
        """Open the audit log, put right what a killed run left, start Envoy. Raises when anything is missing."""
        self._audit.append(Event.DAEMON_STARTED, outcome=Outcome.DONE, pid=os.getpid())
        for report in handback.recover(self._state):
            self._audit.append(Event.HANDBACK_FOUND, outcome=Outcome.DONE, task=report.task, found=report.lines())
        await self._egress.serve(self._broker_socket)
        await self._envoy.start()
        self._spawn(self._keep_envoy())
        self._spawn(every(_EXPIRE_S, self._expire))
        self._spawn(every(_EXPIRE_S, self._renew))
        self._spawn(self._keep_leases())
        self._spawn(every(_REFRESH_S, self._egress.refresh))

    async def stop(self) -> None:
        """End every task and Envoy; close the audit log. Clients are told by the end of the process."""
        self.stopping.set()
        for task in list(self._tasks.open_tasks.values()):
            await self._tasks.close(task, reason="the broker stopped", exit_code=None)
        await self._egress.stop()
        await self._envoy.stop()
        await self._issuing.stop()
        self._audit.append(Event.DAEMON_STOPPED, outcome=Outcome.DONE, pid=os.getpid())
        self._audit.close()

    async def idle(self, after_s: float) -> None:
        """Return when no client has been connected for ``after_s`` seconds."""
        while True:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), after_s)
            except TimeoutError:
                if self._clients == 0:
                    return

    def serve(self, client: socket.socket) -> None:
        """Answer one client until it leaves."""
        self._spawn(self._client(client))

    def _spawn(self, work: Any) -> None:
        running = asyncio.create_task(work)
        self._background.add(running)
        running.add_done_callback(self._background.discard)

    async def _client(self, client: socket.socket) -> None:
        connection = Connection(client)
        self._clients += 1
        self._changed.set()
        try:
            peer = peer_of(client, os.getuid())
            while (received := await connection.receive()) is not None:
                message, fds = received
                try:
                    if not await self._asked(connection, peer, message, fds):
                        return
                finally:
                    for fd in fds:
                        os.close(fd)
        except LeaseholdError as e:
            await connection.send({"error": e.as_dict()})
        except (ValueError, KeyError, TypeError) as e:
            print(f"client sent what is no request: {type(e).__name__}", file=sys.stderr)
        finally:
            connection.close()
            self._clients -= 1
            self._changed.set()

    async def _asked(self, connection: Connection, peer: Peer, message: dict[str, Any], fds: list[int]) -> bool:
        """Do what one message asks for; False when it was the connection's last. ``fds`` stay the caller's."""
        operation = message.get("op")
        if operation == "task.open":
            await self._task(connection, peer, message, fds)
        elif operation == "audit.tail":
            await self._audit_tail(connection, message)
        elif operation == "lease.watch":
            await self._leasing.watch(connection, message)
        else:
            operations = self._operations | self._leasing.operations(peer.uid)
            await connection.send(await self._answer(operations.get(str(operation)), message))
            return True
        return False

    async def _answer(self, operation: Any, message: dict[str, Any]) -> Answer:
        if operation is None:
            return {"error": UsageError("unknown operation", hint="client and broker differ in version").as_dict()}
        try:
            answer: Answer = {"ok": True, **await operation(message)}
        except LeaseholdError as e:
            return {"error": e.as_dict()}
        return answer

    async def _task(self, connection: Connection, peer: Peer, message: dict[str, Any], fds: list[int]) -> None:
        """One launcher: its connection is the task's life line."""
        netns = fds[0] if message["mode"] == "netns" and fds else None
        task: Task | None = None
        try:
            if message["mode"] == "netns" and netns is None:
                raise UsageError("no network namespace came with the task", hint="client and broker differ in version")
            plan = plan_task(message)
            if any(credential.issuer != "static" for credential in plan.credentials):
                await asyncio.to_thread(check_issuers, plan.credentials)  # it may have to load a driver
                await self._leasing.take_stock(plan.credentials)
            task, reply = await self._tasks.open(plan, uid=peer.uid, netns_fd=netns, java=bool(message.get("java")))
            self._peers[task.id] = peer
            await connection.send(reply)
            await self._attend(connection, task)
        except LeaseholdError as e:
            await connection.send({"error": e.as_dict()})
        finally:
            if task is not None:
                await self._tasks.close(task, reason="the launcher ended", exit_code=None)
                self._peers.pop(task.id, None)
                for report in handback.recover(self._state, task=task.id):
                    self._audit.append(Event.HANDBACK_FOUND, outcome=Outcome.DONE, task=task.id, found=report.lines())

    async def _attend(self, connection: Connection, task: Task) -> None:
        """Wait for the launcher's word, the deadline or the end of access, whichever is first."""
        reading = asyncio.create_task(connection.receive())
        ended = asyncio.create_task(task.ended.wait())
        try:
            while True:
                left = max(0.0, task.deadline - self._clock())
                await asyncio.wait({reading, ended}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    if not await self._told(connection, task, reading.result()):
                        return
                    reading = asyncio.create_task(connection.receive())
                elif ended.done() or self._clock() >= task.deadline:
                    ended.cancel()
                    summary = await self._tasks.close(task, reason="expired", exit_code=None)
                    message = "the task's time is over; its access has ended"
                    await connection.send({"event": "expired", "message": message, "summary": summary})
                    await reading
                    return
        finally:
            reading.cancel()
            ended.cancel()

    async def _told(self, connection: Connection, task: Task, received: tuple[Answer, list[int]] | None) -> bool:
        """Handle one message of the launcher; False when the task is over."""
        if received is None:
            return False
        message, fds = received
        for fd in fds:
            os.close(fd)
        if message.get("op") != "task.close":
            await connection.send({"ok": True})
            return True
        for name, count in sorted(message.get("denied_names", {}).items()):
            self._tasks.look_for_canaries(task.id, str(name)[:255], str(name), int(count))
            self._audit.append(
                Event.NAME_DENIED,
                outcome=Outcome.DENIED,
                task=task.id,
                host=str(name)[:255],
                count=int(count),
            )
        found = [str(line) for line in message.get("handback", {}).get("notes", [])][:100]
        if found:
            self._audit.append(Event.HANDBACK_FOUND, outcome=Outcome.DONE, task=task.id, found=found)
        summary = await self._tasks.close(task, reason="ended", exit_code=message.get("exit_code"))
        await connection.send({"ok": True, "summary": summary})
        return False

    async def _resolve(self, task: str, reference: str) -> Secret:
        peer = self._peers.get(task)

        def variable(name: str) -> str | None:
            return _variable_of(peer, name) if peer else None

        reachable = [open_task.plan.workspace for open_task in self._tasks.open_tasks.values()]
        return await asyncio.to_thread(resolve_reference, reference, self._vault, variable, reachable)

    async def _of_vault(self, reference: str) -> Secret:
        return await asyncio.to_thread(resolve_reference, reference, self._vault, lambda _name: None)

    async def _count(self, task: str) -> int | None:
        """Envoy's own count of the task's requests and connections; ``None`` when it cannot be asked."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._envoy.admin_socket))
            query = f"/stats?filter=^(http|tcp)\\.{task}\\.downstream_(rq|cx)_total$"
            writer.write(f"GET {query} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
            body = (await asyncio.wait_for(reader.read(-1), 5)).decode(errors="replace")
            writer.close()
        except (OSError, TimeoutError):
            return None
        matches = _COUNTER.finditer(body.replace("\r", ""))
        found = [int(m["count"]) for m in matches if task in (m["task"], m["stream"])]
        return sum(found) if found else None

    async def _keep_envoy(self) -> None:
        """A dead Envoy is started again and gets everything anew: access is restored, never widened."""
        while not self.stopping.is_set():
            status = await self._envoy.wait()
            if self.stopping.is_set():
                return
            self._audit.append(Event.ENVOY_RESTARTED, outcome=Outcome.FAILED, status=status)
            for task in self._tasks.open_tasks.values():
                task.alarm = "Envoy ended while the task ran; its own counts of requests were lost"
            await asyncio.sleep(_RESTART_WAIT_S)
            try:
                await self._envoy.start()
            except (EgressError, OSError) as e:
                print(f"Envoy does not start again: {e}", file=sys.stderr)
                self.stopping.set()

    async def _keep_leases(self) -> None:
        """What earlier brokers left at providers is taken back, then whatever is due, for ever (DESIGN 6)."""
        if (self._state / _LEDGER).exists():
            # This ledger has one broker at a time, so all others have ended.
            while not await self._on_leases(self._issuing.take_over(self._clock())):
                await asyncio.sleep(_EXPIRE_S)
        sweeps: set[asyncio.Task[bool]] = set()
        while True:
            # Beside one another: one that waits for a provider, or for an intent's age, holds nothing else up.
            if len(sweeps) < _SWEEPS_MAX:
                sweep = asyncio.create_task(self._on_leases(self._issuing.sweep()))
                sweeps.add(sweep)
                sweep.add_done_callback(sweeps.discard)
            await asyncio.sleep(_EXPIRE_S)

    async def _on_leases(self, work: Awaitable[int]) -> bool:
        """Whether it was done. Without a ledger it is tried again; without an audit log nothing goes on."""
        try:
            await work
        except LedgerError as e:
            print(f"leases that are over were not taken back: {e.message}", file=sys.stderr)
            return False
        except AuditError as e:
            print(f"the end of a lease was not recorded: {e.message}", file=sys.stderr)
            self.stopping.set()
            return False
        return True

    def _open_ledger(self) -> Ledger:
        from leasehold.broker.lease.store import SqliteLedger  # it takes as long to load as all the rest

        return SqliteLedger(self._state)

    async def _expire(self) -> None:
        """Leases that are over end, within a second. A timer of each would stand still while the machine sleeps.

        The wall clock says when; against the one that nobody sets it shows whether it was set back (DESIGN 6).
        """
        skew = self._clock() - _boot()
        set_back, self._skew = self._skew - skew, skew
        try:
            if set_back > _SET_BACK_S:
                self._tasks.set_back(set_back)
                self._spawn(self._on_leases(self._issuing.sweep(set_back)))
            self._tasks.expire()
        except AuditError as e:
            # What cannot be recorded does not go on: the end of the daemon is the end of all access.
            print(f"the end of a lease was not recorded: {e.message}", file=sys.stderr)
            self.stopping.set()

    async def _renew(self) -> None:
        """Apart from expiry, which waits for no provider."""
        try:
            await self._tasks.renew()
        except AuditError as e:
            print(f"the renewal of a lease was not recorded: {e.message}", file=sys.stderr)
            self.stopping.set()

    async def _secret_set(self, message: dict[str, Any]) -> Answer:
        name = str(message["name"])
        self._vault.set(name, Secret(base64.b64decode(message["value_b64"], validate=True)))
        self._audit.append(Event.SECRET_SET, outcome=Outcome.DONE, name=name)
        return {}

    async def _secret_list(self, _message: dict[str, Any]) -> Answer:
        return {"secrets": [entry.as_dict() for entry in self._vault.list()]}

    async def _secret_rm(self, message: dict[str, Any]) -> Answer:
        name = str(message["name"])
        self._vault.remove(name)
        self._audit.append(Event.SECRET_REMOVED, outcome=Outcome.DONE, name=name)
        return {}

    async def _credential_check(self, message: dict[str, Any]) -> Answer:
        """Whether each secret can be had now, and its issuer's provider takes it; never the value."""
        operator = read_operator(Path(str(message["config"])))
        wanted = message.get("name")
        found = []
        for credential in operator.credentials:
            if wanted not in (None, credential.name):
                continue
            problem: dict[str, str] | None = None
            try:
                secret = await asyncio.to_thread(resolve_reference, credential.secret, self._vault, lambda _name: None)
                if credential.issuer != "static":
                    await _ask_provider(credential, secret)
            except LeaseholdError as e:
                problem = e.as_dict()
            found.append({"name": credential.name, "reference": credential.secret, "error": problem})
        return {"credentials": found}

    async def _audit_query(self, message: dict[str, Any]) -> Answer:
        page = await asyncio.to_thread(self._audit.query, Filter.parse(message))
        return page.as_dict()

    async def _audit_verify(self, _message: dict[str, Any]) -> Answer:
        report = await asyncio.to_thread(self._audit.verify)
        return report.as_dict()

    async def _audit_tail(self, connection: Connection, message: dict[str, Any]) -> None:
        send = follow if message.get("follow") else tail
        await send(self._audit, connection, int(message.get("count", 20)))

    async def _status(self, _message: dict[str, Any]) -> Answer:
        return {
            "pid": os.getpid(),
            "envoy_pid": self._envoy.pid,
            "tasks": [
                {
                    "task": t.id,
                    "workspace": t.plan.workspace,
                    "expires_in_s": round(t.deadline - self._clock()),
                }
                for t in self._tasks.open_tasks.values()
            ],
        }

    async def _stop_asked(self, _message: dict[str, Any]) -> Answer:
        self.stopping.set()
        return {"pid": os.getpid()}


async def every(pause_s: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do it again and again, for ever. What Envoy does not take is said, and tried again."""
    while True:
        await asyncio.sleep(pause_s)
        try:
            await work()
        except EgressError as e:
            print(f"Envoy was not brought up to date: {e.message}", file=sys.stderr)


async def _ask_provider(credential: Credential, secret: Secret) -> None:
    issuer = await asyncio.to_thread(make, credential.issuer, dict(credential.parameters), secret)
    try:
        await issuer.check()
    finally:
        await issuer.close()


def _boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _variable_of(peer: Peer, name: str) -> str | None:
    """One variable of the launcher's own environment, read when it is needed and kept nowhere (``env:``)."""
    try:
        data = Path(f"/proc/{peer.pid}/environ").read_bytes()
    except OSError:
        return None
    for entry in data.split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == name.encode():
            return value.decode()
    return None
