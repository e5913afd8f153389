"""From the broker's reply to what the plan needs: environment, request, and the command's place inside."""

from __future__ import annotations

import json
import os

from leasehold.core.errors import CommandNotExecutable, CommandNotFound, ConfigError
from leasehold.core.profiles import environment as profile_environment
from leasehold.core.profiles import home_files
from leasehold.node.sandbox.environment import INSIDE, agent_environment
from leasehold.node.sandbox.places import within
from leasehold.node.sandbox.plan import SandboxRequest, visible_folders
from leasehold.node.sandbox.system import settings_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from leasehold.core.profiles import Profile
    from leasehold.node.sandbox.protected import Mask
    from leasehold.node.sandbox.system import Host


def prepare_environment(
    host: Host, profile: Profile, workspace: str, reply: Mapping[str, Any], environ: Mapping[str, str]
) -> dict[str, str]:
    """The agent's environment for this task; ``environ`` is the caller's."""
    return agent_environment(
        environ,
        named=reply["sandbox"]["env"],
        visible=visible(host, workspace, reply),
        home=host.home,
        user=host.user,
        placeholders={**reply["placeholders"], **reply["exposed"]},
        profile=profile_environment(profile, root=host.uid == 0),
        ssh=bool(reply["ssh"]),
    )


def prepare_request(
    host: Host,
    profile: Profile,
    workspace: str,
    reply: Mapping[str, Any],
    *,
    masks: Sequence[Mask],
    state_dir: str,
    forbidden: Sequence[str],
    control: int,
    command: Sequence[str],
    cwd: str,
    now: float,
) -> SandboxRequest:
    """What the compartment is to have. ``now``: Unix seconds. Makes the folders that persist."""
    tools = tuple(_tool(path) for path in reply["sandbox"]["tools"])
    truststore = reply["truststore_b64"]
    files = home_files(profile, workspace=workspace, placeholders=reply["placeholders"])
    return SandboxRequest(
        workspace=workspace,
        cwd=cwd if within(cwd, workspace) else workspace,
        masks=tuple(masks),
        tools=tools,
        hidden=tuple(settings_in((*host.tools, *tools))),
        persist=tuple(
            (_persistent(state_dir, profile.name, workspace, name), f"{host.home}/{name}") for name in profile.persist
        ),
        files=tuple((f"{host.home}/{file.path}", file.text.encode(), file.writable) for file in files),
        forbidden=tuple(forbidden),
        ca_pem=reply["ca_pem"].encode(),
        truststore=None if truststore is None else _decode(truststore),
        grants=json.dumps(_grants(reply, now)).encode(),
        machine_id=os.urandom(16).hex(),
        control=control,
        command=tuple(command),
        ssh=(ssh["agent"], ssh["known_hosts"].encode()) if (ssh := reply["ssh"]) else None,
        exposed=tuple((path, content.encode()) for path, content in reply["exposed_files"].items()),
    )


def visible(host: Host, workspace: str, reply: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a path of the host can be seen inside, at the same path."""
    folders = (*visible_folders(workspace, reply["sandbox"]["tools"], host), f"{INSIDE}/bin")
    return lambda path: any(within(os.path.normpath(path), folder) for folder in folders)


def check_command(command: str, path: str, cwd: str, can_be_seen: Callable[[str], bool]) -> None:
    """Raise what a shell would answer with 127 or 126, before anything is started."""
    if command == "leasehold":
        return
    folders = [""] if "/" in command else path.split(":")
    candidates = [os.path.join(cwd, folder, command) for folder in folders]
    found = [candidate for candidate in candidates if can_be_seen(candidate) and os.path.exists(candidate)]
    if not found:
        raise CommandNotFound(
            f"{command!a} does not exist in the compartment",
            hint="what is not in a system folder or the workspace is shown when the operator lists it: [sandbox] tools",
        )
    if not any(os.access(candidate, os.X_OK) and not os.path.isdir(candidate) for candidate in found):
        raise CommandNotExecutable(f"{found[0]} cannot be executed", hint="is it a program? chmod +x makes it one")


def _tool(path: str) -> str:
    if os.path.realpath(path) != path or not os.path.isdir(path):
        raise ConfigError(
            f"sandbox.tools: {path} is not a folder at this very path",
            hint="give the absolute path of a folder that exists, without links",
        )
    return path


def _persistent(state_dir: str, profile: str, workspace: str, name: str) -> str:
    """The folder that stays for the next run of this profile in this workspace, and only for that: what an agent
    leaves there must not reach a task with other rights."""
    import hashlib

    key = hashlib.sha256(os.fsencode(workspace)).hexdigest()[:32]
    folder = f"{os.path.realpath(state_dir)}/homes/{profile}/{key}/{name}"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def _decode(text: str) -> bytes:
    from binascii import a2b_base64

    return a2b_base64(text)


def _grants(reply: Mapping[str, Any], now: float) -> dict[str, Any]:
    shown = {key: reply[key] for key in ("task", "class", "grants", "hosts", "ports")}
    return {**shown, "names": sorted(reply["names"]), "expires_at": now + reply["expires_in_s"]}
