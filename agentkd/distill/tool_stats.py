"""Counts what happened to each tool: calls, errors, parameters, values, what came next, what was mended."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agentkd.distill.revision import is_instance
from agentkd.distill.source import generalise, shorten
from agentkd.schema import ToolCall, Trajectory, canonical_json

__all__ = ["Act", "ToolStats", "gather_stats"]

_ID = re.compile(r"\b(?=\w*\d)\w+\b")
_ERRORS_TOLD = 3
_MIN_TIMES = 2  # what happened once is an accident
_MIN_RUNS = 3  # a value that recurs in fewer runs may belong to one user
_ALWAYS = 0.95


@dataclass(frozen=True)
class Act:
    """One call with what became of it."""

    run: Trajectory
    step: int
    call: ToolCall
    error: str
    mended_by: ToolCall | None = None
    """The next call of the same tool in the run that went through with other arguments."""


@dataclass
class ToolStats:
    """Everything counted of one tool."""

    tool: str
    acts: list[Act] = field(default_factory=list)
    followers: Counter[str] = field(default_factory=Counter)

    @property
    def n_calls(self) -> int:
        """Return the number of calls."""
        return len(self.acts)

    @property
    def n_errors(self) -> int:
        """Return the number of failed calls."""
        return sum(bool(act.error) for act in self.acts)

    @property
    def n_mended(self) -> int:
        """Return the number of failed calls that a later one mended."""
        return sum(act.mended_by is not None for act in self.acts)

    @property
    def error_rate(self) -> float:
        """Return the share of calls that failed."""
        return self.n_errors / self.n_calls if self.acts else 0.0

    def frequent_errors(self) -> list[str]:
        """Return the most frequent errors in general words, most frequent first."""
        counts = Counter(_general(act.error) for act in self.acts if act.error)
        return [text for text, n in counts.most_common(_ERRORS_TOLD) if n >= _MIN_TIMES]

    def mended(self) -> list[str]:
        """Return one sentence per error that other arguments mended."""
        found: dict[str, Counter[str]] = {}
        for act in self.acts:
            if act.mended_by is not None:
                changed = _changed(act.call, act.mended_by)
                found.setdefault(_general(act.error), Counter())[", ".join(f"`{n}`" for n in changed)] += 1
        return [
            f"After {error!r}, change {changes.most_common(1)[0][0]}: that was accepted."
            for error, changes in sorted(found.items())
        ][:_ERRORS_TOLD]

    def always_set(self) -> list[str]:
        """Return the parameters that accepted calls set."""
        good = self._accepted()
        counts = Counter(name for act in good for name in act.call.arguments)
        return [name for name, n in counts.items() if n >= _ALWAYS * len(good)]

    def usual_values(self, share: float) -> dict[str, Any]:
        """Return values that recur in accepted calls of several runs and belong to no one request."""
        good = self._accepted()
        found: dict[str, Any] = {}
        for name in self.always_set():
            values = Counter(canonical_json(act.call.arguments.get(name)) for act in good)
            text, n = values.most_common(1)[0]
            runs = {act.run.task.id for act in good if canonical_json(act.call.arguments.get(name)) == text}
            value = json.loads(text)
            if n >= share * len(good) and len(runs) >= _MIN_RUNS and not is_instance(value):
                found[name] = value
        return found

    def usual_next(self, share: float) -> str:
        """Return the tool that usually follows an accepted call; empty where there is none."""
        (name, n), *_ = self.followers.most_common(1) or [("", 0)]
        return name if name and n >= share * len(self._accepted()) else ""

    def telling_acts(self) -> list[Act]:
        """Return the acts, those that teach most first: mended failures, failures, accepted calls."""
        return sorted(self.acts, key=lambda act: (act.mended_by is None, not act.error))

    def _accepted(self) -> list[Act]:
        return [act for act in self.acts if not act.error]


def gather_stats(trajectories: Sequence[Trajectory]) -> list[ToolStats]:
    """Return what was counted per tool, tools in alphabetical order."""
    found: dict[str, ToolStats] = {}
    for run in trajectories:
        acts = [
            (step.index, call, result.error)
            for step in run.steps
            for call, result in zip(step.accepted_calls, step.results, strict=False)
        ]
        for i, (step, call, error) in enumerate(acts):
            stats = found.setdefault(call.name, ToolStats(call.name))
            later = acts[i + 1 :]
            mended = _mended_by(call, later) if error else None
            stats.acts.append(Act(run, step, call, error, mended))
            if later and not error:  # what follows an error is a repair, not a habit
                stats.followers[later[0][1].name] += 1
    return [found[name] for name in sorted(found)]


def _mended_by(call: ToolCall, later: Sequence[tuple[int, ToolCall, str]]) -> ToolCall | None:
    mended = next((c for _, c, error in later if c.name == call.name and not error), None)
    return mended if mended is not None and mended.arguments != call.arguments else None


def _changed(call: ToolCall, mended: ToolCall) -> list[str]:
    names = dict.fromkeys([*call.arguments, *mended.arguments])
    return [n for n in names if call.arguments.get(n) != mended.arguments.get(n)]


def _general(error: str) -> str:
    text = " ".join(_ID.sub(" ", generalise(error)).split())
    return shorten(re.sub(r"^error:\s*", "", text, flags=re.IGNORECASE), 160)
