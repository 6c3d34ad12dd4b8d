"""The loop as a LangGraph graph: recall -> think -> (review) -> act -> recall ... -> finish.

One channel holds the whole `Run`. Every node may run again after a kill: recalling and thinking change
nothing outside, recording is idempotent by id, and nothing happens before an `interrupt()` in its node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentkd.agents.checkpointer import require_strict_reader
from agentkd.agents.event import Acted, Recalled, RecallOff, Replied, Restarted
from agentkd.agents.lane import Lane, Router, Serving
from agentkd.agents.recorder import Recorder
from agentkd.agents.retry import join_notes
from agentkd.agents.review import AnyDecision, Restart, Reviewed, correction_of, read_decision, settle
from agentkd.agents.state import GraphState, Run, begun_anew, trajectory_of
from agentkd.agents.taint import (
    calling,
    declared_trust,
    foreign_memory,
    foreign_output,
    has_side_effects,
    refused,
)
from agentkd.agents.trial import TrialPolicy
from agentkd.agents.turn import fitting, next_history, recall_state, with_memory
from agentkd.config import AgentSettings, TrustSettings, WhenTainted
from agentkd.errors import AgentkdError, BudgetError, ModelError
from agentkd.plugins import Hooks
from agentkd.protocols import Environment, Model, Recaller, Views
from agentkd.schema import REDACTED, Failure, Hit, Message, Scope, Step, ToolCall, ToolResult, ToolSpec

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

__all__ = ["Context", "Loop", "shows_tools"]


@dataclass
class Context:
    """What a run needs besides its state: never stored."""

    environment: Environment
    """World of the task."""
    tools: Sequence[ToolSpec]
    """Tools on offer."""
    make: Callable[[], Environment]
    """Makes the world anew."""

    @property
    def declared(self) -> tuple[ToolSpec, ...]:
        """What a task shows of its tools, and what their world says of them: tasks leave out dangers."""
        return (*self.tools, *self.environment.tools)

    def renew(self) -> None:
        """Leave the world for a fresh one."""
        self.environment.close()
        self.environment = self.make()


@dataclass(frozen=True)
class Loop:
    """The nodes of the graph, over the parts of one agent."""

    lane: Lane
    views: Views
    settings: AgentSettings
    recaller: Recaller | None
    recorder: Recorder
    hooks: Hooks
    scope: Scope | None
    interrupt_on: Collection[str]
    approve: Callable[[ToolCall], bool] | None
    trials: TrialPolicy | None = None
    router: Router | None = None
    serving: Serving | None = None
    check: Callable[[], None] = lambda: None
    when_tainted: WhenTainted = "refuse"
    trust: TrustSettings = field(default_factory=TrustSettings)

    @property
    def may_pause(self) -> bool:
        """Whether a run can stop to ask a person."""
        return self.approve is not None or bool(self.interrupt_on) or self.when_tainted == "ask"

    def compile(self, checkpointer: Any = None) -> CompiledStateGraph[Any, Any, Any, Any]:
        """Build the graph; langgraph is imported here and not before."""
        require_strict_reader()
        from langgraph.graph import END, START, StateGraph

        graph: Any = StateGraph(GraphState, context_schema=Context)
        for node in (self.recall, self.think, self.review, self.act, self.finish):
            graph.add_node(node.__name__, node)
        graph.add_edge(START, "recall")
        graph.add_edge("recall", "think")
        graph.add_conditional_edges("think", _after_think, ["review", "act", "finish"])
        graph.add_edge("review", "act")
        graph.add_conditional_edges("act", _after_act, ["recall", "finish"])
        graph.add_edge("finish", END)
        compiled: CompiledStateGraph[Any, Any, Any, Any] = graph.compile(checkpointer=checkpointer)
        return compiled

    def recall(self, state: GraphState) -> GraphState:
        """Find memories for the turn that comes; plugins may reorder them or take some out."""
        run = self.stood_aside(state["run"])
        mode = self.settings.recall
        run = run.model_copy(update={"hits": (), "withheld": ()})
        if self.recaller is None or mode == "off" or (mode == "start" and run.steps):
            return {"run": run}
        run = self._planned(run)
        known = {memory for step in run.steps for memory in step.recalled}
        if run.trial is not None:
            known |= set(run.trial.held)
        hits: Sequence[Hit] = self.recaller.recall(
            recall_state(run), scope=self.scope, checkpoint=self.lane_of(run).checkpoint, exclude=known
        )
        if hits:
            hits = fitting(self.recaller, self.hooks.ranked(run.task, hits))
        if self.trials is not None and run.trial is not None:
            trial, hits, withheld = self.trials.divide(run.trial, hits, run.trajectory_id)
            run = run.model_copy(update={"trial": trial, "withheld": withheld})
        if not hits:
            return {"run": run}
        _tell(Recalled(step=len(run.steps), hits=tuple(hits)))
        tainted = run.tainted or foreign_memory(hits)
        run = run.model_copy(update={"hits": tuple(hits), "tainted": tainted})
        return {"run": with_memory(run, self.recaller.render(hits))}

    def _planned(self, run: Run) -> Run:
        """Decide once per run what it shows of its memories."""
        if self.trials is None or run.trial is not None:
            return run
        trial = self.trials.plan(run.trajectory_id, run.task)
        if trial.off is not None and trial.arm == "withheld":
            _tell(RecallOff(lift=trial.off))
        return run.model_copy(update={"trial": trial})

    def think(self, state: GraphState) -> GraphState:
        """Ask the model; an error of the model ends the run as a failure, a met ceiling is raised."""
        run = self.stood_aside(state["run"])  # what it began with may be tainted by now
        self.check()
        tools = _context().tools
        choice = "required" if self.settings.force_tool_call else "auto"
        try:
            reply = self.lane_of(run).model.reply(
                self._prompt(run, tools), tools, tool_choice=choice if tools else "none", purpose="run"
            )
        except BudgetError:
            raise
        except ModelError as error:
            failure = Failure(kind="model", message=str(error))
            return {"run": run.model_copy(update={"failure": failure, "is_done": True, "reply": None})}
        if len(reply.tool_calls) > self.settings.max_calls_per_step:
            most = self.settings.max_calls_per_step
            told = f"the model asked for {len(reply.tool_calls)} calls in one turn, {most} are allowed"
            failure = Failure(kind="limit", message=told)
            return {"run": run.model_copy(update={"failure": failure, "is_done": True, "reply": None})}
        waiting = [i for i, call in enumerate(reply.tool_calls) if self._needs_review(run, call)]
        _tell(Replied(step=len(run.steps), reply=reply))
        settled = () if waiting else tuple(self._settle(run, call, None) for call in reply.tool_calls)
        update = {"reply": reply, "to_review": tuple(waiting), "reviewed": settled}
        return {"run": run.model_copy(update=update)}

    def review(self, state: GraphState) -> GraphState:
        """Ask a person about every call that waits, one after the other; a new start ends the questions."""
        from langgraph.types import interrupt

        run = state["run"]
        assert run.reply is not None
        settled: list[Reviewed] = []
        for position, call in enumerate(run.reply.tool_calls):
            decision = None
            if position in run.to_review:
                waiting = [run.reply.tool_calls[p] for p in run.to_review if p >= position]
                decision = read_decision(interrupt({"waiting": [c.model_dump(mode="json") for c in waiting]}))
            settled.append(self._settle(run, call, decision))
            if isinstance(decision, Restart):
                return {"run": run.model_copy(update={"reviewed": (settled[-1],)})}
        return {"run": run.model_copy(update={"reviewed": tuple(settled)})}

    def act(self, state: GraphState) -> GraphState:
        """Run the accepted calls, store the turn, and decide whether another one follows."""
        run = state["run"]
        assert run.reply is not None
        if run.reviewed and isinstance(run.reviewed[0].decision, Restart):
            return {"run": self._begin_anew(run, run.reviewed[0].decision)}
        try:
            results = [self._result(run, reviewed) for reviewed in run.reviewed]
        except AgentkdError:
            raise
        except Exception as error:  # the world of the task broke: data about this run, not a crash
            failure = Failure(kind="environment", message=f"{type(error).__name__}: {error}")
            return {"run": run.model_copy(update={"failure": failure, "is_done": True})}
        step = _step_of(run, results)
        run = run.model_copy(
            update={
                "steps": (*run.steps, step),
                "history": (*run.history, *next_history(run.reply, run.reviewed, results)),
                "model": run.reply.model or run.model,
                "tainted": run.tainted
                or foreign_output(run.task, _context().declared, run.reviewed, results, self.trust),
            }
        )
        run = run.model_copy(update=self._verdict(run, results))
        corrections = [correction_of(r, run.trajectory_id, step.index) for r in run.reviewed]
        self.recorder.step(
            trajectory_of(run),
            step,
            run.hits,
            [c for c in corrections if c is not None],
            withheld=run.withheld,
            trial=run.trial,
        )
        _tell(Acted(step=step))
        return {"run": run}

    def finish(self, state: GraphState) -> GraphState:
        """Write down the whole conversation."""
        run = state["run"]
        messages = self._prompt(run, _context().tools)
        return {"run": run.model_copy(update={"messages": messages, "is_done": True})}

    def _prompt(self, run: Run, tools: Sequence[ToolSpec]) -> tuple[Message, ...]:
        return self.views.prompt(
            run.task,
            tools=tools,
            history=run.history,
            memory=join_notes(run.notes, run.memory),
            tool_docs=self.lane_of(run).shows_tools,
        )

    def lane_of(self, run: Run) -> Lane:
        """Return who acts in a run: the agent's own model, or the student that it began with."""
        models = self.router or self.serving
        name = run.checkpoint or ("" if run.route is None else run.route.checkpoint)  # of an older state
        if models is None or not name:
            return self.lane
        model = models.model(name)
        return Lane(model, name, shows_tools(self.settings, model, name != "base"))

    def stood_aside(self, run: Run) -> Run:
        """Return a run with the base in the place of a student that stands aside where the run is now."""
        if self.serving is None or run.route is not None or not run.checkpoint:
            return run
        route = self.serving.aside(recall_state(run), run.checkpoint)
        return run if route is None else run.model_copy(update={"route": route, "checkpoint": "base"})

    def _begin_anew(self, run: Run, decision: Restart) -> Run:
        """Store the try that a person gave up, and return the next one in a world of its own."""
        step = _step_of(run, [ToolResult()])
        failure = Failure(kind="cancelled", message=f"a person wanted a new start: {decision.reason}")
        messages = self._prompt(run, _context().tools)
        update = {"steps": (*run.steps, step), "messages": messages, "failure": failure}
        given_up = trajectory_of(run.model_copy(update=update))
        corrections = [correction_of(r, run.trajectory_id, step.index) for r in run.reviewed]
        self.recorder.step(
            given_up,
            step,
            run.hits,
            [c for c in corrections if c is not None],
            withheld=run.withheld,
            trial=run.trial,
        )
        self.recorder.finish(given_up)
        _context().renew()
        _tell(Restarted(trajectory=given_up))
        return begun_anew(run, decision.reason)

    def _needs_review(self, run: Run, call: ToolCall) -> bool:
        if call.name in self.interrupt_on or (self.approve is not None and not self.approve(call)):
            return True
        return self.when_tainted == "ask" and self._is_doubtful(run, call)

    def _is_doubtful(self, run: Run, call: ToolCall) -> bool:
        """Whether a call may do harm on behalf of a text that nobody answers for."""
        return bool(run.tainted) and has_side_effects(call, _context().declared)

    def _settle(self, run: Run, call: ToolCall, decision: AnyDecision | None) -> Reviewed:
        if decision is None and self.when_tainted == "refuse" and self._is_doubtful(run, call):
            return refused(call, run.tainted)
        return settle(call, decision)

    def _result(self, run: Run, reviewed: Reviewed) -> ToolResult:
        if reviewed.result is not None or reviewed.accepted is None:
            return reviewed.result or ToolResult()
        if REDACTED in reviewed.accepted.model_dump_json(include={"arguments"}):
            return ToolResult(error=f"`{REDACTED}...]` stands in the arguments for a secret that is not kept")
        self.check()
        context = _context()
        with calling(run, self.trust):
            result = context.environment.call(reviewed.accepted)
        declared = declared_trust(context.declared).get(reviewed.accepted.name, "")
        if result.trust in (declared, "untrusted"):
            return result
        return result.model_copy(update={"trust": declared})

    def _verdict(self, run: Run, results: Sequence[ToolResult]) -> dict[str, Any]:
        if not run.reviewed or any(result.ends_task for result in results):
            return {"is_done": True}
        if len(run.steps) < self.settings.max_steps:
            return {}
        message = f"the run reached its limit of {self.settings.max_steps} steps"
        return {"is_done": True, "failure": Failure(kind="limit", message=message)}


def shows_tools(settings: AgentSettings, model: Model, is_student: bool) -> bool:
    """Decide on tool docs: a student knows its tools, a remote model reads them from the request."""
    knows_tools = is_student or bool(getattr(model, "reads_tools", False))
    return settings.tool_docs == "all" or (settings.tool_docs == "auto" and not knows_tools)


def _step_of(run: Run, results: Sequence[ToolResult]) -> Step:
    """Make the turn's record: the proposal stays in `reply`, what stood after review is accepted."""
    assert run.reply is not None
    stood = [(r.accepted, result) for r, result in zip(run.reviewed, results, strict=True) if r.accepted]
    return Step(
        index=len(run.steps),
        reply=run.reply.to_message(),
        accepted_calls=tuple(call for call, _ in stood),
        results=tuple(result for _, result in stood),
        recalled=tuple(hit.memory.id for hit in run.hits),
        usage=run.reply.usage,
        tokens=run.reply.tokens,
    )


def _after_think(state: GraphState) -> str:
    run = state["run"]
    if run.is_done:
        return "finish"
    return "review" if run.to_review else "act"


def _after_act(state: GraphState) -> str:
    return "finish" if state["run"].is_done else "recall"


def _context() -> Context:
    from langgraph.runtime import get_runtime

    return get_runtime(Context).context


def _tell(event: object) -> None:
    from langgraph.config import get_stream_writer

    get_stream_writer()(event)
