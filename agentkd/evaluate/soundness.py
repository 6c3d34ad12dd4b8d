"""The gate's checks of the candidate itself: its rows, training, distance from the base, exports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agentkd.config import GateSettings
from agentkd.evaluate.check import Check
from agentkd.evaluate.contamination import Contamination
from agentkd.evaluate.evidence import Evidence, ExportParity, RowAudit
from agentkd.evaluate.hacking import Hacking
from agentkd.schema import Diagnosis, TransferCell

if TYPE_CHECKING:
    from agentkd.hf.anchor import Anchors

__all__ = ["is_clean", "soundness_checks"]


def soundness_checks(evidence: Evidence, settings: GateSettings) -> Iterator[Check]:
    """Yield a check for every kind of evidence that there is."""
    taught = [cell for cell in evidence.transfer if cell.was_promoted and cell.paired is not None]
    for cell in taught:
        yield _keeps_what_a_cycle_taught(cell, settings.alpha / len(taught))
    if evidence.anchors is not None:
        yield from _stays_near_base(evidence.anchors, settings)
    if len(evidence.dev_losses) > 1:
        yield _is_not_overtrained(evidence.dev_losses, settings)
    if evidence.hacking is not None:
        yield _is_not_hacked(evidence.hacking, settings)
    if evidence.rows is not None:
        yield from _rests_on_evidence(evidence.rows, settings)
    for export in evidence.exports:
        yield _exports_alike(export)
    for diagnosis in evidence.diagnoses:
        yield from _is_diagnosed_sound(diagnosis)


def is_clean(found: Contamination, settings: GateSettings) -> Check:
    """Check that the training rows tell few of the tasks that decide."""
    n_leaked, n_exact = len(found.tasks), found.n_exact
    share = n_leaked / max(found.n_tasks, 1)
    passed = share <= settings.max_contaminated
    seen = (
        f"{n_leaked} of {found.n_tasks} tasks are all but told in the training rows ({n_exact} word for "
        f"word) and do not count here"
        if n_leaked
        else f"None of {found.n_tasks} tasks stands in the {found.n_rows} training rows"
    )
    if found.n_short:
        seen += f" ({found.n_short} are too short to tell)"
    limit = (
        ""
        if passed
        else (
            f"; more than {settings.max_contaminated:.0%} is a leak. Where tasks are alike by nature, raise "
            f"`gate.near_copy`"
        )
    )
    numbers = {"contaminated": float(n_leaked), "copied": float(n_exact)}
    return Check("contaminated", passed, f"{seen}{limit}.", numbers)


def _keeps_what_a_cycle_taught(cell: TransferCell, alpha: float) -> Check:
    """Check that nothing fell credibly below its value right after the cycle that taught it.

    Against what serves alone, a slow loss over many cycles would never show.
    """
    pair = cell.paired
    assert pair is not None
    passed = not (pair.losses > pair.wins and pair.p_value < alpha)
    then = cell.success.value - pair.difference.value
    return Check(
        f"forgot:cycle-{cell.cycle}",
        passed,
        f"What cycle {cell.cycle} taught on `{cell.suite}/{cell.split}` is {'kept' if passed else 'lost'}: "
        f"{cell.success.value:.3f} against {then:.3f} then on {pair.n} tasks, {pair.wins} won, {pair.losses} "
        f"lost (McNemar p = {pair.p_value:.2g}).",
        {f"transfer:cycle-{cell.cycle}": pair.difference.value, f"p:cycle-{cell.cycle}": pair.p_value},
    )


def _stays_near_base(anchors: Anchors, settings: GateSettings) -> Iterator[Check]:
    passed = anchors.change <= settings.max_anchor_loss
    yield Check(
        "anchors",
        passed,
        f"General texts cost {anchors.student:.3f} nats a token against {anchors.base:.3f} of the base "
        f"({anchors.change:+.1%}, {'within' if passed else 'above'} {settings.max_anchor_loss:.0%}).",
        {"anchor_change": anchors.change},
    )
    is_near = anchors.kl <= settings.max_kl
    yield Check(
        "far_from_base",
        is_near,
        f"KL to the base on them is {anchors.kl:.3f} nats a token "
        f"({'within' if is_near else 'above'} {settings.max_kl:g}).",
        {"kl_to_base": anchors.kl},
    )


def _is_not_overtrained(losses: Sequence[float], settings: GateSettings) -> Check:
    """Check that the loss on rows kept back did not turn up while training went on."""
    best, last = min(losses), losses[-1]
    rise = last / best - 1 if best > 0 else 0.0
    passed = rise <= settings.max_dev_rise
    return Check(
        "overtrained",
        passed,
        f"The loss on rows kept back ended {rise:.1%} above its best "
        f"({'within' if passed else 'above'} {settings.max_dev_rise:.0%}).",
        {"dev_rise": rise},
    )


def _is_not_hacked(found: Hacking, settings: GateSettings) -> Check:
    why = found.is_hacked(settings.max_departure, settings.max_dev_rise)
    law = (
        f"it ended {found.departure:+.0%} off a law of step ** {found.slope:.2f}"
        if found.is_seen
        else f"{found.n_steps} steps are too few for a law"
    )
    numbers = {"slope": found.slope, "departure": found.departure, "surprise": found.surprise}
    told = f"Teacher hacking: {why} ({law})." if why else f"No sign of teacher hacking: {law}."
    return Check("hacked", not why, told, numbers if found.is_seen else {})


def _rests_on_evidence(audit: RowAudit, settings: GateSettings) -> Iterator[Check]:
    n_bad, n = len(audit.unfounded), max(audit.n_grounded, 1)
    passed = n_bad / n <= settings.max_unfounded
    yield Check(
        "unfounded_rows",
        passed,
        f"{n_bad} of {audit.n_grounded} training rows say what none of the runs and corrections that they "
        f"name says{_such_as(audit.unfounded)} ({'within' if passed else 'above'} "
        f"{settings.max_unfounded:.0%}); {audit.n_rows - audit.n_grounded} name none.",
        {"rows": float(audit.n_rows), "unfounded": float(n_bad)},
    )
    if audit.n_regraded:
        n_wrong = len(audit.refuted)
        passed = n_wrong / audit.n_regraded <= settings.max_refuted
        yield Check(
            "refuted_rows",
            passed,
            f"The grader judges {n_wrong} of {audit.n_regraded} training rows wrong"
            f"{_such_as(audit.refuted)} ({'within' if passed else 'above'} {settings.max_refuted:.0%}).",
            {"regraded": float(audit.n_regraded), "refuted": float(n_wrong)},
        )


def _such_as(rows: Sequence[str]) -> str:
    return f", such as `{rows[0]}`" if rows else ""


def _exports_alike(export: ExportParity) -> Check:
    return Check(
        f"parity:{export.shape}",
        export.holds,
        f"Exported as `{export.shape}` and read back, it answers like the student at "
        f"{export.agreement:.2%} of the positions."
        if export.holds
        else f"It cannot be handed out as `{export.shape}`: {export.said.rstrip('.')}.",
        {f"parity:{export.shape}": export.agreement},
    )


def _is_diagnosed_sound(diagnosis: Diagnosis) -> Iterator[Check]:
    """Refuse what an evaluator flags; without a flag its figures stand in the verdict all the same."""
    numbers = {f"{diagnosis.evaluator}:{name}": value for name, value in diagnosis.metrics.items()}
    said = " ".join(diagnosis.notes)
    if not diagnosis.flags:
        yield Check(diagnosis.evaluator, True, said or f"`{diagnosis.evaluator}` saw nothing amiss.", numbers)
    for flag in diagnosis.flags:
        yield Check(
            f"{diagnosis.evaluator}:{flag}", False, f"`{diagnosis.evaluator}` flags `{flag}`: {said}", numbers
        )
