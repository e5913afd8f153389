"""Answers in the form of Anthropic's Messages API (streamed as server-sent events)."""

from __future__ import annotations

import json
from typing import Any

from agents.script import HUNT, done, word


def answer(asked: dict[str, Any], command: str, told: str) -> list[bytes]:
    """The pieces of the body for one request: a tool call when the prompt asks to look, text otherwise."""
    tools = [tool.get("name") for tool in asked.get("tools", [])]
    turn = _turn(asked["messages"])
    if any(_has_result(message) for message in turn):
        block: dict[str, Any] = {"type": "text", "text": done(told)}
    elif "Bash" in tools and HUNT in json.dumps(turn):
        call = {"command": command, "description": "Look around", "timeout": 120_000}
        block = {"type": "tool_use", "id": "toolu_standin_1", "name": "Bash", "input": call}
    else:
        block = {"type": "text", "text": word(told)}
    stop = "tool_use" if block["type"] == "tool_use" else "end_turn"
    message = {
        "id": "msg_standin",
        "type": "message",
        "role": "assistant",
        "model": asked.get("model", "stand-in"),
        "content": [block],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 10},
    }
    return _stream(message, block) if asked.get("stream") else [json.dumps(message).encode()]


def _turn(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What came after the last answer; a program may add messages of its own to the person's."""
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[answers[-1] + 1 :] if answers else messages


def _has_result(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part.get("type") == "tool_result" for part in content)


def _stream(message: dict[str, Any], block: dict[str, Any]) -> list[bytes]:
    if block["type"] == "text":
        empty: dict[str, Any] = {"type": "text", "text": ""}
        deltas: list[dict[str, Any]] = [
            {"type": "text_delta", "text": line + "\n"} for line in block["text"].splitlines()
        ]
    else:
        empty = {**block, "input": {}}
        whole = json.dumps(block["input"])
        deltas = [{"type": "input_json_delta", "partial_json": whole[i : i + 800]} for i in range(0, len(whole), 800)]
    start = {**message, "content": [], "stop_reason": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
            "usage": {"output_tokens": 10},
        },
        {"type": "message_stop"},
    ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]
