"""Run an agent over tasks: several at a time, graded, stored one by one, and gone on with after a kill."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from pydantic import Field

from agentkd.agents.agent import Agent
from agentkd.errors import AgentkdError, ConfigError, DataError, ModelError
from agentkd.plugins import Hooks, blaming
from agentkd.protocols import Progress, SilentProgress, Suite
from agentkd.schema import Correction, Outcome, Task, Trajectory, Usage, Value, content_id

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["RunSummary", "run_tasks"]

FIRST_FAILURES = 3
"""So many model errors before any answer mean that the model cannot be reached."""


class RunSummary(Value):
    """What came of a run."""

    run_id: str
    """Identifier of the run."""
    n: int
    """Tasks times attempts."""
    done_before: int = 0
    """Those that were already in the ledger."""
    succeeded: int = 0
    """Those that succeeded, earlier ones included."""
    failures: dict[str, int] = Field(default_factory=dict)
    """Runs of this call that broke off, by kind."""
    usage: Usage = Usage(usd=0.0)
    """Cost of this call."""
    seconds: float = 0.0
    """Wall time of this call."""


def run_tasks(
    agent: Agent,
    tasks: Sequence[Task],
    *,
    suite: Suite,
    ledger: Ledger,
    hooks: Hooks | None = None,
    run_id: str,
    attempts: int = 1,
    workers: int = 8,
    progress: Progress | None = None,
    keep_expected: bool = False,
) -> RunSummary:
    """Run every task `attempts` times and store each graded trajectory as soon as it is finished.

    What this `run_id` has finished before is not run again. With `keep_expected` (training splits only)
    the accepted answer of a failed task is stored as a correction by the grader. `hooks` are those of the
    agent. A failed run is data; but where the first runs all fail at the model and none got an answer,
    nothing is stored and ModelError is raised. Raises BudgetError where a ceiling is met, and DataError
    for a suite that hands out answers of held-out tasks, and ConfigError for an agent that asks a person.
    """
    if agent.may_pause:
        raise ConfigError(
            f"agent `{agent.name}` asks a person about some calls, so it cannot run a whole suite",
            hint="leave out `approve` and `interrupt_on` here",
        )
    started = time.monotonic()
    known = ledger.trajectories.done_tasks(run_id)
    jobs = [(task, attempt) for attempt in range(attempts) for task in tasks]
    todo = [(task, attempt) for task, attempt in jobs if (task.id, attempt) not in known]
    done_before = len(jobs) - len(todo)
    wanted = {task.id for task in tasks}
    earlier = ledger.trajectories.list(run_id=run_id, success=True) if done_before else []
    tally = _Tally(sum(t.task.id in wanted and t.attempt < attempts for t in earlier))
    work = _Work(agent, suite, run_id, keep_expected)
    with (progress or SilentProgress()).bar(f"run {agent.name}", len(jobs), "tasks") as bar:
        bar.advance(done_before)
        for trajectory in work.results(todo, workers):
            tally.add(trajectory)
            bar.advance(1, note=f"{tally.succeeded} succeeded")
    return RunSummary(
        run_id=run_id,
        n=len(jobs),
        done_before=done_before,
        succeeded=tally.succeeded,
        failures=tally.failures,
        usage=tally.usage,
        seconds=time.monotonic() - started,
    )


class _Tally:
    """Counts of the trajectories of this call."""

    def __init__(self, succeeded: int) -> None:
        self.succeeded = succeeded
        self.failures: dict[str, int] = {}
        self.usage = Usage(usd=0.0)

    def add(self, trajectory: Trajectory) -> None:
        self.succeeded += trajectory.success
        self.usage += trajectory.usage
        if trajectory.failure is not None:
            kind = trajectory.failure.kind
            self.failures[kind] = self.failures.get(kind, 0) + 1


class _Work:
    """Runs, grades and stores; holds model errors back until one run got an answer."""

    def __init__(self, agent: Agent, suite: Suite, run_id: str, keep_expected: bool) -> None:
        self._agent = agent
        self._suite = suite
        self._run_id = run_id
        self._keep_expected = keep_expected

    def results(self, jobs: Sequence[tuple[Task, int]], workers: int) -> Iterable[Trajectory]:
        """Yield each trajectory once it is stored."""
        held: list[Trajectory] = []
        is_reached = False
        pool = ThreadPoolExecutor(
            max_workers=max(1, min(workers, len(jobs))), thread_name_prefix="agentkd-run"
        )
        waiting: set[Future[Trajectory]] = {pool.submit(self._run, task, attempt) for task, attempt in jobs}
        try:
            for future in as_completed(set(waiting)):
                waiting.discard(future)
                held.append(future.result())
                is_reached = is_reached or not _failed_at_model(held[-1])
                if is_reached:
                    yield from map(self._store, held)
                    held.clear()
                elif len(held) >= FIRST_FAILURES:
                    break
        except AgentkdError:
            pool.shutdown(wait=True, cancel_futures=True)
            for future in waiting:  # what was paid for while the others stopped is kept
                if is_reached and not future.cancelled() and future.exception() is None:
                    self._store(future.result())
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if held and held[0].failure is not None:
            raise ModelError(held[0].failure.message, model=self._agent.model.name)

    def _run(self, task: Task, attempt: int) -> Trajectory:
        return self._agent.attempt(task, run_id=self._run_id, attempt=attempt)

    def _store(self, trajectory: Trajectory) -> Trajectory:
        """Grade and store a trajectory, with its correction in the same transaction."""
        if trajectory.failure is not None and trajectory.failure.kind == "cancelled":
            self._agent.recorder.finish(trajectory)
            return trajectory
        with blaming(self._suite.name, f"the grader of suite `{self._suite.name}`"):
            outcome = self._suite.grade(trajectory)
        if (outcome.expected or outcome.expected_answer) and not self._keep_expected:
            raise DataError(
                f"suite `{self._suite.name}` gave the answer of the held-out task `{trajectory.task.id}`",
                hint="`grade` must leave `expected` and `expected_answer` empty outside training splits",
            )
        graded = trajectory.model_copy(update={"outcome": outcome})
        self._agent.recorder.finish(graded, _corrections(graded, outcome))
        return graded


def _failed_at_model(trajectory: Trajectory) -> bool:
    return trajectory.failure is not None and trajectory.failure.kind == "model" and not trajectory.steps


def _corrections(trajectory: Trajectory, outcome: Outcome) -> list[Correction]:
    """Return the grader's correction of a failed run whose answer may be known."""
    if outcome.success or not (outcome.expected or outcome.expected_answer):
        return []
    text = outcome.feedback or "The accepted answer is another one."
    answer = "" if outcome.expected else outcome.expected_answer
    return [
        Correction(
            id=content_id("cor", trajectory.id, None, "grader", text, answer or outcome.expected),
            trajectory_id=trajectory.id,
            text=text,
            source="grader",
            kind="answer",
            proposed=tuple(call for step in trajectory.steps for call in step.accepted_calls),
            accepted=outcome.expected,
            accepted_answer=answer,
        )
    ]
