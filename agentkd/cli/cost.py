"""What work will probably cost and what it did cost, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentkd.cli.progress import clock_text
from agentkd.errors import NotFoundError
from agentkd.schema import Usage

if TYPE_CHECKING:
    from agentkd.workspace import Workspace

__all__ = ["cycle_estimate", "run_estimate", "spent", "spent_by", "train_estimate"]

_LOOK_BACK = 200


def spent(prompt_tokens: float, completion_tokens: float, seconds: float, usd: float | None) -> str:
    """Return `12,345 tokens read, 678 written, 12 s, $0.04`; an unknown price is called unknown."""
    money = "price unknown" if usd is None else "free" if usd == 0 else f"${usd:.4f}"
    return (
        f"{prompt_tokens:,.0f} tokens read, {completion_tokens:,.0f} written, {clock_text(seconds)}, {money}"
    )


def spent_by(usage: Usage | Mapping[str, float], seconds: float | None = None) -> str:
    """Return the cost of a `Usage` or of a phase's usage table; `seconds` is the wall time."""
    if isinstance(usage, Usage):
        usage = usage.model_dump()
    return spent(
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
        (usage.get("seconds") or 0.0) if seconds is None else seconds,
        usage.get("usd"),
    )


def run_estimate(workspace: Workspace, suite: str, n: int) -> str:
    """Return what `n` tasks of a suite will cost after the latest ones of it; empty without any."""
    past = workspace.ledger.trajectories.list(suite=suite, limit=_LOOK_BACK, latest=True)
    if not past or not n:
        return ""
    total = sum((t.usage for t in past[1:]), past[0].usage)
    share = n / len(past)
    usd = None if total.usd is None else total.usd * share
    cost = spent(total.prompt_tokens * share, total.completion_tokens * share, total.seconds * share, usd)
    return f"about {cost} (after the last {len(past)} tasks of `{suite}`)"


def train_estimate(workspace: Workspace, dataset_id: str | None) -> str:
    """Return how long a training will take after the latest one; empty without one."""
    cards = {card.id: card for card in workspace.datasets()}
    timed = [c for c in workspace.checkpoints() if c.metrics.get("seconds") and c.dataset_id in cards]
    wanted = cards.get(dataset_id or next(reversed(cards), ""))
    if not timed or wanted is None:
        return ""
    past = timed[-1]
    epochs = workspace.settings.train.epochs / (past.settings.epochs or 1.0)
    share = wanted.n_tokens / max(1, cards[past.dataset_id].n_tokens) * epochs
    return f"about {clock_text(past.metrics['seconds'] * share)} (after `{past.name}`)"


def cycle_estimate(workspace: Workspace) -> str:
    """Return how long a cycle will take after the latest report; empty before the first."""
    try:
        report = workspace.report()
    except NotFoundError:
        return ""
    seconds = sum(phase.seconds for phase in report.phases)
    return f"about {clock_text(seconds)} per round (after {report.id})"
