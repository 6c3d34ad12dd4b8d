"""The candidates of a cycle: which datasets and which adapter each of them is trained from.

`union` starts from the base on all that was learnt; it forgets nothing and costs more every round. `stacked`
goes on from what serves, on the new rows with a replay of the earlier ones. Where both are wanted, both are
trained and judged on the same tasks, and the gate's level is divided between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from agentkd.cycle.journal import Plan, plan_phase
from agentkd.cycle.parts import Parts
from agentkd.cycle.replay import ancestor_datasets, union
from agentkd.cycle.unlearnt import rival_of
from agentkd.schema import DatasetCard, Value

__all__ = ["Source", "dataset_of", "sources_of"]


class Source(Value):
    """What one candidate is trained from."""

    kind: Literal["union", "stacked"]
    """Which way."""
    dataset_id: str
    """Dataset of this cycle."""
    replay: tuple[str, ...] = ()
    """Datasets of earlier cycles on other suites or splits: this cycle's holds what its own suite taught."""
    init: str = ""
    """Checkpoint that training goes on from; empty for the base."""


def sources_of(parts: Parts, plan: Plan, dataset_id: str) -> list[Source]:
    """Return the candidates that `[train] candidates` asks for.

    A cycle that recompiles trains from the base alone. While the base serves, `stacked` goes on from the
    newest student that was carried over to this base; where there is none, it falls back to `union`.
    """
    replay = tuple(_earlier(parts, plan, parts.ledger.datasets.get(dataset_id)))
    wanted = dict.fromkeys(parts.settings.train.candidates)
    sound = rival_of(parts, plan.serving)  # nothing goes on from a tainted student
    init = "" if plan.recompile else sound if sound != "base" else _carried_over(parts)
    kinds = [kind for kind in wanted if kind == "union" or init] or ["union"]
    return [
        Source(kind=kind, dataset_id=dataset_id, replay=replay, init=init if kind == "stacked" else "")
        for kind in kinds
    ]


def dataset_of(parts: Parts, source: Source) -> DatasetCard:
    """Return the dataset of a candidate, written where it is not there yet.

    A union takes all that earlier cycles taught; a stacked candidate sees `[train] replay_share` of what it
    was trained on already.
    """
    if source.kind == "union":
        if not source.replay:
            return parts.ledger.datasets.get(source.dataset_id)
        return union(parts, source.dataset_id, source.replay, share=1.0)
    return union(parts, source.dataset_id, source.replay, known=_known_rows(parts, source.init))


def _known_rows(parts: Parts, name: str) -> set[str]:
    """Return the ids of the rows that a checkpoint has seen, in the words of before a teacher told them."""
    datasets = parts.ledger.datasets
    seen = list(ancestor_datasets(parts, name))
    seen += [str(told) for id_ in seen if (told := datasets.get(id_).settings.get("made_from"))]
    return {row.example_id for id_ in seen for row in datasets.rows(id_, "train")}


def _carried_over(parts: Parts) -> str:
    """Return the newest sound checkpoint on the present base whose parent belongs to another one."""
    base_id = parts.student_files.base_id
    known = {checkpoint.name: checkpoint for checkpoint in parts.ledger.checkpoints.list()}
    found = [
        c.name
        for c in known.values()
        if c.base_id == base_id and c.status not in ("rejected", "tainted")
        and c.parent in known and known[c.parent].base_id != base_id
    ]  # fmt: skip
    return found[-1] if found else ""


def _earlier(parts: Parts, plan: Plan, card: DatasetCard) -> Iterator[str]:
    """Yield the newest dataset of every other suite and split that a cycle learnt on.

    A cycle compiles all trajectories of its own suite and split, so older datasets of these hold nothing
    more; what was rendered for another base or template cannot be trained on.
    """
    if not plan.suite:
        return  # compiled from the whole ledger
    found: dict[tuple[str, str], str] = {}
    for report in parts.ledger.cycles.list("done"):
        if report.dataset_id and report.number < plan.number:
            found[report.suite, _split_of(parts, report.id)] = report.dataset_id
    found.pop((plan.suite, plan.split), None)
    for dataset_id in dict.fromkeys(found.values()):
        other = parts.ledger.datasets.get(dataset_id)
        if (other.base, other.template_hash) == (card.base, card.template_hash) and other.n_train:
            yield dataset_id


def _split_of(parts: Parts, cycle_id: str) -> str:
    planned = plan_phase(parts, cycle_id)
    return Plan.model_validate(planned.output).split if planned else ""
