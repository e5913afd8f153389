"""``leasehold run``: one command in a compartment, from the request to the hand-back (DESIGN 4).

The launcher holds no secret. It makes the network, asks the broker for a task, plans and starts the sandbox, waits, and
takes everything down in the opposite order. Whatever fails before the agent starts means that it does not start.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import ExitStack

from leasehold.core.errors import (
    BrokerGone,
    CommandNotExecutable,
    CommandNotFound,
    LeaseholdError,
    SandboxError,
    UsageError,
)
from leasehold.core.record import record
from leasehold.node.sandbox import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any

    from leasehold.node.guard.handback import HandbackReport, Journal
    from leasehold.node.sandbox.launch import Compartment
    from leasehold.node.sandbox.namespaces import Network
    from leasehold.node.sandbox.plan import Plan
    from leasehold.node.sandbox.protected import Mask
    from leasehold.node.sandbox.terminal import Terminal

_FAILED, _INTERRUPTED = 125, 130
_GOING_S = 0.5
_EXIT_CODES = {CommandNotExecutable.code: 126, CommandNotFound.code: 127}
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


@record
class Parts:
    """What a run is made of besides the sandbox itself; tests bring their own. Paths are canonical."""

    load: Callable[[], None]
    network: Callable[[], Network]
    connect: Callable[[], socket.socket]
    masks: Callable[[str, Mapping[str, Any]], Sequence[Mask]]
    begin: Callable[[str, str, Sequence[Mask]], Journal]
    finish: Callable[[Journal], HandbackReport]
    state_dir: str
    forbidden: tuple[str, ...]
    config: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of DESIGN 10."""
    parser.add_argument("--task", metavar="TEXT", default="", help="what it is for; people read it, policy does not")
    parser.add_argument("--class", dest="agent_class", choices=("local", "ci", "remediation"), default="local")
    parser.add_argument("--profile", metavar="NAME", help="claude, codex, aider or generic; else the command decides")
    parser.add_argument("--grant", metavar="NAME", action="append", help="only these credentials (repeatable)")
    parser.add_argument(
        "--expose",
        metavar="NAME",
        action="append",
        help="put one of this credential's own into the environment, where the agent has it (repeatable)",
    )
    parser.add_argument("--ttl", metavar="T", help="end the access after this time, such as 15m")
    parser.add_argument("--workspace", metavar="DIR", help="the folder to work in; else the current one")
    parser.add_argument("--json", action="store_true", help="print the summary as one line of JSON on standard error")
    parser.add_argument("command", metavar="-- COMMAND", nargs="...", help="what to run")


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns its exit code; 125 when Leasehold failed, 126 or 127 when it cannot be executed."""
    return perform(args, real_parts)


def perform(args: argparse.Namespace, parts: Callable[[], Parts]) -> int:
    """:func:`run` with these parts."""
    kernel.fill_standard_descriptors()
    try:
        return Run(args, parts()).execute()
    except LeaseholdError as error:
        _say_error(error, as_json=args.json)
        return _EXIT_CODES.get(error.code, _FAILED)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:  # whatever it is, it was not the command's
        import traceback

        _say(traceback.format_exc().rstrip())
        _say_error(
            LeaseholdError(f"{type(error).__name__}: {error}", hint="this is a defect: please report it"),
            as_json=args.json,
        )
        return _FAILED


def real_parts() -> Parts:
    from leasehold.cli import client
    from leasehold.core import locations
    from leasehold.node.guard import handback
    from leasehold.node.sandbox import namespaces

    state, config = os.path.realpath(locations.state_dir()), os.path.abspath(locations.operator_config_path())
    return Parts(
        load=load,
        network=namespaces.create,
        connect=client.connect,
        masks=_masks,
        begin=lambda task, workspace, masks: handback.begin(state, task, workspace, masks),
        finish=handback.finish,
        state_dir=state,
        forbidden=(state, os.path.realpath(locations.runtime_dir()), os.path.realpath(config)),
        config=config,
    )


def load() -> None:
    """Import what the start needs, so that it costs no time when it comes to that."""
    from leasehold.cli import summary  # noqa: F401  imported again where it is used, as all of these
    from leasehold.node.guard import canaries  # noqa: F401
    from leasehold.node.sandbox import launch, prepare, protected, seccomp, terminal  # noqa: F401


def _masks(workspace: str, sandbox: Mapping[str, Any]) -> Sequence[Mask]:
    from leasehold.node.guard.canaries import new_canary
    from leasehold.node.sandbox.protected import workspace_masks

    return workspace_masks(workspace, new_canary, hide=sandbox["hide"], read_only=sandbox["read_only"])


class Run:
    """One run, and what has to be taken down again."""

    def __init__(self, args: argparse.Namespace, parts: Parts) -> None:
        self._args = args
        self._parts = parts
        self._command = _command(args.command)
        self._workspace = _workspace(args.workspace)
        self._down = ExitStack()
        self._reply: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._unknown_names: dict[str, int] = {}
        self._notes: list[str] = []
        self._started = self._killed = False
        self._exit_code: int | None = None

    def execute(self) -> int:
        """The whole run; raises what kept it from starting, or ended it."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            _handle(number, _interrupt)
        try:
            self._open()
            try:
                self._exit_code = self._wait(*self._start())
            except SandboxError as error:
                if self._broker_has_gone():  # the cause, of which that was a consequence
                    raise _gone() from error
                raise
            return self._exit_code
        finally:
            for number in (*_PASSED_ON, signal.SIGTSTP):
                signal.signal(number, signal.SIG_IGN)
            self._down.close()
            if self._started and self._summary:
                self._show_summary()

    def _open(self) -> None:
        """Steps 2 and 4: the broker opens the task; its listeners are live when it answers."""
        from leasehold.core import wire
        from leasehold.core.profiles import profile_for
        from leasehold.node.sandbox import system
        from leasehold.node.sandbox.plan import check_workspace

        self._host = system.look(os.environ)
        self._profile = profile_for(self._args.profile, self._command)
        check_workspace(self._workspace, self._host, self._parts.forbidden)
        self._network = self._parts.network()
        self._down.callback(self._network.close)
        self._sock = self._parts.connect()
        self._down.callback(self._sock.close)
        message = {
            "op": "task.open",
            "class": self._args.agent_class,
            "profile": self._profile.name,
            "purpose": self._args.task,
            "workspace": self._workspace,
            "ttl_s": _seconds(self._args.ttl),
            "grants": self._args.grant,
            "expose": self._args.expose,
            "config": self._parts.config,
            "mode": self._network.mode,
            "java": bool(self._host.java_stores),
        }
        wire.send(self._sock, message, [self._network.netns_fd] if self._network.mode == "netns" else [])
        self._parts.load()  # while the broker works
        self._reply = self._answer()
        self._down.callback(self._close_task)

    def _start(self) -> tuple[Compartment, Terminal, Plan]:
        """Steps 3 and 5: plan, start, look at it, let the agent go."""
        from leasehold.node.sandbox import launch, overlay, prepare, seccomp
        from leasehold.node.sandbox.plan import make_plan
        from leasehold.node.sandbox.terminal import Terminal

        reply, host, cwd = self._reply, self._host, os.getcwd()
        variables = prepare.prepare_environment(host, self._profile, self._workspace, reply, os.environ)
        can_be_seen = prepare.visible(host, self._workspace, reply)
        masks = self._parts.masks(self._workspace, reply["sandbox"])
        terminal = Terminal()
        self._down.callback(lambda: terminal.close(killed=self._killed))
        request = prepare.prepare_request(
            host,
            self._profile,
            self._workspace,
            reply,
            masks=masks,
            state_dir=self._parts.state_dir,
            forbidden=self._parts.forbidden,
            control=terminal.control,
            command=self._command,
            cwd=os.path.realpath(cwd),
            now=time.time(),
        )
        prepare.check_command(self._command[0], variables["PATH"], request.cwd, can_be_seen)
        plan = make_plan(request, host)
        journal = self._parts.begin(reply["task"], self._workspace, masks)
        self._down.callback(self._hand_back, journal)
        private = any(mask.kind == "private" for mask in masks)
        layers = (lambda: overlay.lay(self._workspace, journal.overlays)) if private else None
        compartment = launch.start(
            plan, variables, self._network, terminal.standard, terminal.control, before_drop=layers
        )
        self._down.callback(compartment.close)
        # While bubblewrap works.
        program = seccomp.program(host.machine)
        self._network.serve(reply["names"], reply["ports"], reply["sockets"], reply["streams"])
        compartment.wait_until_ready()
        compartment.verify(plan, host.homes)
        self._ask({"op": "task.started"})
        self._show_header()
        _pass_signals_on(compartment, terminal)
        terminal.attach()
        compartment.go(program)
        self._started = True
        return compartment, terminal, plan

    def _wait(self, compartment: Compartment, terminal: Terminal, plan: Plan) -> int:
        """Copy and listen until the agent ends. Without its network, its broker or its protection it is ended."""
        self._killed = True
        # Python runs its signal handlers between two instructions of its own: poll has to end for that.
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._down.callback(signal.set_wakeup_fd, -1)
        while not compartment.ended():
            poll = select.poll()
            for fd in (compartment.pidfd, self._sock.fileno(), self._network.gate_fd, woken):
                poll.register(fd, select.POLLIN)
            poll.register(compartment.mounts_fd, select.POLLPRI)
            watched = terminal.watched()
            for fd, events in watched.items():
                poll.register(fd, events)
            for fd, events in poll.poll():
                if fd in watched:
                    terminal.ready(fd, events, lambda: _suspend(compartment, terminal, whole_job=True))
                elif fd == compartment.mounts_fd:
                    compartment.verify_mounts(plan)
                elif fd == woken:
                    os.read(woken, 4096)
                elif fd == self._sock.fileno():
                    self._hear()
                elif fd == self._network.gate_fd and not compartment.ended():
                    raise SandboxError(
                        "the compartment's network ended, and the agent with it",
                        hint="start the command again",
                    )
        self._killed = False
        return compartment.wait()

    def _hear(self) -> None:
        """One message that the broker sends by itself."""
        message = self._receive()
        if "event" in message:
            self._notes.append(str(message.get("message", message["event"])))

    def _receive(self) -> dict[str, Any]:
        from leasehold.core import wire

        try:
            received = wire.receive(self._sock)
        except OSError as error:
            raise _gone() from error
        if received is None:
            raise _gone()
        message, fds = received
        for fd in fds:
            os.close(fd)
        return message

    def _broker_has_gone(self) -> bool:
        """Whether it has, or does within a moment: its last thread may outlive what it took with it."""
        import socket

        if not select.select([self._sock], [], [], _GOING_S)[0]:
            return False
        try:
            return self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except OSError:
            return True

    def _answer(self) -> dict[str, Any]:
        """The broker's answer to our last request; what it sends by itself meanwhile is kept for the summary."""
        from leasehold.cli.client import RemoteError

        while "event" in (message := self._receive()):
            self._notes.append(str(message.get("message", message["event"])))
        if "error" in message:
            error = message["error"]
            raise RemoteError(error["code"], error["message"], error["hint"])
        return message

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        from leasehold.core import wire

        try:
            wire.send(self._sock, message)
        except OSError as error:
            raise _gone() from error
        return self._answer()

    def _hand_back(self, journal: Journal) -> None:
        """Step 10, the workspace's part."""
        report = self._parts.finish(journal)
        self._notes += report.lines()

    def _close_task(self) -> None:
        """Step 9: all access ends, and the broker says what it was."""
        self._unknown_names = self._network.denied_names()
        message = {"op": "task.close", "exit_code": self._exit_code, "denied_names": self._unknown_names}
        try:
            self._summary = self._ask({**message, "handback": {"notes": self._notes}})["summary"]
        except BrokerGone as error:
            if self._exit_code is not None:
                _say(f"leasehold  {error.message}")

    def _show_header(self) -> None:
        if not self._args.json:
            from leasehold.cli.summary import header

            _say(*header(self._reply, self._workspace))

    def _show_summary(self) -> None:
        if self._args.json:
            import json

            _say(json.dumps({**self._summary, "unknown_names": self._unknown_names, "notes": self._notes}))
        else:
            from leasehold.cli.summary import footer

            _say(*footer(self._summary, self._unknown_names, self._notes))


def _gone() -> BrokerGone:
    return BrokerGone(
        "the broker ended, and all access with it; the agent does not run on without",
        hint="its log is daemon.log in the state folder; a new run starts it again",
    )


def _command(given: Sequence[str]) -> list[str]:
    command = list(given[1:] if given[:1] == ["--"] else given)
    if not command:
        raise UsageError("there is no command to run", hint="leasehold run [OPTIONS] -- COMMAND [ARGUMENTS]")
    return command


def _workspace(given: str | None) -> str:
    workspace = os.path.realpath(given or os.getcwd())
    if not os.path.isdir(workspace):
        raise UsageError(f"the workspace {workspace} is not a folder", hint="choose one: --workspace DIR")
    return workspace


def _seconds(ttl: str | None) -> int | None:
    if ttl is None:
        return None
    from leasehold.core.durations import parse_duration

    try:
        return parse_duration(ttl)
    except ValueError as error:
        raise UsageError(f"--ttl: {error}", hint="write 90s, 15m or 1h") from error


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _handle(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle a signal, unless whoever started us wants it ignored (nohup, background jobs)."""
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, handler)


def _pass_signals_on(compartment: Compartment, terminal: Terminal) -> None:
    """What is sent to us is meant for the agent."""
    for number in _PASSED_ON:
        _handle(number, lambda number, _frame: compartment.signal(number, terminal.foreground()))
    _handle(signal.SIGTSTP, lambda _number, _frame: _suspend(compartment, terminal, whole_job=False))
    signal.signal(signal.SIGCONT, lambda _number, _frame: terminal.attach())
    signal.signal(signal.SIGWINCH, lambda _number, _frame: terminal.resize())


def _suspend(compartment: Compartment, terminal: Terminal, *, whole_job: bool) -> None:
    """Stop as the agent has stopped (``whole_job``: Ctrl-Z reached only the agent's terminal), and go on with it."""
    if not whole_job:
        compartment.signal(signal.SIGSTOP, terminal.foreground())
    terminal.detach()
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(0 if whole_job else os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, handler)
    terminal.attach()
    compartment.signal(signal.SIGCONT, terminal.foreground())


def _say(*lines: str) -> None:
    """Not through ``sys.stderr``, which does not exist when we are started with descriptor 2 closed."""
    text = "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
    try:
        while text:
            text = text[os.write(2, text) :]
    except OSError:
        return  # nobody is there to read it, and the exit code is still to be told


def _say_error(error: LeaseholdError, *, as_json: bool) -> None:
    if as_json:
        import json

        _say(json.dumps({"error": error.as_dict()}))
    else:
        _say(f"error: {error.code}: {error.message}", f"hint: {error.hint}")
