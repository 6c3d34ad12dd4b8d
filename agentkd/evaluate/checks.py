"""The gate's checks: each looks at one kind of evidence and says in one sentence what it saw."""

from __future__ import annotations

from collections.abc import Iterator

from agentkd.config import GateSettings
from agentkd.evaluate.check import Check
from agentkd.evaluate.evidence import Evidence
from agentkd.evaluate.paired import compare
from agentkd.evaluate.power import spent_alpha
from agentkd.evaluate.soundness import is_clean, soundness_checks
from agentkd.evaluate.statistics import paired_bootstrap, superiority_p
from agentkd.schema import Evaluation, Paired

__all__ = ["BASE", "CANDIDATE", "SERVING", "all_checks"]

CANDIDATE = "student"
"""Arm of the candidate."""

SERVING = "serving"
"""Arm of the checkpoint that serves now, where one does."""

BASE = "base"
"""Arm of the bare base model: what serves where no checkpoint does."""

_WITH_MEMORY = f"{CANDIDATE} + memory"


def all_checks(
    evaluation: Evaluation, evidence: Evidence, settings: GateSettings, serving: str
) -> Iterator[Check]:
    """Yield every check of the gate."""
    incumbent = BASE if serving == BASE else SERVING
    own = settings.alpha / evidence.n_candidates
    alpha = spent_alpha(own, evidence.look) if settings.spend_alpha else own
    yield _has_enough_tasks(evaluation, settings)
    if evidence.contamination is not None:
        yield is_clean(evidence.contamination, settings)
    for rival in dict.fromkeys((*settings.against, incumbent)):
        yield _beats(_pair(evaluation, rival), rival, settings, alpha, evidence.look)
    yield from _keeps_parts(evaluation, incumbent, settings)
    yield from _stands_alone(evaluation, settings)
    for earlier in evidence.earlier:
        yield _keeps_earlier(earlier, incumbent, settings.alpha)  # a lower level would see fewer losses
    yield from soundness_checks(evidence, settings)


def _has_enough_tasks(evaluation: Evaluation, settings: GateSettings) -> Check:
    passed = evaluation.n >= settings.min_tasks
    verb = "are enough" if passed else "are no evidence"
    return Check(
        "min_tasks",
        passed,
        f"{evaluation.n} tasks of `{evaluation.split}` {verb}: at least {settings.min_tasks} are wanted.",
        {"n": float(evaluation.n)},
    )


def _pair(evaluation: Evaluation, rival: str) -> Paired | None:
    for pair in evaluation.paired:
        if pair.ours == CANDIDATE and pair.other == rival:
            return pair
    return None


def _beats(pair: Paired | None, rival: str, settings: GateSettings, alpha: float, look: int) -> Check:
    """Check that the gain's lower bound is above the margin and the exact McNemar test below its level.

    The test is one-sided, for one side alone promotes: `alpha` is the chance that no better one passes it.
    """
    if pair is None:
        return Check(f"missing:{rival}", False, f"There is no comparison with `{rival}`.")
    gain = pair.difference
    is_clear = gain.low > settings.margin
    p_value = superiority_p(pair.wins, pair.losses)
    is_significant = pair.wins > pair.losses and p_value < alpha
    passed = is_clear and is_significant
    verdict = "Better than" if passed else "Not shown to be better than"
    spent = f", look {look}" if settings.spend_alpha else ""
    return Check(
        f"not_better_than:{rival}",
        passed,
        f"{verdict} `{rival}`: gain {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] on {pair.n} "
        f"tasks (lower bound {'above' if is_clear else 'not above'} {settings.margin:g}), "
        f"{pair.wins} won, {pair.losses} lost, one-sided McNemar p = {p_value:.2g} "
        f"({'below' if p_value < alpha else 'not below'} {alpha:.2g}{spent}).",
        {
            f"gain:{rival}": gain.value,
            f"low:{rival}": gain.low,
            f"high:{rival}": gain.high,
            f"p:{rival}": p_value,
            f"wins:{rival}": float(pair.wins),
            f"losses:{rival}": float(pair.losses),
            "alpha": alpha,
        },
    )


def _keeps_parts(evaluation: Evaluation, incumbent: str, settings: GateSettings) -> Iterator[Check]:
    """Check that no partial score, such as the validity of calls, fell credibly below what serves.

    A task that lacks a part counts as 0 there, so a candidate that lost a part altogether is seen too.
    """
    arms = {arm.name: arm for arm in evaluation.arms}
    if CANDIDATE not in arms or incumbent not in arms:
        return
    ours, theirs = arms[CANDIDATE].results, arms[incumbent].results
    for part in sorted(arms[incumbent].parts):
        change = paired_bootstrap(
            [r.parts.get(part, 0.0) for r in ours], [r.parts.get(part, 0.0) for r in theirs]
        )
        passed = change.high >= -settings.max_part_loss
        said = "kept" if passed else "worse"
        yield Check(
            f"worse_part:{part}",
            passed,
            f"`{part}` is {said} against `{incumbent}`: {change.value:+.3f} "
            f"[{change.low:+.3f}, {change.high:+.3f}].",
            {f"part:{part}": change.value},
        )


def _stands_alone(evaluation: Evaluation, settings: GateSettings) -> Iterator[Check]:
    """Check that the weights took in what the memories teach: without them it is hardly worse."""
    pair = _pair(evaluation, _WITH_MEMORY)
    if pair is None:
        return
    passed = pair.difference.value >= -settings.delta
    yield Check(
        "needs_memory",
        passed,
        f"Without memories it does {pair.difference.value:+.3f} against with them "
        f"({'within' if passed else 'more than'} {settings.delta:g} {'of' if passed else 'below'} that).",
        {"without_memory": pair.difference.value},
    )


def _keeps_earlier(earlier: Evaluation, incumbent: str, alpha: float) -> Check:
    arms = {arm.name: arm for arm in earlier.arms}
    pair = compare(arms[CANDIDATE], arms[incumbent])
    passed = not (pair.losses > pair.wins and pair.p_value < alpha)
    where = f"{earlier.suite}/{earlier.split}"
    said = "kept" if passed else "lost"
    return Check(
        f"forgot:{where}",
        passed,
        f"What earlier cycles taught on `{where}` is {said}: {arms[CANDIDATE].success.value:.3f} against "
        f"{arms[incumbent].success.value:.3f} of `{incumbent}` on {pair.n} tasks, {pair.wins} won, "
        f"{pair.losses} lost (McNemar p = {pair.p_value:.2g}).",
        {f"transfer:{where}": pair.difference.value, f"p:{where}": pair.p_value},
    )
