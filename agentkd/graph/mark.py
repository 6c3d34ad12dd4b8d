"""Marks that we write on messages, each with a seal: whoever may post messages could write them too.

A seal is of one turn of one thread and of what the message says: a copy of it elsewhere is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentkd.graph.message import MARK, is_notes, marks_of, own_text, text_mark, text_of
from agentkd.graph.notes import ids_of_turn

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from agentkd.graph.host import Host

__all__ = ["believed", "is_foreign", "marked", "marks_of_run"]

_SEAL, _FOREIGN = "seal", "foreign"

M = TypeVar("M", bound="BaseMessage")


def marked(
    host: Host,
    message: M,
    marks: Mapping[str, Any],
    messages: Sequence[BaseMessage],
    config: Mapping[str, Any],
) -> M:
    """Return a message with marks in the place of those on it; `messages` is the conversation so far."""
    _, turn = ids_of_turn(messages, config)
    sealed = {**marks, _SEAL: host.ledger.seals.of(_said(turn, message, marks))}
    return _with(message, sealed)


def marks_of_run(message: BaseMessage, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the marks of a tool's message: the call that was run, and which text the tool gave.

    Others may change the text later, as what takes addresses out does: the call is believed all the same.
    """
    text = text_of(message)
    return {"executed": {"name": name, "args": args}, "n_chars": len(text), "text": text_mark(text)}


def believed(host: Host, messages: Sequence[BaseMessage], config: Mapping[str, Any]) -> list[BaseMessage]:
    """Return a conversation in which every mark is ours; of others it is known only that they were there."""
    found: list[BaseMessage] = []
    turn, (_, last) = "", ids_of_turn(messages, config)
    for at, message in enumerate(messages):
        if message.type == "human":
            _, turn = ids_of_turn(messages[: at + 1], config)
        marks = marks_of(message)
        seal = marks.pop(_SEAL, None)
        said = _said(last if is_notes(message) else turn, message, marks)  # notes stand before their request
        is_ours = MARK not in message.additional_kwargs or host.ledger.seals.fits(seal, said)
        found.append(message if is_ours else _with(message, {_FOREIGN: True}))
    return found


def is_foreign(message: BaseMessage) -> bool:
    """Whether a message of a believed conversation had marks that are not ours, or not of this turn."""
    return _FOREIGN in marks_of(message)


def _said(turn: str, message: BaseMessage, marks: Mapping[str, Any]) -> list[Any]:
    """Return what a seal is of; what a tool said has a mark of its own (an earlier version sealed it)."""
    own = "" if "text" in marks else own_text(message)
    calls = [[call["name"], call["args"], call["id"]] for call in getattr(message, "tool_calls", ())]
    return [turn, message.type, str(getattr(message, "tool_call_id", "")), own, calls, dict(marks)]


def _with(message: M, marks: Mapping[str, Any]) -> M:
    kwargs = {**message.additional_kwargs, MARK: dict(marks)}
    return message.model_copy(update={"additional_kwargs": kwargs})
