"""Marks that we write on messages, each with a seal: whoever may post messages could write them too.

A seal is of one turn of one thread and of what the message says: a copy of it elsewhere is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agentkd.graph.message import MARK, marks_of, text_of
from agentkd.graph.notes import ids_of_turn

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from agentkd.graph.host import Host

__all__ = ["believed", "is_foreign", "marked"]

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


def believed(host: Host, messages: Sequence[BaseMessage], config: Mapping[str, Any]) -> list[BaseMessage]:
    """Return a conversation in which every mark is ours; of others it is known only that they were there."""
    found: list[BaseMessage] = []
    turn = ""
    for at, message in enumerate(messages):
        if message.type == "human":
            _, turn = ids_of_turn(messages[: at + 1], config)
        marks = marks_of(message)
        seal = marks.pop(_SEAL, None)
        is_ours = MARK not in message.additional_kwargs or host.ledger.seals.fits(
            seal, _said(turn, message, marks)
        )
        found.append(message if is_ours else _with(message, {_FOREIGN: True}))
    return found


def is_foreign(message: BaseMessage) -> bool:
    """Whether a message of a believed conversation had marks that are not ours, or not of this turn."""
    return _FOREIGN in marks_of(message)


def _said(turn: str, message: BaseMessage, marks: Mapping[str, Any]) -> list[Any]:
    """Return what a seal is of; before what a tool said, others may put a note later on."""
    text, n_chars = text_of(message), marks.get("n_chars")
    own = text[max(len(text) - n_chars, 0) :] if isinstance(n_chars, int) else text
    calls = [[call["name"], call["args"], call["id"]] for call in getattr(message, "tool_calls", ())]
    return [turn, message.type, str(getattr(message, "tool_call_id", "")), own, calls, dict(marks)]


def _with(message: M, marks: Mapping[str, Any]) -> M:
    kwargs = {**message.additional_kwargs, MARK: dict(marks)}
    return message.model_copy(update={"additional_kwargs": kwargs})
