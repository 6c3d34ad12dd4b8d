"""What no table of the ledger says of lineage: cycles, exports, skills, cached signals, counter-memories."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from agentkd.cycle.parts import Parts
from agentkd.ledger import LineageNode, Link

__all__ = ["outside_links"]


def outside_links(parts: Parts) -> list[Link]:
    """Return every link of the workspace that no table of the ledger holds."""
    return [*_counters(parts), *_cycles(parts), *_exports(parts), *_skills(parts), *_signals(parts)]


def _counters(parts: Parts) -> Iterator[Link]:
    for memory in parts.ledger.memories.list(kinds=["constraint"]):
        if memory.counters:
            yield Link(_node("memory", memory.id), _node("memory", memory.counters))


def _cycles(parts: Parts) -> Iterator[Link]:
    for report in parts.ledger.cycles.list("done"):
        if report.checkpoint:
            yield Link(_node("cycle", report.id), _node("checkpoint", report.checkpoint))
        for evaluation in report.evaluations:
            yield Link(_node("cycle", report.id), _node("evaluation", evaluation.id))


def _exports(parts: Parts) -> Iterator[Link]:
    from agentkd.cycle.export import exports_of

    for name in parts.ledger.checkpoints.names():
        for export in exports_of(parts, name):
            yield Link(_node("export", export.out), _node("checkpoint", name))


def _skills(parts: Parts) -> Iterator[Link]:
    from agentkd.skills import find_skills, memory_ids_of

    for skill in find_skills([parts.root / "skills"]):
        for memory_id in memory_ids_of(skill):
            yield Link(_node("skill", skill.name), _node("memory", memory_id))


def _signals(parts: Parts) -> Iterator[Link]:
    """Find the rows whose teacher signals are cached; datasets are read only where some are."""
    root = parts.root / "signals"
    if not any(root.glob("signals-*")):
        return
    from agentkd.train.artefact import cached_keys, row_key
    from agentkd.train.rows import load_dataset

    cached = cached_keys(root)
    for folder in sorted(path for path in (parts.root / "datasets").glob("*") if _is_whole(path)):
        dataset = load_dataset(folder, max_tokens=sys.maxsize)
        for row in (*dataset.train, *dataset.dev):
            key = row_key(row.teacher) if row.teacher is not None else ""
            for name, keys in cached.items():
                if key in keys:
                    yield Link(_node("signals", name), _node("row", row.id))


def _is_whole(folder: Path) -> bool:
    return (folder / "card.json").is_file() and (folder / "train.jsonl").stat().st_size > 0


def _node(kind: str, id_: str) -> LineageNode:
    return LineageNode.model_validate({"kind": kind, "id": id_})
