"""The agent: one model in one loop with its tools, memories and recorder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agentkd import hookspecs
from agentkd.agents.checkpointer import memory_checkpointer, strict
from agentkd.agents.event import AgentEvent, Finished, Interrupted, Started
from agentkd.agents.lane import Lane, Router, Serving
from agentkd.agents.loop import Context, Loop, shows_tools
from agentkd.agents.recorder import Recorder
from agentkd.agents.retry import Lessons
from agentkd.agents.review import AnyDecision, Edit, check_call, read_decisions
from agentkd.agents.state import Run, paused, trajectory_of
from agentkd.agents.taint import OUTER, foreign_before, foreign_request
from agentkd.agents.trial import TrialPolicy
from agentkd.config import AgentSettings, TrustSettings, WhenTainted
from agentkd.errors import AgentkdError, DataError, NotFoundError
from agentkd.plugins import Hooks, PluginHost
from agentkd.protocols import Environment, Model, Recaller, Views
from agentkd.schema import Failure, Scope, Task, ToolCall, Trajectory, content_id, sortable_id

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph.state import CompiledStateGraph

__all__ = ["Agent"]


Decided = AnyDecision | Mapping[str, Any] | Sequence[AnyDecision | Mapping[str, Any]]
"""What a person may hand in: a decision or several, as values or JSON."""


class Agent:
    """Runs tasks; safe to use from several threads. The graph is compiled once, on first use."""

    _compiled: CompiledStateGraph[Any, Any, Any, Any] | None

    def __init__(
        self,
        name: str,
        model: Model,
        environment: Callable[[Task], Environment],
        views: Views,
        settings: AgentSettings | None = None,
        *,
        recaller: Recaller | None = None,
        recorder: Recorder | None = None,
        hooks: Hooks | None = None,
        scope: Scope | None = None,
        checkpoint: str = "base",
        model_is_student: bool = False,
        checkpointer: Any = None,
        approve: Callable[[ToolCall], bool] | None = None,
        interrupt_on: Collection[str] = (),
        trials: TrialPolicy | None = None,
        router: Router | None = None,
        serving: Serving | None = None,
        check: Callable[[], None] = lambda: None,
        when_tainted: WhenTainted = "refuse",
        trust: TrustSettings | None = None,
    ) -> None:
        """Put an agent together; nothing heavy is imported before its first run.

        Args:
            name: Name that reports print.
            model: Model that acts.
            environment: Makes the world of a task: its tools and their state.
            views: Builds the prompts.
            settings: The loop's settings.
            recaller: Finds memories; None recalls nothing.
            recorder: Writes down what happens; None stores nothing.
            hooks: Plugins that are asked and told.
            scope: Whose memories are recalled; None takes the recaller's own.
            checkpoint: Checkpoint that serves, or `base`: memories compiled into it are not recalled.
            model_is_student: Whether the model is a trained student, which knows its tools already.
            checkpointer: LangGraph checkpointer; None keeps runs that wait for a person in this process.
            approve: Says whether a call may run without asking a person.
            interrupt_on: Names of tools whose calls always wait for a person; a task's world may lack some.
            trials: Decides which tasks have memories withheld to measure them; None shows all to all.
            router: Chooses a student per request; `model` is the base that stands in for them.
            serving: Says for every run which student serves; `model` did when the agent was made.
            check: Called before every model and tool call; what it raises ends the run.
            when_tainted: What becomes of a call with side effects once the conversation holds untrusted
                output of a tool or an untrusted memory: a person is asked, it is refused, or it is run.
            trust: Which tools bring in untrusted text beyond what they say themselves.
        """
        self.name, self.model, self.settings = name, model, settings or AgentSettings()
        self.hooks = hooks or PluginHost(auto=False).hooks
        self.recorder = recorder or Recorder(None, self.hooks)
        self._environment, self._checkpointer = environment, checkpointer
        self._loop = Loop(
            lane=Lane(model, checkpoint, shows_tools(self.settings, model, model_is_student)), views=views,
            router=router, serving=serving, settings=self.settings, recaller=recaller, recorder=self.recorder,
            hooks=self.hooks, scope=scope, interrupt_on=frozenset(interrupt_on), approve=approve,
            trials=trials, check=check, when_tainted=when_tainted, trust=trust or TrustSettings(),
        )  # fmt: skip
        self._compiled, self._open, self._lock = None, dict[str, Environment](), threading.Lock()

    def run(
        self, task: Task | str, *, run_id: str | None = None, attempt: int = 0, thread_id: str | None = None
    ) -> Trajectory:
        """Do a task and store what happened; a call that waits for a person gives a `PausedRun`.

        With a checkpointer, a `thread_id` whose run was killed goes on from its last finished node, with
        the student that it began with; the world of the task is made anew then. A finished task that is given
        to its thread again is another attempt.
        Raises BudgetError where a ceiling is met, and DataError where the thread is not done with another
        request; another error of the model is a failure of the run.
        """
        return _last(self.stream(task, run_id=run_id, attempt=attempt, thread_id=thread_id))

    async def arun(
        self, task: Task | str, *, run_id: str | None = None, attempt: int = 0, thread_id: str | None = None
    ) -> Trajectory:
        """Do the same without blocking the event loop; the work is done in a thread."""
        return await asyncio.to_thread(self.run, task, run_id=run_id, attempt=attempt, thread_id=thread_id)

    def stream(
        self, task: Task | str, *, run_id: str | None = None, attempt: int = 0, thread_id: str | None = None
    ) -> Iterator[AgentEvent]:
        """Yield what happens while it happens; the last event is `Finished` or `Interrupted`."""
        run = self._new_run(task, run_id, attempt, thread_id)
        yield from self._stored_at_the_end(run.thread_id, self._start(run))

    def attempt(
        self, task: Task, *, run_id: str, attempt: int = 0, lessons: Lessons | None = None
    ) -> Trajectory:
        """Do a task without storing its end: for a runner that grades it first.

        The notes of `lessons` stand before the request: what earlier tries of the task taught.
        """
        lessons = lessons or Lessons()
        run = self._new_run(task, run_id, attempt, None)
        tainted = run.tainted or foreign_before(task, lessons.heard, self._loop.trust)
        heard = tuple(dict.fromkeys((*run.heard, *lessons.heard)))
        run = run.model_copy(update={"notes": lessons.notes, "heard": heard, "tainted": tainted})
        trajectory = _last(self._start(run))
        self._drop_state(run.thread_id)
        return trajectory

    def resume(self, thread_id: str, decision: Decided) -> Trajectory:
        """Go on with a run that waits for a person; gives a `PausedRun` where another call waits.

        Args:
            thread_id: Name of the waiting run, as in `PausedRun.thread_id`.
            decision: `Approve()`, `Edit(call=...)`, `Reject(reason=...)`, `Respond(text=...)` or
                `Restart(reason=...)`, its JSON, or a decision of LangChain's HumanInTheLoop middleware like
                `{"type": "edit", "edited_action": {"name": ..., "args": {...}}}`. A list, or
                `{"decisions": [...]}`, decides on all calls that wait.

        Raises NotFoundError where no run waits under this name, and DataError for what is no decision and for
        an edited call that fits no tool; the run waits on then.
        """
        return _last(self.resume_stream(thread_id, decision))

    def resume_stream(self, thread_id: str, decision: Decided) -> Iterator[AgentEvent]:
        """Go on with a run that waits for a person, and yield what happens."""
        chosen = read_decisions(decision)
        _check_number(chosen, len(self._waiting(thread_id)))
        self._check_edits(thread_id, [each.call for each in chosen if isinstance(each, Edit)])
        for number, each in enumerate(chosen, 1):
            for event in self._decided(thread_id, each):
                if number == len(chosen) or not isinstance(event, Interrupted):
                    yield event

    def _decided(self, thread_id: str, decision: AnyDecision) -> Iterator[AgentEvent]:
        """Go on with one decision."""
        from langgraph.types import Command

        run = self._stored(thread_id)
        assert run is not None
        events = self._drive(run, Command(resume=decision.model_dump(mode="json")))
        yield from self._stored_at_the_end(thread_id, events)

    def _waiting(self, thread_id: str) -> tuple[ToolCall, ...]:
        """Return the calls that wait for a person; raises NotFoundError."""
        stored = self._stored(thread_id)
        state = self._graph.get_state(self._config(thread_id)) if stored is not None else None
        if state is None or not state.interrupts:
            raise NotFoundError(
                f"no run of agent `{self.name}` waits under `{thread_id}`",
                hint="the thread id stands in the interrupted event; a checkpointer keeps it over restarts",
            )
        return _calls_of(state.interrupts[0].value)

    def _check_edits(self, thread_id: str, calls: Sequence[ToolCall]) -> None:
        """Raise DataError for an edited call that no tool of the run takes: it would be learnt."""
        run = self._stored(thread_id)
        if not calls or run is None:
            return
        try:
            world = self._world(run)
        except AgentkdError:
            raise
        except Exception:  # the run will say that its world cannot be made
            return
        with self._lock:
            self._open[thread_id] = world
        for call in calls:
            check_call(call, run.task.tools or tuple(world.tools), f"run `{thread_id}` waits on")

    def close(self) -> None:
        """Release the worlds of runs that still wait for a person."""
        with self._lock:
            worlds, self._open = list(self._open.values()), {}
        for world in worlds:
            world.close()

    @property
    def may_pause(self) -> bool:
        """Whether a run can stop to ask a person."""
        return self._loop.may_pause

    @property
    def _graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        with self._lock:
            if self._compiled is None:
                if self._checkpointer is None and self.may_pause:
                    self._checkpointer = memory_checkpointer()
                elif self._checkpointer is not None:
                    self._checkpointer = strict(self._checkpointer)
                self._compiled = self._loop.compile(self._checkpointer)
            return self._compiled

    def _new_run(self, task: Task | str, run_id: str | None, attempt: int, thread_id: str | None) -> Run:
        if isinstance(task, str):
            task = Task(id=content_id("adh", task), prompt=task)
        if thread_id and run_id is None:
            run_id = content_id("run", thread_id)
            attempt = attempt or self.recorder.next_attempt(run_id, task.id)
        run_id = run_id or sortable_id("run")
        trajectory_id = content_id("tra", run_id, task.id, attempt)
        router, serving = self._loop.router, self._loop.serving
        route = None if router is None else router.choose(task.prompt)
        serves = serving.checkpoint() if serving is not None else ""
        outer = OUTER.get()
        run = Run(
            trajectory_id=trajectory_id,
            run_id=run_id,
            attempt=attempt,
            thread_id=thread_id or trajectory_id,
            task=task,
            route=route,
            checkpoint=serves if route is None else route.checkpoint,
            scope=self._loop.scope or Scope(),
            heard=outer.heard,
            tainted=foreign_request(task, outer, self._loop.trust),
        )
        run = self._loop.stood_aside(run)
        return run.model_copy(update={"model": self._loop.lane_of(run).model.name})

    def _start(self, run: Run) -> Iterator[AgentEvent]:
        refused = self.hooks.refusals(hookspecs.before_run, task=run.task, model=run.model)
        if refused:
            failure = Failure(kind="cancelled", message=f"refused by plugin `{'`, `'.join(refused)}`")
            yield Finished(trajectory=trajectory_of(run.model_copy(update={"failure": failure})))
            return
        stored = self._stored(run.thread_id)
        if stored is not None and stored.task.id != run.task.id:
            raise DataError(
                f"thread `{run.thread_id}` of agent `{self.name}` is not done with another request: "
                f"{stored.task.prompt[:80]!r}",
                hint="decide with `agent.resume(thread_id, ...)`, or give the other request again where it "
                "was broken off, or take another thread_id",
            )
        begun = run if stored is None else stored
        yield Started(thread_id=begun.thread_id, trajectory_id=begun.trajectory_id, task=begun.task)
        yield from self._drive(begun, {"run": run} if stored is None else None)

    def _drive(self, run: Run, work: Any) -> Iterator[AgentEvent]:
        """Run the graph to its end or to the next question for a person."""
        try:
            world = self._world(run)
        except AgentkdError:
            raise
        except Exception as error:  # a task whose world cannot be made is a failed run
            failure = Failure(kind="environment", message=f"{type(error).__name__}: {error}")
            yield Finished(trajectory=trajectory_of(run.model_copy(update={"failure": failure})))
            return
        context = Context(world, run.task.tools or tuple(world.tools), lambda: self._environment(run.task))
        question = None
        try:
            options: Any = {"durability": "sync"} if self._checkpointer is not None else {}
            for mode, chunk in self._graph.stream(
                work,
                self._config(run.thread_id),
                context=context,
                stream_mode=["custom", "values"],
                **options,
            ):
                if mode == "custom":
                    yield chunk
                elif "__interrupt__" in chunk:
                    question = chunk["__interrupt__"][0].value
                else:
                    run = chunk["run"]
        finally:
            if question is None:
                context.environment.close()
            else:
                with self._lock:
                    self._open[run.thread_id] = context.environment
        if question is None:
            yield Finished(trajectory=trajectory_of(run, context.tools))
        else:
            yield Interrupted(run=paused(run, _calls_of(question)))

    def _stored_at_the_end(self, thread_id: str, events: Iterator[AgentEvent]) -> Iterator[AgentEvent]:
        """Store a finished run, then drop its state: a kill in between only runs the task again."""
        for event in events:
            if isinstance(event, Finished):
                self.recorder.finish(event.trajectory)
                self._drop_state(thread_id)
            yield event

    def _drop_state(self, thread_id: str) -> None:
        if self._checkpointer is not None:
            self._checkpointer.delete_thread(thread_id)

    def _world(self, run: Run) -> Environment:
        """Return the world of a run: the one that it was paused in, or a new one."""
        with self._lock:
            world = self._open.pop(run.thread_id, None)
        return world if world is not None else self._environment(run.task)

    def _stored(self, thread_id: str) -> Run | None:
        """Return the state of a run that was broken off; None without one."""
        graph = self._graph
        if self._checkpointer is None:
            return None
        run = graph.get_state(self._config(thread_id)).values.get("run")
        return run if isinstance(run, Run) else None

    def _config(self, thread_id: str) -> RunnableConfig:
        return {
            "configurable": {"thread_id": thread_id},
            "recursion_limit": 4 * self.settings.max_steps + 8,  # four nodes per turn at most
        }


def _calls_of(question: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall.model_validate(call) for call in question["waiting"])


def _check_number(decisions: Sequence[AnyDecision], n_waiting: int) -> None:
    """Raise DataError for a list that does not decide on every waiting call."""
    if len(decisions) > 1 and any(decision.kind == "restart" for decision in decisions):
        raise DataError("a new start is a decision on the whole try", hint="give `Restart(...)` alone")
    if len(decisions) not in (1, n_waiting):
        raise DataError(
            f"{len(decisions)} decisions were given, and {n_waiting} calls wait",
            hint="decide on the first call alone, or on every one of `PausedRun.waiting` in order",
        )


def _last(events: Iterator[AgentEvent]) -> Trajectory:
    """Run the events to their end and return the trajectory of the last one."""
    result: Trajectory | None = None
    for event in events:
        if isinstance(event, Finished):
            result = event.trajectory
        elif isinstance(event, Interrupted):
            result = event.run
    assert result is not None
    return result
