"""The distiller `strategy`: guidance for scenarios in which the student is weak (after arXiv 2408.07238).

Failed tasks whose requests are alike form a scenario. The teacher writes guidance from some of them; the
actor tries it on these and on others of the scenario, and only what makes its answers hold is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from pydantic import BaseModel, ConfigDict, Field

from agentkd.distill.ask import Asker, AskSettings, Finds, Refusal, read_json
from agentkd.distill.candidate import candidate
from agentkd.distill.finding import Finding, Notice, Rejection
from agentkd.distill.lesson import examine, refused
from agentkd.distill.pairing import best_successes, worst_failures
from agentkd.distill.prompt import fill, load_prompt
from agentkd.distill.rehearsal import rehearse
from agentkd.distill.revision import by_trajectory
from agentkd.distill.source import shorten, transcript
from agentkd.errors import AgentkdError, BudgetError, CeilingError, ConfigError, ModelError
from agentkd.protocols import Embedder, Kit, Model, Suite
from agentkd.schema import ADHOC, Correction, Memory, Message, Span, Task, Trajectory

__all__ = ["StrategyDistiller", "StrategySettings", "build_strategy"]


class StrategySettings(AskSettings):
    """`[distiller.strategy]`."""

    similar_above: float = Field(default=0.6, ge=-1.0, le=1.0)
    """Cosine similarity from which two failed requests belong to one scenario."""
    min_failures: int = Field(default=2, ge=1)
    """Failed tasks that make a scenario."""
    max_scenarios: int = Field(default=8, ge=1)
    """Scenarios that are worked on, the largest first."""
    max_probes: int = Field(default=6, ge=1)
    """Tasks of a scenario on which guidance is tried; the first half of them is shown to the teacher."""
    rounds: int = Field(default=2, ge=1)
    """Guidance that the teacher may write for one scenario until the answers hold."""
    min_success: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of the probes that must succeed with the guidance."""


class _Strategy(BaseModel):
    model_config = ConfigDict(extra="forbid")

    when_to_use: str = Field(min_length=8, max_length=300)
    query: str = Field(min_length=1, max_length=300)
    strategy: str = Field(min_length=8, max_length=900)
    quote: str = Field(min_length=1, max_length=600)


@dataclass(frozen=True)
class _Scenario:
    """Failed runs that are alike."""

    runs: tuple[Trajectory, ...]
    corrections: tuple[Correction, ...]
    suite: Suite | None

    @property
    def shown(self) -> tuple[Trajectory, ...]:
        """The runs that the teacher reads; the others test what it wrote."""
        return self.runs[: (len(self.runs) + 1) // 2]


@dataclass(frozen=True)
class _Trial:
    """How many probes succeed without and with a guidance."""

    n: int
    without: int
    with_: int
    still_wrong: str


class StrategyDistiller(Finds):
    """Write guidance for weak scenarios and keep what makes the actor's answers hold."""

    name = "strategy"

    def __init__(self, settings: StrategySettings | None = None) -> None:
        self.settings = settings or StrategySettings()
        self._asker = Asker(self.name, self.settings)
        self._slots = threading.BoundedSemaphore(self.settings.workers)  # scenarios share the calls in flight

    def attempt(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> Iterator[Finding]:
        """Yield one strategy per scenario that guidance helps, and what became of the others.

        Raises ConfigError where no model plays `distiller`: there is no path without one.
        """
        scenarios = self._scenarios(trajectories, corrections, kit)
        if not scenarios:
            return
        teacher = self._asker.teacher(kit)
        actor = _actor(kit)
        if isinstance(actor, Notice):
            yield actor
        yield Notice(distiller=self.name, counts={"scenarios": len(scenarios)})
        work = partial(
            self._work, teacher=teacher, actor=None if isinstance(actor, Notice) else actor, kit=kit
        )
        for scenario, found in self._asker.each(scenarios, work, kit):
            if isinstance(found, ModelError):
                yield self._asker.failure(scenario.runs, found)
            else:
                yield from found

    def _scenarios(
        self, trajectories: Sequence[Trajectory], corrections: Sequence[Correction], kit: Kit
    ) -> list[_Scenario]:
        done = {(t.task.suite, t.task.id) for (t,) in best_successes(trajectories)}
        failed = [t for (t,) in worst_failures(trajectories) if (t.task.suite, t.task.id) not in done]
        failed = [t for t in failed if not t.task.is_held_out]  # they would be tried with their grader
        given = by_trajectory(corrections)
        scenarios = []
        for suite in sorted({t.task.suite for t in failed}):
            runs = [t for t in failed if t.task.suite == suite]
            for group in _alike(runs, kit.embedder(), self.settings.similar_above):
                if len(group) >= self.settings.min_failures:
                    kept = tuple(group[: self.settings.max_probes])
                    told = tuple(c for t in kept for c in given.get(t.id, ()))
                    scenarios.append(_Scenario(kept, told, _suite(kit, suite)))
        scenarios.sort(key=lambda s: -len(s.runs))
        return scenarios[: self.settings.max_scenarios]

    def _work(self, scenario: _Scenario, *, teacher: Model, actor: Model | None, kit: Kit) -> list[Finding]:
        """Alternate between writing guidance and trying it, until it holds or the rounds are over."""
        findings: list[Finding] = []
        messages = self._question(scenario)
        before: list[Trajectory] = []  # how the probes fare without any guidance: tried once
        for _ in range(self.settings.rounds):
            with self._slots:
                said = self._asker.ask(teacher, messages, _Strategy.model_json_schema(), _read)
            if isinstance(said, Refusal):
                return [*findings, self._asker.failure(scenario.shown, said)]
            span = examine(self.name, said.strategy, said.quote, scenario.shown, scenario.corrections)
            if isinstance(span, Rejection):
                return [*findings, span]
            trial = self._try(scenario, said, actor, kit, before)
            if isinstance(trial, str):
                return [*findings, refused(self.name, scenario.runs, said.strategy, "not-tried", trial)]
            if self._holds(trial):
                return [*findings, self._memory(scenario, said, span, trial, kit)]
            figures = f"{trial.with_} of {trial.n} probes succeed with it, {trial.without} without"
            findings.append(refused(self.name, scenario.runs, said.strategy, "no-gain", figures))
            retry = fill(
                load_prompt("strategy-retry", self.settings.prompts),
                {"figures": figures, "runs": trial.still_wrong},
            )
            messages = [
                *messages,
                Message(role="assistant", content=said.model_dump_json(), origin="model"),
                *retry,
            ]
        return findings

    def _question(self, scenario: _Scenario) -> list[Message]:
        given = by_trajectory(scenario.corrections)
        limit = self.settings.max_transcript_chars // len(scenario.shown)
        texts = [
            f"Request: {shorten(t.task.prompt, limit)}\n{transcript(t, given.get(t.id, ()), limit=limit)}"
            for t in scenario.shown
        ]
        runs = "\n\n".join(texts).replace("</", "< /")
        return fill(load_prompt("strategy", self.settings.prompts), {"runs": runs})

    def _try(
        self, scenario: _Scenario, said: _Strategy, actor: Model | None, kit: Kit, before: list[Trajectory]
    ) -> _Trial | str:
        """Return how the probes fare without and with the guidance, or why they cannot be tried.

        `before` keeps what they did without it, for the next guidance.
        """
        if actor is None:
            return "no model plays the role `actor`"
        if scenario.suite is None:
            return f"the suite `{scenario.runs[0].task.suite}` is not known here"
        run = partial(
            rehearse,
            model=actor,
            suite=scenario.suite,
            views=kit.views(),
            settings=kit.settings.agent,
            purpose=f"distill:{self.name}",
        )
        guidance = f"When {said.when_to_use.strip()}: {said.strategy.strip()}"

        def probe(job: tuple[Task, str]) -> Trajectory:
            with self._slots:
                return run(*job)

        texts = (guidance,) if before else ("", guidance)
        jobs = [(t.task, text) for text in texts for t in scenario.runs]
        try:
            with ThreadPoolExecutor(self.settings.workers) as pool:
                made = [*before, *pool.map(probe, jobs)]
        except (BudgetError, CeilingError):
            raise
        except AgentkdError as error:
            return f"the trial broke: {error.message}"
        except Exception as error:  # the world of a task broke: that says nothing about the guidance
            return f"the trial broke: {type(error).__name__}: {error}"
        before[:] = made[: len(scenario.runs)]
        after = made[len(scenario.runs) :]
        wrong = [t for t in after[: len(scenario.shown)] if not t.success]  # the others stay unseen
        return _Trial(
            n=len(after),
            without=sum(t.success for t in before),
            with_=sum(t.success for t in after),
            still_wrong="\n\n".join(
                f"Request: {shorten(t.task.prompt, 600)}\n{transcript(t, (), limit=1200)}" for t in wrong[:2]
            ).replace("</", "< /"),
        )

    def _holds(self, trial: _Trial) -> bool:
        return trial.with_ > trial.without and trial.with_ >= self.settings.min_success * trial.n

    def _memory(self, scenario: _Scenario, said: _Strategy, span: Span, trial: _Trial, kit: Kit) -> Memory:
        figures = {"probes": trial.n, "without": trial.without, "with": trial.with_}
        return candidate(
            "strategy",
            " ".join(said.when_to_use.split()),
            said.strategy.strip(),
            trajectories=scenario.runs,
            scope=kit.settings.memory.scope,
            origin=self.name,
            confidence=trial.with_ / trial.n,
            corrections=scenario.corrections,
            query=" ".join(said.query.split()),
            spans=[span],
            extras={"tried": figures},
        )


def _actor(kit: Kit) -> Model | Notice:
    try:
        return kit.model("actor")
    except ConfigError as error:
        return Notice(
            distiller=StrategyDistiller.name, text=f"guidance is not tried, so none is kept: {error.message}"
        )


def _suite(kit: Kit, name: str) -> Suite | None:
    try:
        return None if name == ADHOC else kit.suite(name)
    except AgentkdError:
        return None


def _alike(runs: Sequence[Trajectory], embedder: Embedder, above: float) -> list[list[Trajectory]]:
    """Group runs around the first request that each is similar enough to."""
    if not runs:
        return []
    vectors = embedder.embed([run.task.prompt for run in runs])
    groups: list[tuple[int, list[Trajectory]]] = []
    for i, run in enumerate(runs):
        scored = [(float(vectors[leader] @ vectors[i]), members) for leader, members in groups]
        score, members = max(scored, key=lambda pair: pair[0], default=(-1.0, []))
        if score >= above:
            members.append(run)
        else:
            groups.append((i, [run]))
    return [members for _, members in groups]


def _read(text: str) -> _Strategy:
    return _Strategy.model_validate(read_json(text))


def build_strategy(settings: StrategySettings, kit: Kit) -> StrategyDistiller:
    """Build the component `strategy`."""
    return StrategyDistiller(settings)
