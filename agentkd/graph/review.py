"""apply_decisions: what a person decided on an AI message's calls, written so that it is learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import ToolMessage

from agentkd.agents.review import Restart, Reviewed, read_decisions, settle
from agentkd.errors import DataError
from agentkd.graph.mark import believed, marked
from agentkd.graph.message import call_of, reviewed_of

if TYPE_CHECKING:
    from langchain_core.messages import AIMessage, BaseMessage

    from agentkd.graph.host import Host

__all__ = ["apply_decisions"]


def apply_decisions(
    workspace: Host,
    messages: Sequence[BaseMessage],
    decisions: Any,
    asked: Sequence[str] = (),
    *,
    config: Mapping[str, Any] | None = None,
) -> list[BaseMessage]:
    """Return the update of a messages channel after a review: the message with the calls to run, and answers.

    The message keeps its id, so that the reducer puts it in the place of the old one; it holds the accepted
    calls, and what was proposed is kept beside them for `record_node`, sealed for this turn of this thread.
    A refused call, and one that the person answered, gets its tool message here; run the others.

    Args:
        workspace: The `agentkd.Workspace` of `record_node`.
        messages: The conversation; its last AI message is decided on.
        decisions: One per asked call: ours, their JSON, or the answer to a HumanInTheLoop request.
        asked: Ids of the calls that were decided on, in order; all of the message's by default. What was
            decided on others before stays as it is.
        config: Of the graph, with its `thread_id`; within a node that of the call.

    Raises:
        DataError: a decision cannot be read, their number is wrong, or one restarts the task.
    """
    config = _config() if config is None else config
    message = _last_reply(believed(workspace, messages, config))
    places = _places(message, asked)
    read = read_decisions(decisions)
    if len(read) != len(places):
        raise DataError(f"{len(read)} decisions were given on {len(places)} calls")
    if any(isinstance(decision, Restart) for decision in read):
        raise DataError("a graph of your own cannot be restarted from here", hint="reject the call instead")
    decided = dict(zip(places, read, strict=True))
    reviewed = [
        settle(before.proposed, decided[at]) if at in decided else before
        for at, before in enumerate(reviewed_of(message) or _undecided(message))
    ]
    calls = [
        {**call, "name": (r.accepted or r.proposed).name, "args": (r.accepted or r.proposed).arguments}
        for call, r in zip(message.tool_calls, reviewed, strict=True)
    ]
    marks = {"reviewed": [r.model_dump(mode="json") for r in reviewed]}
    kept = message.model_copy(update={"tool_calls": calls})
    kept = marked(workspace, kept, marks, messages, config)
    answers = [
        ToolMessage(
            content=r.result.content or r.result.error,
            name=r.proposed.name,
            tool_call_id=r.proposed.id,
            status="success" if r.result.ok else "error",
        )
        for at, r in enumerate(reviewed)
        if at in decided and r.result is not None
    ]
    return [kept, *answers]


def _undecided(message: AIMessage) -> list[Reviewed]:
    return [settle(call_of(call), None) for call in message.tool_calls]


def _last_reply(messages: Sequence[BaseMessage]) -> AIMessage:
    reply: Any = next((message for message in reversed(messages) if message.type == "ai"), None)
    if reply is None:
        raise DataError("there is no AI message whose calls could be decided on")
    return reply  # type: ignore[no-any-return]


def _config() -> Mapping[str, Any]:
    """Return the configuration of the node that runs now; empty outside a graph."""
    from langgraph.config import get_config

    try:
        return get_config()
    except RuntimeError:
        return {}


def _places(message: AIMessage, asked: Sequence[str]) -> list[int]:
    """Return the places of the asked calls; of calls with one id the first that was not asked for before."""
    free = [str(call["id"] or "") for call in message.tool_calls]
    places: list[int] = []
    for id_ in asked or free:
        place = next((at for at, other in enumerate(free) if other == id_ and at not in places), None)
        if place is None:
            raise DataError(f"the message has no call `{id_}` that is not decided on yet")
        places.append(place)
    return places
