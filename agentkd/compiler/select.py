"""Decides what may go into weights: which memories, which turns, which rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import Field

from agentkd import hookspecs
from agentkd.compiler.eligibility import Holdings
from agentkd.compiler.turn import Turn
from agentkd.errors import DataError, PluginError
from agentkd.plugins import Hooks, NoSettings, blaming
from agentkd.protocols import Kit, Selector
from agentkd.schema import Example, Trajectory, Value

__all__ = [
    "CorrectionSelector",
    "CorrectionSettings",
    "SuccessOnlySelector",
    "SupportSelector",
    "SupportSettings",
    "admit_rows",
    "build_correction",
    "build_success_only",
    "build_support",
    "refuse_held_out",
]


def refuse_held_out(trajectories: Iterable[Trajectory]) -> None:
    """Raise DataError for a trajectory of a held-out split: nothing is ever trained on one."""
    for trajectory in trajectories:
        if trajectory.task.is_held_out:
            raise DataError(
                f"trajectory `{trajectory.id}` of task `{trajectory.task.id}` belongs to the held-out split "
                f"`{trajectory.task.split}` and is never trained on",
                hint="compile trajectories of training splits only",
                trajectory=trajectory.id,
            )


def admit_rows(
    examples: Sequence[Example], selectors: Sequence[Selector], hooks: Hooks, dropped: Counter[str]
) -> Iterator[Example]:
    """Yield the rows that every selector weighs above 0 and no plugin vetoes, with their weights."""
    weights = [1.0] * len(examples)
    for selector in selectors:
        scores = _scores(selector, examples)
        weights = [weight * score for weight, score in zip(weights, scores, strict=True)]
        dropped[f"selector {selector.name}"] += scores.count(0.0)
        examples = [e for e, weight in zip(examples, weights, strict=True) if weight]
        weights = [weight for weight in weights if weight]
    for example, weight in zip(examples, weights, strict=True):
        refusals = hooks.refusals(hookspecs.admit_example, example=example)
        if refusals:
            dropped[f"veto {refusals[0]}"] += 1
        else:
            yield example if weight == 1.0 else example.model_copy(update={"weight": weight})


def _scores(selector: Selector, examples: Sequence[Example]) -> list[float]:
    plugin = getattr(selector, "plugin", "") or selector.name
    with blaming(plugin, f"selector `{selector.name}`"):
        scores = [float(score) for score in selector.score(examples)]
    if len(scores) != len(examples) or not all(0.0 <= score < float("inf") for score in scores):
        raise PluginError(
            f"selector `{selector.name}` gave {len(scores)} weights for {len(examples)} rows, or one "
            "below 0 or not finite",
            hint="return one finite weight of at least 0 per row",
            plugin=plugin,
        )
    return scores


class SuccessOnlySelector:
    """Keep what the agent did well by itself; corrections stay out of the weights."""

    name = "success-only"

    def score(self, examples: Sequence[Example]) -> list[float]:
        """Return 1 for rows whose target is the agent's own successful work, else 0."""
        return [1.0 if example.extras.get("success") else 0.0 for example in examples]


class CorrectionSettings(Value):
    """`[selector.correction]`."""

    weight: float = Field(default=1.0, gt=0.0)
    """Weight of a row whose target a correction gave."""
    others: float = Field(default=0.0, ge=0.0)
    """Weight of all other rows; 0 leaves them out."""


class CorrectionSelector:
    """Keep what a person, grader or judge put right, or weigh it against the agent's own work."""

    name = "correction"

    def __init__(self, settings: CorrectionSettings | None = None) -> None:
        self.settings = settings or CorrectionSettings()

    def score(self, examples: Sequence[Example]) -> list[float]:
        """Return the weight of each row by whether a correction taught it."""
        taught, others = self.settings.weight, self.settings.others
        return [taught if example.provenance.corrections else others for example in examples]


class SupportSettings(Value):
    """`[selector.support]`."""

    min_support: int = Field(default=2, ge=1)
    """Distinct trajectories that a memory under the row must rest on."""


class SupportSelector:
    """Keep rows under which a live, shared memory lies that is no fact and has enough support."""

    name = "support"

    def __init__(self, settings: SupportSettings | None = None) -> None:
        self.settings = settings or SupportSettings()

    def score(self, examples: Sequence[Example]) -> list[float]:
        """Return 1 for rows with enough support, else 0."""
        wanted = self.settings.min_support
        return [1.0 if example.extras.get("support", 0) >= wanted else 0.0 for example in examples]


def build_success_only(settings: NoSettings, kit: Kit) -> SuccessOnlySelector:
    """Build the component `success-only`."""
    return SuccessOnlySelector()


def build_correction(settings: CorrectionSettings, kit: Kit) -> CorrectionSelector:
    """Build the component `correction`."""
    return CorrectionSelector(settings)


def build_support(settings: SupportSettings, kit: Kit) -> SupportSelector:
    """Build the component `support`."""
    return SupportSelector(settings)


def memory_extras(
    turn: Turn, resting: Sequence[str], holdings: Holdings, skill: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Return what selectors know about a row: whose work it is, and how well its memories are supported.

    `p_negative` holds the probability of harm of each memory that trials have measured, `skill` how often
    the student was graded on the tasks of the row's group and how often it succeeded.
    """
    measured = holdings.harm(turn)
    return {
        "success": not (turn.is_correction or turn.is_negative or turn.trajectory.task.is_synthetic),
        "support": max((holdings.allowed[id_].support for id_ in resting), default=0),
        **({"p_negative": measured} if measured else {}),
        **({"skill": list(skill)} if skill else {}),
    }
