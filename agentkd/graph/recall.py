"""recall_node: a node that puts what helps into the messages of anyone's StateGraph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.messages import RemoveMessage, SystemMessage
from langgraph.config import get_config
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from agentkd.graph.mark import believed, marked
from agentkd.graph.message import is_notes, recall_of, request_key, turn_of
from agentkd.graph.notes import Finder, shown_of
from agentkd.schema import Scope, content_id

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from agentkd.graph.host import Host

__all__ = ["recall_node"]

Node = Callable[[Mapping[str, Any]], dict[str, Any]]


def recall_node(
    workspace: Host,
    *,
    namespace: Sequence[str] = (),
    scope: Scope | None = None,
    k: int | None = None,
    checkpoint: str = "base",
    recall: Literal["start", "step"] = "step",
    messages_key: str = "messages",
) -> Node:
    """Return a node that recalls for the last human or tool turn and adds the notes as one system message.

    Put it before the model, inside the loop for `recall="step"`. There is one message of notes at any time,
    behind the system messages that the conversation begins with, for some models take none elsewhere: a
    later step extends it, the next request replaces it. It may run again after an interrupt. On a share
    of the turns (`[memory] trial_share`) memories are withheld to measure what they are worth.

    Args:
        workspace: An `agentkd.Workspace`.
        namespace: Whose store items are recalled besides the workspace's own lessons; a label such as
            `{user_id}` is filled from the graph's `configurable`.
        scope: The asker's scope in place of a namespace.
        k: Most memories per recall; `[memory] k` by default.
        checkpoint: What the model is: `student` for what serves as each recall is made, a checkpoint's
            name, or `base`, any other model. What its weights hold is not recalled for it, and what speaks
            against a revoked memory is.
        recall: Once per request, or before every model call.
        messages_key: Channel of the messages; it needs the reducer `add_messages`.
    """
    finder = Finder(workspace, namespace, scope, k, checkpoint)

    def recall_memories(state: Mapping[str, Any]) -> dict[str, Any]:
        update = _update(finder, state[messages_key], recall, get_config())
        return {messages_key: update} if update else {}

    return recall_memories


def _update(
    finder: Finder, messages: Sequence[BaseMessage], mode: str, config: Mapping[str, Any]
) -> list[BaseMessage]:
    turn = turn_of(messages)
    if not turn:
        return []
    notes_id = content_id("notes", request_key(messages))
    update: list[BaseMessage] = [
        RemoveMessage(id=m.id) for m in messages if is_notes(m) and m.id not in (None, notes_id)
    ]
    if mode == "start" and any(message.type == "ai" for message in turn):
        return update
    known = believed(finder.host, messages, config)
    before = recall_of(known)
    recall = finder.find(known, before, config)
    if recall == before:
        return update
    marks = {"recalled": recall}
    if not shown_of(recall):  # all of it is withheld
        return [*update, marked(finder.host, turn[0], marks, messages, config)]
    notes = SystemMessage(finder.render(recall, config), id=notes_id)
    notes = marked(finder.host, notes, marks, messages, config)
    if any(message.id == notes_id for message in messages):
        return [*update, notes]
    others = [message for message in messages if not is_notes(message)]
    at = next((at for at, message in enumerate(others) if message.type != "system"), len(others))
    return [RemoveMessage(id=REMOVE_ALL_MESSAGES), *others[:at], notes, *others[at:]]
