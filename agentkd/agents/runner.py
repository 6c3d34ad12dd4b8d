"""Run an agent over tasks: several at a time, graded, stored one by one, and gone on with after a kill."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agentkd.agents.agent import Agent
from agentkd.agents.retry import Lessons, Retries, first_try, may_retry, n_retries, next_try
from agentkd.errors import AgentkdError, ConfigError, DataError, ModelError
from agentkd.plugins import Hooks, blaming
from agentkd.protocols import Progress, SilentProgress, Suite
from agentkd.schema import RETRY_STRIDE, Correction, Outcome, Task, Trajectory, Usage, Value, content_id

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
    """Those that succeeded at the first try, earlier ones included."""
    retried: int = 0
    """Those that failed at first and were tried again with lessons."""
    rescued: int = 0
    """Those of the retried that succeeded in the end; not among `succeeded`."""
    failures: dict[str, int] = Field(default_factory=dict)
    """Runs of this call that broke off, by kind."""
    routes: dict[str, int] = Field(default_factory=dict)
    """Tries by the student that a router chose, `base` where it chose none or a tainted one stood aside;
    earlier ones included."""
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
    retries: Retries | None = None,
    before_task: Callable[[], None] | None = None,
) -> RunSummary:
    """Run every task `attempts` times and store each graded trajectory as soon as it is finished.

    What this `run_id` has finished before is not run again. With `keep_expected` (training splits only)
    the accepted answer of a failed task is stored as a correction by the grader. With `retries` a failed
    task that may be learnt from is tried again; every try is a trajectory of its own. `hooks` are those of
    the agent. A failed run is data; but where the first runs all fail at the model and none got an answer,
    nothing is stored and ModelError is raised. An AgentkdError of `before_task`, called before every try,
    ends the run; tries under way are kept. Raises BudgetError where a ceiling is met, DataError for a suite
    that hands out answers of held-out tasks, ConfigError for an agent that asks a person.
    """
    if agent.may_pause:
        raise ConfigError(
            f"agent `{agent.name}` asks a person about some calls, so it cannot run a whole suite",
            hint="leave out `approve` and `interrupt_on` here",
        )
    if attempts > RETRY_STRIDE:
        raise ConfigError(f"`attempts` may be {RETRY_STRIDE} at most", key="run.attempts")
    started = time.monotonic()
    stored = ledger.trajectories.of_run(run_id)
    known = {(t.task.id, t.attempt) for t in stored}
    jobs = [(task, attempt) for attempt in range(attempts) for task in tasks]
    todo = [_Try(task, attempt) for task, attempt in jobs if (task.id, attempt) not in known]
    done_before = len(jobs) - len(todo)
    chains = _Chains(retries if keep_expected else None)
    tally = _Tally()
    if done_before:
        for trajectory in _of_jobs(stored, jobs):
            tally.add(trajectory, is_new=False)
            chains.add(trajectory)
        todo += chains.unfinished()
    work = _Work(agent, suite, run_id, keep_expected, chains, before_task)
    with (progress or SilentProgress()).bar(f"run {agent.name}", len(jobs), "tasks") as bar:
        bar.advance(done_before)
        for trajectory in work.results(todo, workers):
            tally.add(trajectory)
            is_first = n_retries(trajectory.attempt) == 0
            bar.advance(is_first, note=f"{tally.succeeded + len(tally.rescued)} succeeded")
    chains.keep_lessons()
    return RunSummary(
        run_id=run_id,
        n=len(jobs),
        done_before=done_before,
        seconds=time.monotonic() - started,
        **tally.figures(),
    )


def _of_jobs(stored: Sequence[Trajectory], jobs: Sequence[tuple[Task, int]]) -> list[Trajectory]:
    """Return what a run finished of these jobs when it was called before."""
    wanted = {(task.id, attempt) for task, attempt in jobs}
    return [trajectory for trajectory in stored if _key(trajectory) in wanted]


@dataclass(frozen=True)
class _Try:
    """One try at a task, and the failed ones before it."""

    task: Task
    attempt: int
    failed: tuple[Trajectory, ...] = ()


class _Tally:
    """Counts of the trajectories; costs and failures are those of this call."""

    def __init__(self) -> None:
        self.succeeded = 0
        self.retried: set[tuple[str, int]] = set()
        self.rescued: set[tuple[str, int]] = set()
        self.failures: dict[str, int] = {}
        self.routes: Counter[str] = Counter()
        self.usage = Usage(usd=0.0)

    def add(self, trajectory: Trajectory, *, is_new: bool = True) -> None:
        key = _key(trajectory)
        if "route" in trajectory.extras:
            self.routes[trajectory.extras["route"]["checkpoint"]] += 1
        if n_retries(trajectory.attempt) == 0:
            self.succeeded += trajectory.success
        else:
            self.retried.add(key)
            if trajectory.success:
                self.rescued.add(key)
        if not is_new:
            return
        self.usage += trajectory.usage
        if trajectory.failure is not None:
            kind = trajectory.failure.kind
            self.failures[kind] = self.failures.get(kind, 0) + 1

    def figures(self) -> dict[str, Any]:
        """Return the counts under the names of a summary."""
        return {
            "succeeded": self.succeeded,
            "retried": len(self.retried),
            "rescued": len(self.rescued),
            "failures": self.failures,
            "routes": dict(self.routes.most_common()),
            "usage": self.usage,
        }


class _Chains:
    """The tries of each task in order, with the lessons that the last one read."""

    def __init__(self, retries: Retries | None) -> None:
        self._retries = retries
        self._tries: dict[tuple[str, int], list[Trajectory]] = {}
        self._lessons: dict[tuple[str, int], Lessons] = {}

    def add(self, trajectory: Trajectory) -> _Try | None:
        """Take a finished try; returns the next one where it failed and there may be another."""
        tries = self._tries.setdefault(_key(trajectory), [])
        tries.append(trajectory)
        tries.sort(key=lambda t: t.attempt)
        n = self._retries.n if self._retries is not None else 0
        if n_retries(tries[-1].attempt) >= n or not all(map(may_retry, tries)):
            return None
        return _Try(trajectory.task, next_try(tries[-1].attempt), tuple(tries))

    def unfinished(self) -> list[_Try]:
        """Return the next tries of tasks that an earlier call left without one."""
        last = [self._tries[key].pop() for key in list(self._tries)]
        return [job for trajectory in last if (job := self.add(trajectory)) is not None]

    def lessons(self, job: _Try) -> Lessons:
        """Distil the lessons of the failed tries; none for a first try."""
        if not job.failed or self._retries is None:
            return Lessons()
        lessons = self._retries.lessons(job.failed)
        self._lessons[job.task.id, first_try(job.attempt)] = lessons
        return lessons

    def keep_lessons(self) -> None:
        """Admit the lessons of the tasks that a retry rescued; the others are forgotten.

        They come in after the run, so that every task of a run meets the same memories. Those of tasks that
        an earlier call rescued before it was cut off are distilled again.
        """
        if self._retries is None:
            return
        rescued = [key for key, tries in self._tries.items() if len(tries) > 1 and tries[-1].success]
        if any(key not in self._lessons for key in rescued):
            known = set(self._retries.known())
            for key in rescued:
                failed = self._tries[key][:-1]
                if key not in self._lessons and known.isdisjoint(each.id for each in failed):
                    self._lessons[key] = self._retries.lessons(failed)
        rescued = [key for key in rescued if key in self._lessons]
        memories = [memory for key in rescued for memory in self._lessons[key].memories]
        if memories:
            self._retries.keep(memories)


def _key(trajectory: Trajectory) -> tuple[str, int]:
    return trajectory.task.id, first_try(trajectory.attempt)


class _Work:
    """Runs, grades and stores; holds model errors back until one run got an answer."""

    def __init__(
        self,
        agent: Agent,
        suite: Suite,
        run_id: str,
        keep_expected: bool,
        chains: _Chains,
        before: Callable[[], None] | None,
    ) -> None:
        self._agent = agent
        self._suite = suite
        self._run_id = run_id
        self._keep_expected = keep_expected
        self._chains = chains
        self._before = before

    def results(self, jobs: Sequence[_Try], workers: int) -> Iterable[Trajectory]:
        """Yield each trajectory once it is stored; a failed one may bring a further try with it."""
        held: list[Trajectory] = []
        is_reached = False
        pool = ThreadPoolExecutor(
            max_workers=max(1, min(workers, len(jobs))), thread_name_prefix="agentkd-run"
        )
        waiting: dict[Future[Trajectory], None] = {self._submit(pool, job): None for job in jobs}
        try:
            while waiting and (is_reached or len(held) < FIRST_FAILURES):
                done = wait(waiting, return_when=FIRST_COMPLETED).done
                future = next(each for each in waiting if each in done)
                del waiting[future]
                held.append(future.result())
                is_reached = is_reached or not _failed_at_model(held[-1])
                if is_reached:
                    for trajectory in map(self._store, held):
                        further = self._chains.add(trajectory)
                        if further is not None:
                            waiting[self._submit(pool, further)] = None
                        yield trajectory
                    held.clear()
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

    def _submit(self, pool: ThreadPoolExecutor, job: _Try) -> Future[Trajectory]:
        """Start a try that knows of the agent in whose tool this runs."""
        return pool.submit(copy_context().run, self._run, job)

    def _run(self, job: _Try) -> Trajectory:
        if self._before is not None:
            self._before()
        lessons = self._chains.lessons(job)
        return self._agent.attempt(job.task, run_id=self._run_id, attempt=job.attempt, lessons=lessons)

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
