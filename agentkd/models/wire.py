"""Our values as a chat-completions request, and a response as our values."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentkd.schema import Message, Reply, TokenTrace, ToolCall, ToolSpec

__all__ = [
    "BadArguments",
    "ask_again",
    "mend_json",
    "read_reply",
    "read_scores",
    "schema_note",
    "to_wire",
    "tools_to_wire",
    "wire_names",
]

_FENCE = re.compile(r"^```(?:json)?\s*|\s*```$")
_COMMA = re.compile(r'("(?:[^"\\]|\\.)*"?)|,(?=\s*[}\]])', re.DOTALL)  # a comma in a string is none
_REASONS: dict[str, Literal["length", "error"]] = {"length": "length", "content_filter": "error"}
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_-]")


class BadArguments(Exception):
    """A tool call whose arguments are no JSON object."""

    def __init__(self, tool: str, text: str) -> None:
        super().__init__(f"`{tool}`: {text[:200]}")
        self.tool = tool
        self.text = text


def wire_names(tools: Sequence[ToolSpec]) -> dict[str, str]:
    """Return the name that each tool has for the provider: letters, digits, `_` and `-`, all different."""
    names: dict[str, str] = {}
    for tool in tools:
        wire = base = _NOT_ALLOWED.sub("_", tool.name)[:60]
        number = 2
        while wire in names.values():
            wire, number = f"{base}_{number}", number + 1
        names[tool.name] = wire
    return names


def to_wire(messages: Sequence[Message], names: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Return messages as chat-completions data; calls without an id get one, and so do their results.

    `names` are those of `wire_names`.
    """
    wire: list[dict[str, Any]] = []
    waiting: list[str] = []
    for position, message in enumerate(messages):
        if message.role == "tool":
            call_id = message.tool_call_id or (waiting[0] if waiting else f"call_{position}")
            waiting = [w for w in waiting if w != call_id]
            wire.append({"role": "tool", "tool_call_id": call_id, "content": message.content})
        elif message.tool_calls:
            calls = [
                _call(call, f"call_{position}_{i}", names or {}) for i, call in enumerate(message.tool_calls)
            ]
            waiting = [call["id"] for call in calls]
            text = None if _is_the_call(message) else message.content or None
            wire.append({"role": "assistant", "content": text, "tool_calls": calls})
        else:
            wire.append({"role": message.role, "content": message.content})
    return wire


def tools_to_wire(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """Return tools as chat-completions data under their wire names."""
    names = wire_names(tools)
    return [
        {
            "type": "function",
            "function": {
                "name": names[tool.name],
                "description": tool.description,
                "parameters": tool.parameters,
            },
        }
        for tool in tools
    ]


def read_reply(response: Any, model: str, names: Mapping[str, str] | None = None) -> Reply:
    """Read the first choice of a response; raises BadArguments for a call that cannot be understood.

    `names` are those of `wire_names`.
    """
    choice = response.choices[0]
    real = {wire: name for name, wire in (names or {}).items()}
    calls = tuple(
        ToolCall(
            name=real.get(call.function.name or "", call.function.name or ""),
            arguments=_arguments(call.function.name or "", call.function.arguments),
            id=call.id or "",
        )
        for call in choice.message.tool_calls or ()
    )
    return Reply(
        text=choice.message.content or "",
        tool_calls=calls,
        model=model,
        finish_reason="tool_calls" if calls else _REASONS.get(str(choice.finish_reason), "stop"),
        tokens=_trace(choice),
    )


def ask_again(bad: BadArguments) -> list[dict[str, Any]]:
    """Return the messages that ask for a call anew after its arguments could not be read."""
    said = f"The arguments of your call of `{bad.tool}` are no JSON object: {bad.text[:500]}"
    return [{"role": "user", "content": f"{said}\nMake the call again with valid JSON."}]


def schema_note(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the message that asks for JSON of a shape, for a provider that cannot enforce it."""
    wanted = (
        f"Answer with JSON alone that follows this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"
    )
    return {"role": "user", "content": wanted}


def mend_json(text: str) -> Any:
    """Read JSON, also with the plain slips of models: fences, trailing commas, Python quotes, no end.

    Raises ValueError where that does not help.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    plain = _FENCE.sub("", text.strip())
    text = _COMMA.sub(lambda found: found[1] or "", plain)
    for read in (json.loads, ast.literal_eval):
        for candidate in (plain, text, text + _missing_end(text)):
            try:
                return read(candidate)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                pass
    raise ValueError("no JSON")


def _missing_end(text: str) -> str:
    """Return the brackets that a cut-off JSON text lacks."""
    stack: list[str] = []
    is_string = is_escaped = False
    for char in text:
        if is_string:
            is_string = is_escaped or char != '"'
            is_escaped = char == "\\" and not is_escaped
        elif char == '"':
            is_string = True
        elif char in "{[":
            stack.append("}" if char == "{" else "]")
        elif char in "}]" and stack:
            stack.pop()
    return ('"' if is_string else "") + "".join(reversed(stack))


def _arguments(tool: str, text: Any) -> dict[str, Any]:
    if isinstance(text, dict):
        return text
    try:
        found = mend_json(text or "{}")
    except ValueError:
        raise BadArguments(tool, str(text)) from None
    if not isinstance(found, dict):
        raise BadArguments(tool, str(text))
    return {str(key): value for key, value in found.items()}


def _call(call: ToolCall, fallback_id: str, names: Mapping[str, str]) -> dict[str, Any]:
    name = names.get(call.name, _NOT_ALLOWED.sub("_", call.name))
    function = {"name": name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": call.id or fallback_id, "type": "function", "function": function}


def _is_the_call(message: Message) -> bool:
    """Whether the text only repeats the calls as JSON, as local models write them."""
    try:
        said = [json.loads(line) for line in message.content.splitlines()]
    except ValueError:
        return False
    return said == [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]


def _trace(choice: Any) -> TokenTrace | None:
    content = getattr(getattr(choice, "logprobs", None), "content", None)
    if not content:
        return None
    tops = [_field(token, "top_logprobs") or () for token in content]
    named = tuple(tuple((_piece(t), float(_field(t, "logprob"))) for t in top) for top in tops)
    return TokenTrace(
        log_probs=tuple(float(_field(token, "logprob")) for token in content),
        pieces=tuple(_piece(token) for token in content),
        top=named if any(named) else (),
    )


def read_scores(response: Any, prompt: str, completion: str) -> TokenTrace | None:
    """Read an echoed text completion: what the model thinks of `completion` after `prompt`.

    A token that the server puts before the prompt is passed over. None where it sends no log-probabilities;
    without pieces where its tokens are not those of the two texts, or one reaches over the prompt's end.
    """
    found = getattr(response.choices[0], "logprobs", None)
    texts = _field(found, "tokens") if found else None
    if not texts or not _field(found, "token_logprobs"):
        return None
    scores, tops = _field(found, "token_logprobs"), _field(found, "top_logprobs") or [None] * len(texts)
    echoed, whole = "".join(texts), prompt + completion
    is_led = not echoed.startswith(whole) and echoed.startswith(texts[0] + whole)
    start, kept = -len(texts[0]) if is_led else 0, []
    for text, score, top in zip(texts, scores, tops, strict=True):
        if len(prompt) <= start < len(whole) and score is not None:
            kept.append((text, float(score), top or {}))
        start += len(text)
    if "".join(text for text, _, _ in kept) != completion:
        return TokenTrace(log_probs=tuple(float(score) for score in scores if score is not None))
    return TokenTrace(
        log_probs=tuple(score for _, score, _ in kept),
        pieces=tuple(_latin(text.encode()) for text, _, _ in kept),
        top=tuple(
            tuple((_latin(text.encode()), float(score)) for text, score in dict(top).items())
            for _, _, top in kept
        ),
    )


def _piece(token: Any) -> str:
    """Return a token's bytes as Latin-1 text; its text is enough where the provider sends no bytes."""
    data = _field(token, "bytes")
    return _latin(bytes(data) if data else str(_field(token, "token")).encode())


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


def _field(token: Any, name: str) -> Any:
    return token.get(name) if isinstance(token, dict) else getattr(token, name, None)
