"""agentkd and bare Chroma in one process, asked the same questions in turns: what slows a moment slows both.

Measured apart, minutes lie between the two, and on a shared machine the one that came later had another
machine. Here every question goes to both, with its vector given and with the default embedder, and to the
embedder alone; who comes first moves on from question to question. `memory.py` starts it; each size is one
JSON line in the report file.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from memory_corpus import minilm
from memory_served import Served
from memory_system import BATCH, Agentkd, AgentkdDense, Chroma, System


def fill(system: System, served: Served, done: int, size: int, largest: int) -> None:
    """Add what lies between two sizes, for everybody and for both tenants, and let the graphs take it in."""
    for at in range(done, size, BATCH):
        system.add(range(at, min(at + BATCH, size)))
    for tenant, part in served.owned(done, size, largest, BATCH):
        system.add(part, tenant)
    system.settle()
    system.finish()


def in_turns(
    asked: dict[str, Callable[[str], Any]], queries: Sequence[str], most: float
) -> dict[str, list[float]]:
    """Return the seconds of every question by whom it was put to; ends after the turn in which time is up."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for ask in asked.values():
        ask(queries[-1])  # loads what is loaded lazily
    begun = time.monotonic()
    for turn, query in enumerate(queries):
        first = turn % len(asked)
        for label in [*asked][first:] + [*asked][:first]:
            before = time.perf_counter()
            asked[label](query)
            seconds[label].append(time.perf_counter() - before)
        if time.monotonic() - begun > most:
            break
    return dict(seconds)


def _found(system: System, view: str, query: str) -> list[int]:
    return system.search(query, view)


def main() -> int:
    """Measure `NAME SIZES CAP CORPUS SCRATCH REPORT`; half of the cap of seconds goes into questions."""
    _, sizes, cap, corpus, scratch, report = sys.argv[1:]
    folder = Path(scratch) / uuid.uuid4().hex
    folder.mkdir(parents=True)
    served, model, done = Served(Path(corpus)), minilm(), 0
    systems = {
        "Chroma": Chroma(folder / "bare", served),
        "agentkd": Agentkd(folder / "whole", served),
        "agentkd, dense": AgentkdDense(folder / "dense", served),
    }
    views = [(name, view) for name, system in systems.items() for view in system.views if view != "filtered"]
    asked: dict[str, Callable[[str], Any]] = {"embedding": lambda query: model.embed([query])}
    for name, view in views:
        asked[f"{name} {view}"] = partial(_found, systems[name], view)
    for size in (wanted := [int(size) for size in sizes.split(",")]):
        for system in systems.values():
            fill(system, served, done, size, max(wanted))
        done = size
        with Path(report).open("a", encoding="utf-8") as opened:
            fact = {"size": size, "seconds": in_turns(asked, served.queries, float(cap) / 2 / len(wanted))}
            opened.write(json.dumps(fact) + "\n")
    for system in systems.values():
        system.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
