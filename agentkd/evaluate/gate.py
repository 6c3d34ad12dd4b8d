"""The gate: a candidate may serve only where held-out tasks show that it is better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agentkd import hookspecs
from agentkd.config import GateSettings
from agentkd.plugins import Hooks
from agentkd.schema import Evaluation, Paired, Verdict

__all__ = ["CANDIDATE", "SERVING", "gate", "refuse"]

CANDIDATE = "student"
"""Arm of the candidate."""

SERVING = "serving"
"""Arm of the checkpoint that serves now, where one does."""

BASE = "base"
"""Arm of the bare base model: what serves where no checkpoint does."""


class _Check(NamedTuple):
    flag: str
    """What the verdict calls it when it fails."""
    passed: bool
    sentence: str


def gate(evaluation: Evaluation, settings: GateSettings, serving: str, hooks: Hooks) -> Verdict:
    """Decide on the candidate: enough tasks, better than every rival, and no plugin's veto.

    Better means both: the lower bound of the paired gain is above `margin`, and the exact McNemar test
    is below `alpha` in the candidate's favour. Rivals are the arms in `against` and what serves now.

    Args:
        evaluation: All arms on the split that decides; the candidate is the arm `student`.
        settings: Margin, level and rivals.
        serving: What serves now: `base` or a checkpoint.
        hooks: Asked for vetoes (`judge_checkpoint`).
    """
    rivals = dict.fromkeys((*settings.against, BASE if serving == BASE else SERVING))
    checks = [_has_enough_tasks(evaluation, settings)]
    numbers = {"n": float(evaluation.n)}
    for rival in rivals:
        pair = _pair(evaluation, rival)
        if pair is None:
            checks.append(_Check(f"missing:{rival}", False, f"There is no comparison with `{rival}`."))
        else:
            checks.append(_beats(pair, settings))
            numbers.update(_figures(pair))
    checks += _vetoes(evaluation, hooks)
    return Verdict(
        promote=all(check.passed for check in checks),
        checkpoint=evaluation.checkpoint,
        against=serving,
        reasons=tuple(check.sentence for check in checks),
        flags=tuple(check.flag for check in checks if not check.passed),
        numbers=numbers,
    )


def refuse(checkpoint: str, serving: str, reason: str) -> Verdict:
    """Return the verdict on a candidate that could not be judged."""
    return Verdict(
        promote=False,
        checkpoint=checkpoint,
        against=serving,
        reasons=(f"Not promoted: {reason.rstrip('.')}.",),
        flags=("unjudged",),
    )


def _has_enough_tasks(evaluation: Evaluation, settings: GateSettings) -> _Check:
    passed = evaluation.n >= settings.min_tasks
    verb = "are enough" if passed else "are no evidence"
    return _Check(
        "min_tasks",
        passed,
        f"{evaluation.n} tasks of `{evaluation.split}` {verb}: at least {settings.min_tasks} are wanted.",
    )


def _pair(evaluation: Evaluation, rival: str) -> Paired | None:
    for pair in evaluation.paired:
        if pair.ours == CANDIDATE and pair.other == rival:
            return pair
    return None


def _beats(pair: Paired, settings: GateSettings) -> _Check:
    gain = pair.difference
    is_clear = gain.low > settings.margin
    is_significant = pair.wins > pair.losses and pair.p_value < settings.alpha
    passed = is_clear and is_significant
    verdict = "Better than" if passed else "Not shown to be better than"
    return _Check(
        f"not_better_than:{pair.other}",
        passed,
        f"{verdict} `{pair.other}`: gain {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] on {pair.n} "
        f"tasks (lower bound {'above' if is_clear else 'not above'} {settings.margin:g}), "
        f"{pair.wins} won, {pair.losses} lost, McNemar p = {pair.p_value:.2g} "
        f"({'below' if pair.p_value < settings.alpha else 'not below'} {settings.alpha:g}).",
    )


def _figures(pair: Paired) -> dict[str, float]:
    return {
        f"gain:{pair.other}": pair.difference.value,
        f"low:{pair.other}": pair.difference.low,
        f"high:{pair.other}": pair.difference.high,
        f"p:{pair.other}": pair.p_value,
        f"wins:{pair.other}": float(pair.wins),
        f"losses:{pair.other}": float(pair.losses),
    }


def _vetoes(evaluation: Evaluation, hooks: Hooks) -> Iterator[_Check]:
    refusing = hooks.refusals(
        hookspecs.judge_checkpoint, checkpoint=evaluation.checkpoint, evaluation=evaluation
    )
    for plugin in refusing:
        yield _Check(f"veto:{plugin}", False, f"The plugin `{plugin}` vetoed `{evaluation.checkpoint}`.")
