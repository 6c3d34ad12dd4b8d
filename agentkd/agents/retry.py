"""Try a failed task again with what the failure teaches (ReMe, arXiv 2512.10696: at most 3 tries more).

Tries of one attempt are numbered apart: attempt 0 has the retries 1000, 2000 and 3000. The lessons are
candidates: only the next try reads them, and they are kept only where a try succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agentkd.hf import call_text
from agentkd.schema import NOTES_BEGIN, NOTES_END, RETRY_STRIDE, Heard, Memory, Trajectory

__all__ = [
    "Lessons",
    "Retries",
    "first_try",
    "join_notes",
    "may_retry",
    "n_retries",
    "next_try",
    "restart_note",
    "retry_note",
    "unrescued",
]

MAX_CHARS = 300
"""Longest part of a call, an error or a person's word in a note."""


@dataclass(frozen=True)
class Lessons:
    """What failed tries of a task teach, before anybody knows whether it helps."""

    notes: str = ""
    """Text that the next try reads before its request."""
    memories: tuple[Memory, ...] = ()
    """Candidates among it, to be admitted where the next try succeeds."""
    heard: tuple[Heard, ...] = ()
    """What tools said in those tries; the notes may carry it on."""


@dataclass(frozen=True)
class Retries:
    """How failed training tasks are tried again; distilling and admitting is the caller's."""

    n: int
    """Most tries after the first one."""
    lessons: Callable[[Sequence[Trajectory]], Lessons]
    """Distils the failed tries of one task, oldest first; called from several threads."""
    keep: Callable[[Sequence[Memory]], None]
    """Admits the lessons of tasks that a retry rescued; called once, at the end of the run."""
    known: Callable[[], Collection[str]] = frozenset
    """Trajectories that memories rest on: lessons of tasks that an earlier call rescued were kept, or not."""


def first_try(attempt: int) -> int:
    """Return the number of the attempt that a try belongs to."""
    return attempt % RETRY_STRIDE


def n_retries(attempt: int) -> int:
    """Return how many tries of the same attempt came before this one."""
    return attempt // RETRY_STRIDE


def next_try(attempt: int) -> int:
    """Return the number of the try after this one."""
    return attempt + RETRY_STRIDE


def may_retry(trajectory: Trajectory) -> bool:
    """Whether another try makes sense: the task may be learnt from, and the agent itself failed at it."""
    broke = trajectory.failure is not None and trajectory.failure.kind not in ("limit", "tool")
    return trajectory.outcome is not None and not (trajectory.success or broke or trajectory.task.is_held_out)


def unrescued(trajectories: Iterable[Trajectory]) -> set[str]:
    """Return the ids of failed tries whose task was tried again without success in the same run.

    What only they support was tried out and did not help.
    """
    tries: dict[tuple[str, str, int], list[Trajectory]] = {}
    for trajectory in trajectories:
        key = (trajectory.run_id, trajectory.task.id, first_try(trajectory.attempt))
        tries.setdefault(key, []).append(trajectory)
    return {
        trajectory.id
        for group in tries.values()
        if any(n_retries(t.attempt) for t in group) and not any(t.success for t in group)
        for trajectory in group
    }


def retry_note(failed: Sequence[Trajectory], feedback: Callable[[Trajectory], str]) -> str:
    """Return what the next try reads of the failed ones: their calls, errors of tools, the grader's words."""
    blocks = [_template("retry").format(happened=_happened(t, feedback(t))) for t in failed]
    return "\n".join([NOTES_BEGIN, *blocks, NOTES_END])


def restart_note(reason: str) -> str:
    """Return what a new try is told of a person who stopped the one before."""
    return _template("restart").format(reason=_short(reason))


def join_notes(*parts: str) -> str:
    """Put notes one under the other; empty ones leave nothing behind."""
    return "\n\n".join(part for part in parts if part)


def _happened(trajectory: Trajectory, feedback: str) -> str:
    lines = []
    for step in trajectory.steps:
        for call, result in zip(step.accepted_calls, step.results, strict=False):
            error = f" and got the error: {_short(result.error)}" if result.error else ""
            lines.append(f"It called {_short(call_text(call))}{error}")
    if trajectory.answer:
        lines.append(f"It answered: {_short(trajectory.answer)}")
    if feedback:
        lines.append(f"What was wrong: {_short(feedback)}")
    return "\n".join(lines)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARS else f"{line[: MAX_CHARS - 3]}..."


@cache
def _template(name: str) -> str:
    path = Path(__file__).parent / "prompts" / f"{name}.md"
    return path.read_text(encoding="utf-8").strip()
