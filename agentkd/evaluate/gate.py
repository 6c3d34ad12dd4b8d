"""The gate: a candidate may serve only where held-out tasks show that it is better."""

from __future__ import annotations

from collections.abc import Iterator

from agentkd import hookspecs
from agentkd.config import GateSettings
from agentkd.evaluate.check import Check
from agentkd.evaluate.checks import BASE, CANDIDATE, SERVING, all_checks
from agentkd.evaluate.evidence import Evidence
from agentkd.plugins import Hooks
from agentkd.schema import Evaluation, Verdict

__all__ = ["BASE", "CANDIDATE", "SERVING", "gate", "refuse"]


def gate(
    evaluation: Evaluation,
    settings: GateSettings,
    serving: str,
    hooks: Hooks,
    evidence: Evidence | None = None,
) -> Verdict:
    """Decide on the candidate: better than every rival, nothing lost, and no plugin's veto.

    Better means both: the lower bound of the paired gain is above `margin`, and the one-sided exact
    McNemar test is below its level. Rivals are the arms in `against` and what serves now.

    Args:
        evaluation: All arms on the split that decides, without contaminated tasks; the candidate is the
            arm `student`.
        settings: Margins, levels and rivals.
        serving: What serves now: `base` or a checkpoint.
        hooks: Asked for vetoes (`judge_checkpoint`).
        evidence: What else is known; checks of what was not measured are left out.
    """
    checks = [*all_checks(evaluation, evidence or Evidence(), settings, serving), *_vetoes(evaluation, hooks)]
    return Verdict(
        promote=all(check.passed for check in checks),
        checkpoint=evaluation.checkpoint,
        against=serving,
        reasons=tuple(check.sentence for check in checks),
        flags=tuple(check.flag for check in checks if not check.passed),
        numbers={name: value for check in checks for name, value in check.numbers.items()},
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


def _vetoes(evaluation: Evaluation, hooks: Hooks) -> Iterator[Check]:
    refusing = hooks.refusals(
        hookspecs.judge_checkpoint, checkpoint=evaluation.checkpoint, evaluation=evaluation
    )
    for plugin in refusing:
        yield Check(f"veto:{plugin}", False, f"The plugin `{plugin}` vetoed `{evaluation.checkpoint}`.")
