"""Tasks on one host: from a launcher's request to a live compartment, and to its end (DESIGN 4)."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leasehold.broker.audit.log import AuditLog
from leasehold.broker.audit.model import Event, Outcome
from leasehold.broker.audit.rules import redact_target
from leasehold.broker.lease.machine import State
from leasehold.broker.lease.model import Lease, Refusal
from leasehold.broker.lease.service import Leases
from leasehold.core.errors import AuditError, GrantRefused, LeaseholdError
from leasehold.core.model import STREAM_PORTS, Credential, InjectAws, InjectBasic, Rule, TaskPlan
from leasehold.core.secret import Secret
from leasehold.node.egress import metadata
from leasehold.node.egress.certificates import CompartmentCA
from leasehold.node.egress.model import Denied, Leaf, Listen, Released, Upstream, upstreams
from leasehold.node.egress.ports import Use
from leasehold.node.egress.replies import describe
from leasehold.node.egress.scrub import secret_header_value
from leasehold.node.egress.service import Egress
from leasehold.node.egress.ssh_agent import Identity, SshAgent, host_key_blobs
from leasehold.node.egress.usage import ANSWERED
from leasehold.node.guard.canaries import new_canary
from leasehold.node.sandbox.environment import EXPOSED
from leasehold.wiring.resolver import resolve

_REASONS = {
    "deny: rule": "no rule allows it",
    "deny: host": "this host may not be reached like this",
    "deny: metadata": "no instance of AWS is there, only placeholders for SDKs",
    "deny: override": "a header changes the method or the path",
    "connection: unknown name": "not a known host: allow it under [hosts]",
    "closed": "the credential's time in the task was over (max_ttl), or the operator revoked it",
}
_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
_SYNTHETIC = ipaddress.ip_address("198.18.0.2")
_RECONCILE_S = 3.0
_RETIRE_S = 5.0
_SSH_PORT = STREAM_PORTS["ssh"]


@dataclass(slots=True)
class Task:
    """One open task, as the daemon knows it. Times are Unix seconds."""

    id: str
    plan: TaskPlan
    uid: int
    opened: float
    deadline: float
    netns_fd: int | None
    sockets: dict[int, str] = field(default_factory=dict)
    streams: dict[tuple[str, int], str] = field(default_factory=dict)
    upstreams: dict[str, Upstream] = field(default_factory=dict)
    canaries: dict[str, str] = field(default_factory=dict)
    used: Counter[str] = field(default_factory=Counter)
    first_use: dict[str, float] = field(default_factory=dict)
    expired: dict[str, float] = field(default_factory=dict)
    denied: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    end_reason: str = ""
    alarm: str = ""
    exposed: list[str] = field(default_factory=list)
    agent: SshAgent | None = None


class Tasks:
    """Opens and closes tasks; the egress asks it (``Authority``) and tells it what was used (``UsageSink``)."""

    def __init__(
        self, *, runtime: Path, audit: AuditLog, leases: Leases, clock: Callable[[], float], counter: Any
    ) -> None:
        self._runtime = runtime
        self._audit = audit
        self._leases = leases
        self._clock = clock
        self._counter = counter
        self.egress = Egress(self, self, runtime)
        self.open_tasks: dict[str, Task] = {}
        self._closing: dict[str, Task] = {}
        self._background: set[asyncio.Task[Any]] = set()

    async def open(self, plan: TaskPlan, *, uid: int, netns_fd: int | None, java: bool) -> tuple[Task, dict[str, Any]]:
        """Steps 2 and 4: the task is recorded, its snapshot is built and acknowledged. Returns it and the reply.

        ``netns_fd`` stays the caller's, who keeps it open until the task is closed.
        """
        now = self._clock()
        rules = _rules(plan)
        ports = _ports([rule for _, rule in rules])
        task = Task(
            id=self._new_id(),
            plan=plan,
            uid=uid,
            opened=now,
            deadline=now + plan.ttl_s,
            netns_fd=netns_fd,
        )
        task.upstreams = {upstream.name: upstream for upstream in upstreams(task.id, rules)}
        names = sorted({rule.host for _, rule in rules})
        addresses = {name: str(_SYNTHETIC + i) for i, name in enumerate(names)}
        hosts = sorted({(rule.host, rule.port) for _, rule in rules if rule.is_stream})
        if netns_fd is None:
            task.sockets = {port: str(self._runtime / f"{task.id}-{port}.sock") for port in ports}
            task.streams = {at: str(self._runtime / f"{task.id}-s{i}.sock") for i, at in enumerate(hosts)}
        authority = CompartmentCA.create(names, datetime.datetime.fromtimestamp(now, datetime.UTC), plan.ttl_s)
        leaves = {name: Leaf(chain=chain, key=key) for name in names for chain, key in [authority.leaf(name)]}
        self._audit.append(
            Event.TASK_OPENED,
            outcome=Outcome.ALLOWED,
            task=task.id,
            agent_class=plan.agent_class.value,
            uid=uid,
            purpose=plan.purpose,
            profile=plan.profile,
            workspace=plan.workspace,
            ttl_s=plan.ttl_s,
            credentials=[credential.name for credential in plan.credentials],
        )
        self.open_tasks[task.id] = task
        self._leases.open(task.id, plan.agent_class, task.deadline)
        listen = Listen(netns=self._namespace(task), sockets=task.sockets, addresses=addresses, streams=task.streams)
        try:
            await self.egress.open(
                task.id, listen, ports, list(task.upstreams.values()), leaves, plan.network.upstream_ca
            )
        except BaseException:
            await self.close(task, reason="did not start", exit_code=None)
            raise
        try:
            await self._start_agent(task)
            variables, files = await self._exposed(task)
        except BaseException:
            await self.close(task, reason="did not start", exit_code=None)
            raise
        task.canaries = {p.variable: new_canary(p.prefix) for p in plan.placeholders}
        reply = self._reply(task, addresses, ports, authority, java)
        exposed = {"exposed": {**_aws_variables(task.plan), **variables}, "exposed_files": files}
        return task, {**reply, **exposed, "ssh": self._ssh(task)}

    async def _exposed(self, task: Task) -> tuple[dict[str, str], dict[str, str]]:
        """Variables and files with credentials of the task's own, which it was started to have."""
        variables: dict[str, str] = {}
        files: dict[str, str] = {}
        for name in task.plan.exposed:
            credential = _credential(task, name)
            lease = await self._leases.expose(task.id, credential)
            if isinstance(lease, Refusal):
                raise GrantRefused(lease.message, hint=lease.hint)
            for variable, where in credential.expose:
                part = where.removeprefix("file:")
                if part not in lease.material:
                    parts = ", ".join(sorted(lease.material))
                    raise GrantRefused(f"{name} has no part {part}", hint=f"expose one of {parts}")
                value = lease.material[part].reveal().decode()
                variables[variable] = value
                if where != part:
                    variables[variable] = f"{EXPOSED}/{variable}"
                    files[variables[variable]] = value
            task.exposed.append(name)
        return variables, files

    async def close(self, task: Task, *, reason: str, exit_code: int | None) -> dict[str, Any]:
        """Step 9: deny, cut, forget, reconcile, record. Returns the summary; safe to call once more."""
        if self.open_tasks.pop(task.id, None) is None:
            return {}
        # Its last uses are still on their way from Envoy.
        self._closing[task.id] = task
        task.end_reason = reason
        task.ended.set()
        if task.agent is not None:
            task.agent.close()
        total = await self._counter(task.id)
        self.egress.close(task.id)
        leases = self._leases.close(task.id)
        ended = await self._leases.take_back(leases)
        for path in (*map(Path, (*task.sockets.values(), *task.streams.values())), self._namespace_path(task)):
            path.unlink(missing_ok=True)
        await self._reconcile(task, total)
        for (method, _, _, reason), count in task.denied.items():
            if method == "SIGN" and count > 1:
                self._record_refused(task.id, reason, count - 1)
        del self._closing[task.id]
        summary = self._summary(task, leases, ended, exit_code)
        self._audit.append(
            Event.TASK_CLOSED,
            outcome=Outcome.FAILED if task.alarm else Outcome.DONE,
            task=task.id,
            reason=reason,
            exit_code=exit_code,
            requests=sum(task.used.values()),
            denied=sum(task.denied.values()),
        )
        return summary

    def expire(self) -> None:
        """Step 9 for what ends before its task: cut first, then record. ``AuditError`` when it cannot be recorded."""
        now = self._clock()
        for lease in self._leases.expired(now):
            task = self.open_tasks.get(lease.task)
            if task is None:
                continue  # it is being closed
            over = now >= lease.until
            self.egress.end(task.id, lease.credential, for_good=over)
            if over:
                task.expired[lease.credential] = now
                self._leases.end(lease, _credential(task, lease.credential))
            else:
                self._leases.lapse(lease)
                self._spawn(self._leases.take_back([lease]))

    def set_back(self, seconds: float) -> None:
        """The clock was set back: nobody knows any more when what is live was to end, so all of it ends now."""
        self._audit.append(Event.CLOCK_SET_BACK, outcome=Outcome.DONE, seconds=round(seconds))
        for lease, over in self._leases.held():
            if not over:
                self.revoke(lease.task, lease.credential, "ended because the clock was set back")
                self._spawn(self._leases.take_back([lease]))

    def revoke(self, task_id: str, credential: str, why: str = "revoked by the operator") -> None:
        """End a credential in a task: cut at once, and nothing more is issued to it.

        Recording it, and what is at a provider, are the caller's.
        """
        self.egress.end(task_id, credential)
        self._leases.revoke(task_id, credential, why)
        task = self.open_tasks.get(task_id)
        if task is not None:
            task.expired.setdefault(credential, self._clock())

    async def renew(self) -> None:
        """Replace what ends before its task does, while what is under way goes on; ``AuditError`` as in ``expire``."""
        await asyncio.gather(*(self._renew(lease) for lease in self._leases.renewable(self._clock())))

    async def _renew(self, old: Lease) -> None:
        task = self.open_tasks.get(old.task)
        if task is None:
            return
        try:
            new = await self._leases.renew(old, _credential(task, old.credential))
            if new is None:
                return
            for upstream in task.upstreams.values():
                if upstream.credential == old.credential:
                    await self.egress.replace(task.id, upstream.name, _delivered(upstream, new))
        except AuditError:
            raise
        except LeaseholdError as e:
            print(f"{old.credential} of {old.task} was not renewed: {e.message}", file=sys.stderr, flush=True)
            return
        self._spawn(self._retire(old))

    async def _retire(self, old: Lease) -> None:
        await asyncio.sleep(_RETIRE_S)  # a request that is on its way has the old one
        await self._leases.take_back([old])

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        running = asyncio.create_task(work)
        self._background.add(running)
        running.add_done_callback(self._background.discard)

    async def first_use(self, task: str, upstream: Upstream) -> Released | Denied:
        """Step 6, for :class:`~leasehold.node.egress.ports.Authority`."""
        found = self.open_tasks.get(task)
        if found is None:
            return Denied(code="access-ended", message="The task has ended.", hint="Start a new one.")
        secret: Secret | None = None
        username = ""
        if upstream.credential is not None:
            credential = _credential(found, upstream.credential)
            answer = await self._leases.first_use(task, credential)
            if isinstance(answer, Refusal):
                status = 503 if answer.failed else 403
                return Denied(code=answer.code, message=answer.message, hint=answer.hint, status=status)
            username = answer.username
            secret = _delivered(upstream, answer)
            found.first_use.setdefault(credential.name, self._clock())
        addresses = await self.addresses(upstream)
        if not addresses:
            return Denied(
                code="upstream-address-refused",
                message=f"{upstream.destination.host} has no address that may be dialled.",
                hint="It does not resolve, or only to private addresses: name it under [network] allow_private.",
                status=503,
            )
        return Released(addresses=addresses, secret=secret, username=username)

    async def addresses(self, upstream: Upstream) -> Sequence[str]:
        """For :class:`~leasehold.node.egress.ports.Authority`."""
        task = self.open_tasks.get(upstream.name.partition("/")[0])
        if task is None:
            return ()
        return await resolve(upstream.destination.host, upstream.destination.port, task.plan.network)

    async def identities(self, task: str, host_key: bytes) -> Sequence[Identity]:
        """For :class:`~leasehold.node.egress.ssh_agent.Identities`: a first use too, also before a connection."""
        found = self.open_tasks.get(task)
        made = []
        for credential in found.plan.credentials if found else ():
            keys = host_key_blobs(key for rule in credential.endpoints for key in rule.host_keys)
            if found is None or not keys or (host_key and host_key not in keys):
                continue
            lease = await self._leases.first_use(task, credential)
            if isinstance(lease, Refusal):
                continue  # recorded where it was decided; another credential may do
            found.first_use.setdefault(credential.name, self._clock())
            certificate = lease.material["certificate"].reveal()
            made.append(Identity(certificate=certificate, private_key=lease.material["private_key"], host_keys=keys))
        return made

    def refused(self, task: str, reason: str) -> None:
        """For :class:`~leasehold.node.egress.ssh_agent.Identities`: recorded at once, and counted until the end."""
        found = self.open_tasks.get(task)
        if found is None:
            return
        found.denied[("SIGN", "ssh agent", "", reason)] += 1
        if found.denied[("SIGN", "ssh agent", "", reason)] == 1:
            self._record_refused(task, reason, 1)

    def _record_refused(self, task: str, reason: str, count: int) -> None:
        now = self._clock()
        self._audit.append(
            Event.REQUEST_DENIED,
            outcome=Outcome.DENIED,
            task=task,
            reason=reason,
            host="",
            method="SIGN",
            target="",
            status=0,
            count=count,
            first=now,
            last=now,
            received=0,
            sent=0,
        )

    async def _start_agent(self, task: Task) -> None:
        if any(rule.host_keys for credential in task.plan.credentials for rule in credential.endpoints):
            task.agent = SshAgent(task.id, self)
            await task.agent.start(self._agent_path(task))

    def _agent_path(self, task: Task) -> Path:
        return self._runtime / f"{task.id}-ssh.sock"

    def _ssh(self, task: Task) -> dict[str, str] | None:
        """What a client in the compartment needs: the agent, and the keys of the hosts."""
        if task.agent is None:
            return None
        lines = [
            f"{rule.host if rule.port == _SSH_PORT else f'[{rule.host}]:{rule.port}'} {key}\n"
            for credential in task.plan.credentials
            for rule in credential.endpoints
            for key in rule.host_keys
        ]
        return {"agent": str(self._agent_path(task)), "known_hosts": "".join(lines)}

    def record(self, uses: Sequence[Use]) -> None:
        """For :class:`~leasehold.node.egress.ports.UsageSink`: audit first, then count."""
        self._audit.append_many([_event(use, self._upstream(use)) for use in uses])
        for use in uses:
            self.look_for_canaries(use.task, use.host, f"{use.host} {use.target}", use.count)
            task = self._known(use.task)
            if task is None:
                continue
            upstream = self._upstream(use)
            if upstream is not None and not use.reason:
                task.used[upstream.credential or upstream.destination.host] += use.count
            elif use.reason != ANSWERED:
                reason = _REASONS.get(use.reason) or _REASONS.get(use.reason.partition(":")[0], use.reason)
                task.denied[(use.method, use.host, redact_target(use.target), reason)] += use.count

    def look_for_canaries(self, task: str, host: str, text: str, count: int) -> None:
        """A placeholder in a name or a target is where nobody puts a key by mistake: recorded, and an alarm."""
        found = self._known(task)
        for variable, value in found.canaries.items() if found else ():
            if found is not None and value.lower() in text.lower():
                found.alarm = f"the placeholder in {variable} was sent in a request's target or as a name"
                self._audit.append(
                    Event.CANARY_SEEN,
                    outcome=Outcome.DONE,
                    task=task,
                    name=variable,
                    place="target",
                    host=host,
                    count=count,
                )

    def _upstream(self, use: Use) -> Upstream | None:
        task = self._known(use.task)
        return task.upstreams.get(use.upstream) if task else None

    def _known(self, task: str) -> Task | None:
        return self.open_tasks.get(task) or self._closing.get(task)

    async def _reconcile(self, task: Task, total: int | None) -> None:
        """Every request that Envoy counted must have come as a record; a missing one is an alarm."""
        usage = self.egress.usage
        until = self._clock() + _RECONCILE_S
        while total is not None and usage.counts[task.id] < total and self._clock() < until:
            await asyncio.sleep(0.02)
        seen = usage.counts.pop(task.id, 0)
        if total is None or seen < total:
            task.alarm = f"Envoy counted {'?' if total is None else total} requests, {seen} were recorded"
            self._audit.append(Event.USAGE_MISMATCH, outcome=Outcome.FAILED, task=task.id, counted=total, recorded=seen)

    def _namespace(self, task: Task) -> str | None:
        """A path of the task's own to its network namespace.

        Envoy compares listen addresses as text and takes over the sockets of a listener that is just draining. The
        number of a descriptor is used again, so by ``/proc/PID/fd/N`` a new task could get an old one's namespace.
        """
        if task.netns_fd is None:
            return None
        path = self._namespace_path(task)
        path.symlink_to(f"/proc/{os.getpid()}/fd/{task.netns_fd}")
        return str(path)

    def _namespace_path(self, task: Task) -> Path:
        return self._runtime / f"netns-{task.id}"

    def _new_id(self) -> str:
        while True:
            name = "".join(secrets.choice(_ALPHABET) for _ in range(6))
            if name not in self.open_tasks:
                return name

    def _reply(
        self, task: Task, addresses: Mapping[str, str], ports: Mapping[int, str], authority: CompartmentCA, java: bool
    ) -> dict[str, Any]:
        import base64

        plan = task.plan
        return {
            "ok": True,
            "task": task.id,
            "names": addresses,
            "ports": list(ports),
            "sockets": {str(port): path for port, path in task.sockets.items()},
            "streams": [[addresses[host], port, path] for (host, port), path in task.streams.items()],
            "ca_pem": authority.pem.decode(),
            "truststore_b64": base64.b64encode(authority.truststore()).decode() if java else None,
            "placeholders": task.canaries,
            "expires_in_s": plan.ttl_s,
            "class": plan.agent_class.value,
            "grants": [
                {
                    "name": c.name,
                    "role": c.role.value,
                    "environment": c.environment.value,
                    "lines": [describe(rule) for rule in c.endpoints],
                    "when": "on first use",
                }
                for c in plan.credentials
            ],
            "hosts": [describe(rule) for rule in plan.hosts],
            "sandbox": {
                "hide": plan.sandbox.hide,
                "read_only": plan.sandbox.read_only,
                "tools": plan.sandbox.tools,
                "env": plan.sandbox.env,
            },
        }

    def _summary(
        self, task: Task, leases: Sequence[Lease], ended: Mapping[str, State], exit_code: int | None
    ) -> dict[str, Any]:
        now = self._clock()
        leased = {lease.credential: lease.revocability.value for lease in leases}
        return {
            "task": task.id,
            "class": task.plan.agent_class.value,
            "exit_code": exit_code,
            "reason": task.end_reason,
            "duration_s": round(now - task.opened, 3),
            "credentials": [
                {
                    "name": c.name,
                    "requests": task.used[c.name],
                    "first_use": task.first_use.get(c.name),
                    "ended": task.expired.get(c.name, now),
                    "revocability": leased.get(c.name, "never-issued"),
                    "lease": ended[c.name].value if c.name in ended else None,
                }
                for c in task.plan.credentials
            ],
            "hosts": [
                {"host": host, "requests": task.used[host]} for host in sorted({rule.host for rule in task.plan.hosts})
            ],
            "denied": [
                {"method": method, "host": host, "path": path, "reason": reason, "count": count}
                for (method, host, path, reason), count in task.denied.most_common(50)
            ],
            "alarm": task.alarm,
            "secrets_exposed": len(task.exposed),
            "exposed": task.exposed,
        }


def _delivered(upstream: Upstream, lease: Lease) -> Secret:
    """The lease's secret in the form in which this upstream gets it."""
    if upstream.destination.is_stream:
        return lease.secret
    inject = upstream.inject
    if inject is None:
        raise GrantRefused(f"{lease.credential} has no way of delivery", hint="add inject to its endpoint")
    if isinstance(inject, InjectAws):
        return lease.secret
    if lease.username and isinstance(inject, InjectBasic):
        inject = InjectBasic(username=lease.username)
    return secret_header_value(inject, lease.secret)


def _aws_variables(plan: TaskPlan) -> dict[str, str]:
    """What SDKs want before they send anything; none of it is a secret, and all of it is replaced outside."""
    regions = [
        rule.inject.region for c in plan.credentials for rule in c.endpoints if isinstance(rule.inject, InjectAws)
    ]
    if not regions:
        return {}
    return {
        "AWS_ACCESS_KEY_ID": metadata.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": metadata.SECRET_KEY,
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": metadata.CONTAINER_PATH,
        "AWS_REGION": regions[0],
        "AWS_DEFAULT_REGION": regions[0],
        # A checksum that follows the body would be signed with it.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def _credential(task: Task, name: str) -> Credential:
    return next(credential for credential in task.plan.credentials if credential.name == name)


def _rules(plan: TaskPlan) -> list[tuple[str | None, Rule]]:
    """Credentials first: where a credential's rule matches, it is used."""
    return [(c.name, rule) for c in plan.credentials for rule in c.endpoints] + [(None, rule) for rule in plan.hosts]


def _ports(rules: Sequence[Rule]) -> dict[int, str]:
    """Port to scheme, of HTTP; 443 and 80 also where no rule names them, so that a denial can be explained."""
    ports = {443: "https", 80: "http"}
    if all(rule.scheme != "https" for rule in rules):
        del ports[443]  # Envoy has no listener without a name that it could speak for
    for rule in rules:
        if rule.is_stream:
            continue
        if ports.setdefault(rule.port, rule.scheme) != rule.scheme:
            raise GrantRefused(
                f"port {rule.port} is used with https and with http",
                hint="give one of the hosts another port",
            )
    return ports


def _event(use: Use, upstream: Upstream | None) -> dict[str, Any]:
    row = {
        "host": use.host,
        "method": use.method,
        "target": use.target,
        "status": use.status,
        "count": use.count,
        "first": use.first,
        "last": use.last,
        "received": use.received,
        "sent": use.sent,
    }
    if upstream is not None and not use.reason:
        allowed = {"outcome": Outcome.ALLOWED, "task": use.task, **row}
        if upstream.credential is None:
            return {"event": Event.HOST_USED, **allowed}
        return {"event": Event.CREDENTIAL_USED, "credential": upstream.credential, **allowed}
    if use.reason == ANSWERED:
        return {"event": Event.HOST_USED, "outcome": Outcome.ALLOWED, "task": use.task, **row}
    event = Event.REQUEST_DENIED if use.method else Event.CONNECTION_DENIED
    return {"event": event, "outcome": Outcome.DENIED, "task": use.task, "reason": use.reason, **row}
