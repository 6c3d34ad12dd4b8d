"""Messages of LangChain as our values, and which of them are ours: notes that were recalled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkd.agents.review import Reviewed
from agentkd.schema import Message, ToolCall, ToolResult, Usage, content_id

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage

__all__ = [
    "MARK",
    "answers_of",
    "call_of",
    "is_notes",
    "is_summary",
    "marks_of",
    "message_of",
    "own_text",
    "recall_of",
    "request_key",
    "result_of",
    "reviewed_of",
    "situation",
    "text_mark",
    "text_of",
    "turn_of",
    "usage_of",
    "with_request",
]

MARK = "agentkd"
"""Name in `additional_kwargs` under which we keep what must survive with a message."""

_RESULT_CHARS = 400
_BLOCK_CHARS = 4000  # of blocks that are no text
_ROLES = {"human": "user", "ai": "assistant", "tool": "tool"}
_ORIGINS = {"human": "user", "ai": "model", "tool": "tool"}


def marks_of(message: BaseMessage) -> dict[str, Any]:
    """Return what we wrote on a message; empty for one of others."""
    marks = message.additional_kwargs.get(MARK)
    return dict(marks) if isinstance(marks, Mapping) else {}


def reviewed_of(message: AIMessage) -> list[Reviewed]:
    """Return what became of each call of a believed message by `apply_decisions`, if it was used."""
    told = marks_of(message).get("reviewed", ())
    return [Reviewed.model_validate(each) for each in told] if len(told) == len(message.tool_calls) else []


def is_notes(message: BaseMessage) -> bool:
    """Whether a message is recalled memory: it is shown, and never learnt from."""
    return message.type == "system" and "recalled" in marks_of(message)


def recall_of(messages: Sequence[BaseMessage]) -> dict[str, Any]:
    """Return what was recalled for the last turn of a believed conversation.

    It stands on the turn's notes, wherever they are, or on the request where none are shown.
    """
    told, turn = [marks_of(m)["recalled"] for m in messages if is_notes(m)], turn_of(messages)
    return dict(told[-1] if told else marks_of(turn[0]).get("recalled", {})) if turn else {}


def text_of(message: BaseMessage) -> str:
    """Return the text of a message, its blocks joined."""
    return str(message.text)


def own_text(message: BaseMessage) -> str:
    """Return the text that a message had when we marked it; a note that was put before it is left out."""
    text, n_chars = text_of(message), marks_of(message).get("n_chars")
    return text[max(len(text) - n_chars, 0) :] if isinstance(n_chars, int) else text


def text_mark(text: str) -> str:
    """Return what a text is known by."""
    return content_id("txt", text)


def is_summary(message: BaseMessage) -> bool:
    """Whether a message is LangChain's summary of others: a model's words in a human's name."""
    return message.additional_kwargs.get("lc_source") == "summarization"


def _start_of_turn(messages: Sequence[BaseMessage]) -> int | None:
    """Return where the last human request is: a summary where it took the place of all requests."""
    said = [at for at, message in enumerate(messages) if message.type == "human"]
    starts = [at for at in said if not is_summary(messages[at])] or said
    return starts[-1] if starts else None


def turn_of(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return the messages from the last human request on; empty where there is none."""
    start = _start_of_turn(messages)
    return [] if start is None else list(messages[start:])


def request_key(messages: Sequence[BaseMessage]) -> str:
    """Return what names the last human request: its id, else a hash of it and its position."""
    start = _start_of_turn(messages)
    if start is None:
        return ""
    return messages[start].id or content_id("req", start, text_of(messages[start]))


def with_request(messages: Sequence[BaseMessage], request: BaseMessage | None) -> list[BaseMessage]:
    """Return a conversation with the present request, where a summary took its place meanwhile."""
    turn = turn_of(messages)
    if request is None or is_summary(request) or not (turn and is_summary(turn[0])):
        return list(messages)
    return [request, *messages]


def answers_of(turn: Sequence[BaseMessage]) -> dict[int, list[BaseMessage | None]]:
    """Return, by the `id()` of every AI message, what answers each of its calls; None for an open one.

    Ids of calls are the provider's: some begin anew with every reply, and some are empty. So a call is
    answered by what stands between its reply and the next one; of calls with one id the first unanswered one
    of the tool is meant. A later answer counts where no other call has its id.
    """
    replies = [at for at, message in enumerate(turn) if message.type == "ai"]
    asked = Counter(_call_id(call) for at in replies for call in turn[at].tool_calls)  # type: ignore[attr-defined]
    late = {_answered(message): message for message in turn if message.type == "tool"}
    found: dict[int, list[BaseMessage | None]] = {}
    for at, end in zip(replies, [*replies[1:], len(turn)], strict=False):  # none in a turn without a reply
        told = [message for message in turn[at + 1 : end] if message.type == "tool"]
        answers: list[BaseMessage | None] = []
        for call in turn[at].tool_calls:  # type: ignore[attr-defined]
            id_ = _call_id(call)
            fit = [message for message in told if _answered(message) == id_]
            answer = next((message for message in fit if message.name == call["name"]), next(iter(fit), None))
            if answer is not None:
                told.remove(answer)
            elif asked[id_] == 1:
                answer = late.get(id_)
            answers.append(answer)
        found[id(turn[at])] = answers
    return found


def _call_id(call: Mapping[str, Any]) -> str:
    return str(call.get("id") or "")


def _answered(message: BaseMessage) -> str:
    return str(getattr(message, "tool_call_id", "") or "")


def situation(turn: Sequence[BaseMessage]) -> str:
    """Return the text to recall for: the request, then also the last calls as they were run, with results."""
    lines, last = [text_of(turn[0])], next((m for m in reversed(turn) if m.type == "ai"), None)
    if last is None:
        return lines[0]
    for call, answer in zip(last.tool_calls, answers_of(turn)[id(last)], strict=True):  # type: ignore[attr-defined]
        if answer is not None:
            ran = marks_of(answer).get("executed") or call
            said = json.dumps({"name": ran["name"], "arguments": ran["args"]}, default=str)
            result = result_of(answer)
            lines.append(f"{said} -> {(result.error or result.content)[:_RESULT_CHARS]}")
    return "\n".join(lines)


def call_of(call: Mapping[str, Any]) -> ToolCall:
    """Return a tool call of LangChain as ours; what JSON cannot say becomes text."""
    arguments = json.loads(json.dumps(call.get("args") or {}, default=str))
    return ToolCall(name=str(call["name"]), arguments=arguments, id=str(call.get("id") or ""))


def result_of(message: BaseMessage) -> ToolResult:
    """Return what the tool said: a result, or why there is none; what was put before it is left out.

    What others changed of a text that we marked is untrusted: it is no longer the tool's word. Pictures and
    other blocks without text are told as JSON, cut short: a model reads them too.
    """
    text, mark = own_text(message), marks_of(message).get("text")
    is_changed = mark is not None and text_mark(text) != mark
    if is_changed:
        text = text_of(message)
    if not text and message.content:
        text = json.dumps(message.content, default=str)[:_BLOCK_CHARS]
    trust: Any = "untrusted" if is_changed else ""
    if getattr(message, "status", "success") == "error":
        return ToolResult(error=text or "the tool failed", trust=trust)
    return ToolResult(content=text, trust=trust)


def message_of(message: BaseMessage) -> Message:
    """Return a message as ours; of an assistant's calls, those that it proposed."""
    if is_notes(message):
        return Message(role="system", content=text_of(message), origin="memory")
    role: Any = _ROLES.get(message.type, "system")
    origin: Any = _ORIGINS.get(message.type, "system")
    return Message(
        role=role,
        content=text_of(message),
        tool_calls=tuple(call_of(call) for call in getattr(message, "tool_calls", ())),
        tool_call_id=str(getattr(message, "tool_call_id", "") or ""),
        name=str(message.name or "") if message.type == "tool" else "",
        origin=origin,
    )


def usage_of(message: AIMessage) -> Usage:
    """Return what a reply cost, as far as its provider says; the price is not known here."""
    told: Mapping[str, Any] = message.usage_metadata or {}
    details = told.get("input_token_details") or {}
    return Usage(
        prompt_tokens=int(told.get("input_tokens") or 0),
        completion_tokens=int(told.get("output_tokens") or 0),
        cached_tokens=int(details.get("cache_read") or 0),
    )
