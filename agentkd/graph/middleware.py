"""AgentkdMiddleware: memory for LangChain's `create_agent` (extra `langchain`).

List it after `HumanInTheLoopMiddleware`, so that it sees the call that a person accepted and not the one
that the model proposed. (Before it, a call edited in mode `per_call` is kept without an accepted call, and
an answer that a person gave in that mode is taken for the tool's.) A result that no tool gave, such as a
person's answer in its place, is kept as heard: which call stands there is not known, and no row is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import AnyMessage, BaseMessage, SystemMessage, ToolMessage
from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from agentkd.agents.taint import OUTER, Outer
from agentkd.errors import MissingExtraError
from agentkd.graph.host import Host
from agentkd.graph.mark import marked, marks_of_run
from agentkd.graph.message import turn_of, with_request
from agentkd.graph.notes import Finder, Recall
from agentkd.graph.record import Grade, store_turn, user_of
from agentkd.graph.turn import Turn, read_turn
from agentkd.schema import Failure, Scope
from agentkd.trust import heard_after

try:
    from langchain.agents.middleware.types import (
        AgentMiddleware,
        AgentState,
        ModelRequest,
        ModelResponse,
        PrivateStateAttr,
        ToolCallRequest,
    )
except ImportError as error:
    raise MissingExtraError.of("langchain", "langchain", "the middleware for `create_agent`") from error

__all__ = ["AgentkdMiddleware", "AgentkdState"]

_EDITS = "hitl_edited_tool_calls"  # where HumanInTheLoopMiddleware keeps what a person put in place of a call


class AgentkdState(AgentState[Any]):
    """What the middleware keeps in the agent's state."""

    agentkd_recalled: NotRequired[Annotated[Recall, PrivateStateAttr]]
    """What was recalled for the present request."""
    agentkd_request: NotRequired[Annotated[AnyMessage | None, PrivateStateAttr]]
    """The present request: what summarises a conversation may take it out of the messages."""


class AgentkdMiddleware(AgentMiddleware[Any, Any, Any]):
    """Recalls before the model is asked, traces the tools, and records the turn; also asynchronously.

    On a share of the turns (`[memory] trial_share`) memories are withheld to measure what they are worth.
    What a person decides through HumanInTheLoopMiddleware becomes a correction: the trajectory holds the
    accepted call although the AI message still shows the proposed one.
    """

    state_schema = AgentkdState

    def __init__(
        self,
        workspace: Host,
        *,
        namespace: Sequence[str] = (),
        scope: Scope | None = None,
        k: int | None = None,
        checkpoint: str = "base",
        recall: Literal["off", "start", "step"] = "start",
        record: bool = True,
        grade: Grade | None = None,
    ) -> None:
        """Put memory around an agent.

        Args:
            workspace: An `agentkd.Workspace`.
            namespace: Whose store items are recalled besides the workspace's own lessons, and whose turns
                are stored; a label such as `{user_id}` is filled from the call's `configurable`.
            scope: The asker's scope in place of a namespace; its tenant owns what the turns teach.
            k: Most memories per recall; `[memory] k` by default.
            checkpoint: What the model is: `student` for what serves as each recall is made, a checkpoint's
                name, or `base`, any other model. What its weights hold is not recalled for it, and what
                speaks against a revoked memory is.
            recall: Never, once per request, or before every model call.
            record: Whether turns are stored as trajectories.
            grade: Judges a finished trajectory; without one memories gain no utility from it.
        """
        super().__init__()
        self.tools = []
        self._finder = Finder(workspace, namespace, scope, k, checkpoint)
        self._host = workspace
        self._recall = recall
        self._record = record
        self._grade = grade

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Recall for the request."""
        is_off, turn = self._recall == "off", turn_of(state["messages"])
        return {
            "agentkd_recalled": {} if is_off else self._finder.find(state["messages"], {}, get_config()),
            "agentkd_request": turn[0] if turn else None,
        }

    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Recall for the request without blocking."""
        return await asyncio.to_thread(self.before_agent, state, runtime)

    def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Recall for a later step, where every step is recalled for."""
        before, messages = state.get("agentkd_recalled") or {}, _conversation(state)
        if self._recall != "step" or not any(m.type == "ai" for m in turn_of(messages)):
            return None
        return {"agentkd_recalled": self._finder.find(messages, before, get_config())}

    async def abefore_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Recall for a later step without blocking."""
        return await asyncio.to_thread(self.before_model, state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Show the notes to the model; an error of the model is kept with the steps before it."""
        try:
            return handler(self._with_notes(request))
        except GraphBubbleUp:
            raise
        except Exception as error:
            self._broke(request.state, "model", error)
            raise

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Do the same without blocking."""
        try:
            return await handler(await asyncio.to_thread(self._with_notes, request))
        except GraphBubbleUp:
            raise
        except Exception as error:
            await asyncio.to_thread(self._broke, request.state, "model", error)
            raise

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Mark a result with the call that was run; an error of the tool is kept with the steps before it."""
        token = OUTER.set(self._outer(request.state))
        try:
            traced: ToolMessage | Command[Any] = self._traced(handler(request), request)
            return traced
        except GraphBubbleUp:
            raise
        except Exception as error:
            self._broke(request.state, "tool", error)
            raise
        finally:
            OUTER.reset(token)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Do the same without blocking."""
        token = OUTER.set(self._outer(request.state))
        try:
            traced: ToolMessage | Command[Any] = await asyncio.to_thread(
                self._traced, await handler(request), request
            )
            return traced
        except GraphBubbleUp:
            raise
        except Exception as error:
            await asyncio.to_thread(self._broke, request.state, "tool", error)
            raise
        finally:
            OUTER.reset(token)

    def after_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Store the turn."""
        if self._record:
            self._store(self._turn(state), self._grade)
        return None

    async def aafter_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Store the turn without blocking."""
        return await asyncio.to_thread(self.after_agent, state, runtime)

    def _traced(self, result: Any, request: ToolCallRequest) -> Any:
        """Write on a tool's message which call was run, whatever the AI message says.

        A tool may answer with a list of messages and commands; what is neither passes as it is.
        """
        if isinstance(result, list):
            return [self._traced(each, request) for each in result]
        call, state = request.tool_call, request.state or {}
        edits: Mapping[str, Any] = state.get(_EDITS) or {}
        ran = edits.get(str(call["id"]), call)

        def told(message: Any) -> Any:
            if not isinstance(message, ToolMessage) or message.tool_call_id != call["id"]:
                return message
            marks = marks_of_run(message, ran["name"], ran["args"])
            return marked(self._host, message, marks, _conversation(state), get_config())

        update = result.update if isinstance(result, Command) else None
        if isinstance(update, dict) and isinstance(update.get("messages"), list):
            return replace(result, update={**update, "messages": [told(m) for m in update["messages"]]})
        return told(result)

    def _with_notes(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        recall: Any = request.state.get("agentkd_recalled") or {}
        notes = self._finder.render(recall, get_config())
        if not notes:
            return request
        return request.override(system_message=_joined(request.system_message, notes))

    def _turn(self, state: Any, failure: Failure | None = None) -> Turn | None:
        recall, messages = state.get("agentkd_recalled") or {}, _conversation(state)
        return read_turn(self._host, messages, get_config(), recall=recall, is_traced=True, failure=failure)

    def _outer(self, state: Any) -> Outer:
        """Return what the model had heard when it called the tool."""
        turn = self._turn(state or {})
        return Outer(heard=() if turn is None else heard_after(turn.trajectory))

    def _broke(self, state: Any, kind: Literal["model", "tool"], error: Exception) -> None:
        """Keep the steps before an error; the turn stays open, because it may be gone on with."""
        if self._record:
            failure = Failure(kind=kind, message=f"{type(error).__name__}: {error}")
            self._store(self._turn(state, failure))

    def _store(self, turn: Turn | None, grade: Grade | None = None) -> None:
        config = get_config()
        store_turn(self._host, turn, grade, user_of(config), self._finder.scope(config))


def _conversation(state: Mapping[str, Any]) -> list[BaseMessage]:
    return with_request(state.get("messages", ()), state.get("agentkd_request"))


def _joined(system: SystemMessage | None, notes: str) -> SystemMessage:
    if system is None:
        return SystemMessage(content=notes)
    if isinstance(system.content, str):
        content: Any = f"{system.content}\n\n{notes}" if system.content else notes
    else:
        content = [*system.content, {"type": "text", "text": f"\n\n{notes}"}]
    return system.model_copy(update={"content": content})
