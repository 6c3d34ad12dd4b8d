"""Ask the gate about one checkpoint outside of a cycle."""

from __future__ import annotations

from agentkd.cycle.diagnose import diagnosed
from agentkd.cycle.evaluation import check_rivals, evaluate_stage
from agentkd.cycle.judge import judge, probe_earlier
from agentkd.cycle.looks import note_look
from agentkd.cycle.parts import Parts
from agentkd.cycle.unlearnt import rival_of, unlearnt_check, with_check
from agentkd.errors import ConfigError
from agentkd.schema import Verdict

__all__ = ["ask_gate", "passed_before"]


def ask_gate(parts: Parts, name: str) -> Verdict:
    """Judge a checkpoint against what serves now, as a cycle would; what was run already is only read.

    Promotes nothing, and is a look at these tasks as that of a cycle is. Raises ConfigError where the
    settings name no suite to judge on, or a rival that is not evaluated.
    """
    settings, cycle = parts.settings.evaluate, parts.settings.cycle
    if not cycle.suite:
        raise ConfigError(
            f"there are no held-out tasks to judge `{name}` on", hint="name a suite in `[cycle] suite`"
        )
    check_rivals(parts)
    found = parts.serving()
    serving = found.name if found else "base"
    suite = parts.suite(cycle.suite)
    evaluation = evaluate_stage(
        parts, suite=suite, split=settings.split, n=settings.n, seed=cycle.seed, candidate=name,
        serving=serving,
    )  # fmt: skip
    evaluation = diagnosed(parts, serving, evaluation)
    earlier = probe_earlier(parts, name, serving, suite=suite.name, splits=(settings.split,), seed=cycle.seed)
    verdict = judge(parts, name, rival_of(parts, serving), evaluation, earlier)
    verdict = with_check(verdict, unlearnt_check(parts, name))
    if name != serving:  # what serves wins nothing by another look
        note_look(parts, evaluation, verdict)
    return verdict


def passed_before(parts: Parts, name: str) -> bool:
    """Whether a checkpoint has served already, or the gate of a cycle let it pass."""
    if any(event.name == name for event in parts.ledger.checkpoints.history()):
        return True
    verdicts = (report.verdict for report in parts.ledger.cycles.list("done"))
    return any(found is not None and found.checkpoint == name and found.promote for found in verdicts)
