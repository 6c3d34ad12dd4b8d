"""The steps of learning, one method each: run, correct, distill, compile, train, evaluate, and the cycle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from agentkd import hookspecs
from agentkd.errors import ConfigError, DataError
from agentkd.schema import (
    Checkpoint,
    Correction,
    CycleReport,
    DatasetCard,
    Evaluation,
    PhaseReport,
    StudentReport,
    ToolCall,
    TrainPlan,
    Trajectory,
    content_id,
)
from agentkd.workspace.opening import Opening

if TYPE_CHECKING:
    from agentkd.agents import RunSummary
    from agentkd.cycle.schedule import Due
    from agentkd.memory import Edit

__all__ = ["Learning"]


class Learning(Opening):
    """What a workspace does to learn."""

    def run(
        self, suite: str | None = None, split: str | None = None, n: int | None = None, model: str = "actor"
    ) -> RunSummary:
        """Run the actor over a split of a suite; calling it again goes on where it was cut off."""
        from agentkd.cycle.evaluation import run_key
        from agentkd.cycle.stage import run_stage

        cycle = self.settings.cycle
        chosen = self.parts.suite(suite or cycle.suite)
        tasks = chosen.tasks(split or cycle.split, n if n is not None else cycle.n, cycle.seed)
        uses_memory = self.settings.agent.recall != "off"
        run_id = run_key(self.parts, "run", chosen.name, tasks, model, uses_memory, cycle.seed)
        return run_stage(
            self.parts, suite=chosen, tasks=tasks, run_id=run_id, model=model, uses_memory=uses_memory,
            label="run", attempts=self.settings.run.attempts,
        )  # fmt: skip

    def correct(
        self,
        run: Trajectory | str,
        text: str = "",
        *,
        call: ToolCall | Mapping[str, Any] | None = None,
        answer: str = "",
        step: int | None = None,
    ) -> Correction:
        """Store what a person says about a run; `distill` turns it into a memory.

        Args:
            run: The trajectory or its id.
            text: What should be done another way, in plain words.
            call: The tool call that would have been right. Where the run's task names its tools, it has to be
                one of theirs.
            answer: The answer that would have been right.
            step: Index of the corrected turn; None for the whole run.

        Who says the same twice on end has said it once; who goes back to what he said before is heard again.
        Raises DataError for a correction that says nothing, of a step that is not there, or with a call that
        cannot be made.
        """
        trajectory = run if isinstance(run, Trajectory) else self.ledger.trajectories.get(run)
        if not (text or call or answer):
            raise DataError(
                "a correction needs a text, a call or an answer", hint="say what should be different"
            )
        if step is not None and not 0 <= step < len(trajectory.steps):
            raise DataError(
                f"run `{trajectory.id}` has no step {step}",
                hint=f"it has {len(trajectory.steps)} steps, counted from 0",
            )
        accepted = () if call is None else (_call_of(call, trajectory),)
        proposed = trajectory.steps[step].reply.tool_calls if step is not None else ()
        said = ("cor", trajectory.id, step, "person", text, accepted, answer)
        correction = Correction(
            id=_id_of(said, self.ledger.corrections.for_trajectory(trajectory.id)),
            trajectory_id=trajectory.id,
            step=step,
            text=text,
            source="person",
            kind="parameter" if accepted else "answer" if answer else "plan",
            proposed=proposed,
            accepted=accepted,
            accepted_answer=answer,
        )
        self.ledger.corrections.add(correction)
        self.hooks.ask(hookspecs.after_correction, correction=correction)
        return correction

    def distill(self, run_id: str | None = None) -> PhaseReport:
        """Distil the trajectories of a run, or of all training splits, into memories."""
        import time

        from agentkd.cycle.stage import distill_stage

        start = time.perf_counter()
        found = self.ledger.trajectories.list(run_id=run_id)
        result = distill_stage(self.parts, [t for t in found if not t.task.is_held_out])
        return PhaseReport(
            name="distill", key=content_id("pha", "distill", [t.id for t in found]), status="done",
            summary=result.summary, output=result.output, seconds=time.perf_counter() - start,
        )  # fmt: skip

    def refine(self, refiners: Sequence[str] = ()) -> list[Edit]:
        """Let refiners edit the memories, as a cycle does between distilling and compiling.

        Args:
            refiners: Components of kind `refiner`, in order; those of the settings by default.

        Returns what they changed; what a plugin refused is among it, with its `refusal`.
        """
        chosen = [self.parts.build("refiner", name) for name in refiners] or self.parts.refiners()
        return self.parts.memory.refine(chosen, self.parts)

    def assess(
        self, checkpoint: str = "", *, split: str = "", n: int | None = None, suite: str | None = None
    ) -> StudentReport:
        """Let the student (what serves by default) do training-side tasks and report how it does."""
        from agentkd.cycle.assess import assess

        settings, cycle = self.settings.synthesize, self.settings.cycle
        return assess(
            self.parts, suite=cycle.suite if suite is None else suite, split=split or settings.split,
            n=n if n is not None else settings.n, seed=cycle.seed, checkpoint=checkpoint,
        ).report  # fmt: skip

    def synthesize(
        self, synthesizers: Sequence[str] = (), *, n_items: int | None = None, is_dry: bool = False
    ) -> PhaseReport:
        """Assess the student and let the teacher write what it lacks; `compile` makes rows of it.

        Args:
            synthesizers: Components of kind `synthesizer`; those of the settings by default.
            n_items: Items to write; `[synthesize] max_items` by default.
            is_dry: Whether to ask no teacher and only say what it would cost at most.
        """
        import time

        from agentkd.cycle.synthesis import synthesize_stage

        start = time.perf_counter()
        result = synthesize_stage(
            self.parts,
            suite=self.settings.cycle.suite,
            synthesizers=synthesizers,
            n_items=n_items,
            is_dry=is_dry,
        )
        key = content_id("pha", "synthesize", result.output["report"], list(synthesizers), n_items, is_dry)
        return PhaseReport(
            name="synthesize", key=key, status="done", summary=result.summary, output=result.output,
            usage=result.usage, seconds=time.perf_counter() - start,
        )  # fmt: skip

    def compile(self, suite: str | None = None) -> DatasetCard:
        """Compile trajectories and memories into a dataset of training rows."""
        from agentkd.cycle.stage import compile_stage

        return compile_stage(self.parts, suite=suite or self.settings.cycle.suite or None)

    def train(
        self, dataset_id: str | None = None, *, go_on_from: str = "", replay: Sequence[str] = ()
    ) -> Checkpoint:
        """Train a student on a dataset (the newest compiled one by default); a killed training goes on."""
        from agentkd.cycle.stage import checkpoint_name, train_stage
        from agentkd.cycle.training import dataset_to_train, decisive_settings, read_beside, told_by

        parts = self.parts
        dataset_id = dataset_to_train(parts, dataset_id, replay)
        train, _ = decisive_settings(parts)
        facts = (train, parts.student_files.base_id, go_on_from, *read_beside(parts))
        key = content_id("trn", dataset_id, *facts, *told_by(parts))
        return train_stage(parts, dataset_id, checkpoint_name(parts, key), go_on_from)

    def plan_training(
        self, dataset_id: str | None = None, *, go_on_from: str = "", replay: Sequence[str] = ()
    ) -> TrainPlan:
        """Return what `train` would take; starts nothing."""
        from agentkd.cycle.training import plan_training

        return plan_training(self.parts, dataset_id, go_on_from, replay)

    def evaluate(
        self,
        checkpoint: str | None = None,
        split: str | None = None,
        n: int | None = None,
        *,
        evaluators: Sequence[str] | None = None,
    ) -> Evaluation:
        """Compare base, memory and a checkpoint (the newest by default) on held-out tasks.

        `evaluators` look at the checkpoint too; None asks those of `[evaluate] evaluators`.
        """
        from agentkd.cycle.diagnose import diagnosed
        from agentkd.cycle.evaluation import evaluate_stage

        known = self.ledger.checkpoints.list()
        name = checkpoint if checkpoint is not None else (known[-1].name if known else "")
        if name:
            self.parts.checkpoint(name)
        serving = self.parts.serving()
        settings, cycle = self.settings.evaluate, self.settings.cycle
        against = serving.name if serving else "base"
        evaluation = evaluate_stage(
            self.parts, suite=self.parts.suite(cycle.suite), split=split or settings.split,
            n=n if n is not None else settings.n, seed=cycle.seed, candidate=name, serving=against,
        )  # fmt: skip
        return diagnosed(self.parts, against, evaluation, evaluators)

    def when_due(self) -> Due:
        """Say whether a cycle is due, and why or why not; runs nothing and does not open the index."""
        from agentkd.cycle.schedule import when_due

        return when_due(self.parts)

    def cycle(
        self,
        *,
        rounds: int | None = None,
        recompile: bool = False,
        max_seconds: float | None = None,
        max_tokens: int | None = None,
        max_usd: float | None = None,
        asked: Callable[[], str] = lambda: "",
    ) -> CycleReport:
        """Run whole cycles; one that was cut off is finished first. Returns the last report.

        Where a ceiling of this call is met (by default those of `[cycle]`) it stops between two items, what
        is done is kept, and `stopped` of the report says so; the next call goes on from there.

        Args:
            rounds: Cycles in a row.
            recompile: Whether the first begins with `compile`: a new student from the base on what was not
                revoked. One that was cut off goes on with that unasked.
            max_seconds: Wall time.
            max_tokens: Tokens that models read and write.
            max_usd: Money.
            asked: Called between items; a text that it returns stops the cycle in the same way.

        Raises LockedError where another process runs a cycle on this ledger, or took this one over.
        """
        count = rounds if rounds is not None else self.settings.cycle.rounds
        if count < 1:
            raise ConfigError("`rounds` must be at least 1", key="cycle.rounds")
        with self._leading(max_seconds, max_tokens, max_usd, asked):
            return self._rounds(count, recompile=recompile)

    def cycle_if_due(
        self,
        *,
        rounds: int = 1,
        max_seconds: float | None = None,
        max_tokens: int | None = None,
        max_usd: float | None = None,
        asked: Callable[[], str] = lambda: "",
    ) -> CycleReport | None:
        """Run one cycle where one is due, asked under the lease: of several workers one runs it.

        Arguments and errors are those of `cycle`; None where nothing is due. What is left of the day's budget
        is a ceiling too, and while a tainted student serves the first cycle recompiles.
        """
        with self._leading(max_seconds, max_tokens, max_usd, asked, of_day=True):
            due = self.when_due()
            return self._rounds(rounds, recompile=due.recompiles) if due.is_due else None

    def _rounds(self, count: int, *, recompile: bool) -> CycleReport:
        from agentkd.cycle import run_cycle

        report = run_cycle(self.parts, recompile=recompile)
        for _ in range(count - 1):
            if report.stopped or report.verdict is None:
                break
            report = run_cycle(self.parts)
        return report

    @contextmanager
    def _leading(
        self,
        max_seconds: float | None,
        max_tokens: int | None,
        max_usd: float | None,
        asked: Callable[[], str],
        *,
        of_day: bool = False,
    ) -> Iterator[None]:
        """Hold the lease of cycles, under ceilings; who loses the lease stops between two items.

        With `of_day` none of the ceilings is above what is left of the day's budget.
        """
        from agentkd.cycle.ceiling import Ceiling
        from agentkd.cycle.schedule import left_of_day

        limits = self.settings.cycle
        with self.ledger.leases.held("cycle", limits.lease_seconds) as hold:
            left = left_of_day(self.parts) if of_day else {}
            tokens = _least(limits.max_tokens if max_tokens is None else max_tokens, left.get("tokens"))
            self.parts.ceiling = Ceiling(
                max_seconds=_least(
                    limits.max_seconds if max_seconds is None else max_seconds, left.get("seconds")
                ),
                max_tokens=None if tokens is None else int(tokens),
                max_usd=_least(limits.max_usd if max_usd is None else max_usd, left.get("usd")),
                spent=self.parts.meter.spent,
                asked=lambda: hold.lost or asked() or self.parts.stop.asked(),
            )
            try:
                yield
            finally:
                self.parts.ceiling = Ceiling(asked=self.parts.stop.asked)


def _call_of(given: ToolCall | Mapping[str, Any], trajectory: Trajectory) -> ToolCall:
    """Return the call of a correction; raises DataError for what is none, or none of the run's tools."""
    from agentkd.agents.review import check_call

    try:
        call = ToolCall.model_validate(given)
    except ValidationError as error:
        said = error.errors()[0]["msg"]
        hint = 'write {"name": ..., "arguments": {...}}'
        raise DataError(f"this is no tool call: {said}", hint=hint) from error
    check_call(call, trajectory.task.tools, "nothing was stored")
    return call


def _id_of(said: tuple[Any, ...], before: Sequence[Correction]) -> str:
    """Return the id of what a person says of a run of which this was said before, oldest first.

    It is that of the words, so that a repetition is none. Words that something else followed are new ones:
    what is said last holds.
    """
    words = content_id(*said)
    if all(earlier.id != words for earlier in before):
        return words
    newest = before[-1].id
    return newest if newest == _id_of(said, before[:-1]) else content_id(*said, newest)


def _least(*limits: float | None) -> float | None:
    """Return the lowest of the limits that are set; None where none is."""
    return min((limit for limit in limits if limit is not None), default=None)
