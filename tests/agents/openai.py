"""Answers in the form of OpenAI's Responses and Chat Completions APIs (streamed as server-sent events)."""

from __future__ import annotations

import json
from typing import Any

from agents.script import CHECK, FOUND, HUNT, WRITE, done, word

# By preference. "exec" runs JavaScript that calls the other tools ("code mode").
_SHELLS = ("exec", "exec_command", "shell_command", "shell")


def response(asked: dict[str, Any], command: str, told: str) -> list[bytes]:
    """Responses: a function call when the prompt asks to look, text otherwise."""
    given: list[dict[str, Any]] = asked.get("input", [])
    tools = _tools([*(asked.get("tools") or ()), *given])
    shell = next((name for name in _SHELLS if name in tools), None)
    if any(str(item.get("type", "")).endswith("_output") for item in given):
        item = _message(done(told))
    elif shell and HUNT in json.dumps(given):
        item = _call(shell, command)
    else:
        item = _message(word(told))
    whole = {
        "id": "resp_standin",
        "object": "response",
        "status": "completed",
        "model": asked.get("model", "stand-in"),
        "output": [item],
        "usage": {
            "input_tokens": 10,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 10,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 20,
        },
    }
    if not asked.get("stream"):
        return [json.dumps(whole).encode()]
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}},
    ]
    if item["type"] == "message":
        place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        lines = item["content"][0]["text"].splitlines(keepends=True)
        events += [{"type": "response.output_text.delta", **place, "delta": line} for line in lines]
    events += [
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": whole},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def _tools(items: list[dict[str, Any]]) -> set[str]:
    """The names of the tools in ``items``, which may be tools, groups of tools or input items that bring some."""
    names: set[str] = set()
    for item in items:
        if item.get("type") in ("function", "custom"):
            names.add(item["name"])
        names |= _tools(item.get("tools", []))
    return names


def _message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {
        "id": "msg_standin",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }


def _call(shell: str, command: str) -> dict[str, Any]:
    if shell == "exec":
        ask = json.dumps({"cmd": command, "yield_time_ms": 60_000})
        source = (
            f"let seen = await tools.exec_command({ask});\n"
            "let all = seen.output;\n"
            "while (seen.session_id) {\n"
            "  seen = await tools.write_stdin({session_id: seen.session_id, chars: '', yield_time_ms: 30000});\n"
            "  all += seen.output;\n"
            "}\n"
            "text(all);\n"
        )
        call = {"id": "ctc_standin", "type": "custom_tool_call", "status": "completed", "name": "exec"}
        return {**call, "namespace": "functions", "call_id": "call_standin_1", "input": source}
    arguments: dict[str, Any] = {"command": ["bash", "-c", command], "timeout_ms": 120_000}
    if shell == "exec_command":
        arguments = {"cmd": command, "yield_time_ms": 30_000, "max_output_tokens": 20_000}
    elif shell == "shell_command":
        arguments = {"command": command, "timeout_ms": 120_000}
    call = {"id": "fc_standin", "type": "function_call", "status": "completed", "call_id": "call_standin_1"}
    return {**call, "name": shell, "arguments": json.dumps(arguments)}


def completion(asked: dict[str, Any], command: str, told: str) -> list[bytes]:
    """Chat Completions: aider knows no tools, so the text proposes a command, or a file that the tests will run."""
    text = json.dumps(asked["messages"])
    if f"{FOUND}environment" in text:
        said = done(told)
    elif HUNT in text:
        said = f"Run this:\n\n```bash\n{command}\n```\n"
    elif WRITE in text:
        said = f"{CHECK}\n```bash\n<<<<<<< SEARCH\n=======\n{command}\n>>>>>>> REPLACE\n```\n"
    else:
        said = word(told)
    base = {"id": "chatcmpl-standin", "created": 1, "model": asked.get("model", "stand-in")}
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    if not asked.get("stream"):
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        return [json.dumps({**base, "object": "chat.completion", "choices": [message], "usage": usage}).encode()]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": line} for line in said.splitlines(keepends=True)]
    chunks: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    chunks.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    events = [json.dumps({**base, "object": "chat.completion.chunk", "choices": [chunk]}) for chunk in chunks]
    return [f"data: {event}\n\n".encode() for event in (*events, "[DONE]")]
