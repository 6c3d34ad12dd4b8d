"""How fast memories come in and are found again, and how many of the right ones, beside other systems.

    python benchmarks/memory.py            # 1k, 10k, 100k memories; about a quarter of an hour
    python benchmarks/memory.py --small    # 1k and 5k
    python benchmarks/memory.py --resume --systems Chroma    # one system, while the machine is quiet
    python benchmarks/memory.py --growth   # agentkd and bare Chroma to a million; an hour

`--resume` goes on with what was measured before; alone, after the last system, it prints the whole table.
Rates of adding are compared by CPU seconds: on a shared machine the rest says who was beside. What counts as
added is kept and found: agentkd's vectors are compared one by one until its graph has taken
them in, which is a row of its own. Each system runs in a process of its own on the same texts and vectors
(`memory_corpus.py`), the peers from an environment of their own (`peers.py`, pinned in
`requirements-memory.txt`). Vectors come from a table, so that no figure holds the time of a model, but in
the views that say so; what embedding one question costs by itself is a row of its own. A system that does
not reach a size within its cap of seconds has no row there, but one that says where it stopped. The bars of
recall stand twice: against bare Chroma measured apart, some minutes later, and against bare Chroma in one
process, asked in turns (`memory_beside.py`), where what slows a moment slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measure import RESULTS, WORK, Row, at_least, at_most, publish
from memory_corpus import Corpus, corpus, grown, minilm
from memory_served import TENANTS
from memory_system import EMBEDDED, K
from peers import peers_python

OURS = ("agentkd", "agentkd, dense", "agentkd, exact")
PEERS = ("Chroma", "LangGraph store", "LangMem", "LangMem, SQLite", "mem0")
BESIDE = "agentkd beside Chroma"  # both in one process, asked in turns
NEEDS_OURS = (*OURS, "Chroma", BESIDE)  # bare Chroma runs on the Chroma that agentkd runs on
EMBEDDABLE = 110_000  # texts that are embedded; what a run needs beyond them is grown out of them
_COLOURS = ("#0a0", "#05c", "#6a6", "#c50", "#a0a", "#850", "#088", "#d22", "#7c3", "#39f", "#f90")
Facts = dict[str, dict[int, dict[str, Any]]]
Line = list[tuple[int, float]]


class Plan(NamedTuple):
    """What a kind of run measures, for how many seconds of each system, and under which name."""

    name: str
    sizes: str
    cap: float
    systems: tuple[str, ...]


PLANS = {
    "memory": Plan("memory", "1000,10000,100000", 180.0, (*OURS, *PEERS, BESIDE)),
    "small": Plan("memory-small", "1000,5000", 40.0, (*OURS, *PEERS, BESIDE)),
    "growth": Plan("memory-growth", "1000,10000,100000,300000,1000000", 5400.0, ("agentkd", "Chroma")),
}


def write_corpus(folder: Path, made: Corpus) -> None:
    """Lay out the table of texts and vectors for the systems."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    texts = {"texts": made.texts, "queries": made.queries}
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    np.save(folder / "vectors.npy", np.concatenate([made.vectors, made.query_vectors]))


def measured(name: str, python: str, sizes: list[int], cap: float, folder: Path) -> dict[int, dict[str, Any]]:
    """Run one system in its own process; return its facts by size, the last one perhaps `stopped_at`."""
    report, scratch = folder / f"{name}.jsonl", folder / "scratch"
    if report.is_file():  # of the run that this one goes on with
        return {fact["size"]: fact for fact in map(json.loads, report.read_text("utf-8").splitlines())}
    program = Path(__file__).with_name("memory_beside.py" if name == BESIDE else "memory_system.py")
    command = [python, str(program), name, ",".join(map(str, sizes)),
               str(cap), str(folder), str(scratch), str(report)]  # fmt: skip
    begun = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "2"}, stderr=subprocess.PIPE, text=True
    )
    shutil.rmtree(scratch, ignore_errors=True)
    lines = report.read_text(encoding="utf-8").splitlines() if report.is_file() else []
    if done.returncode:
        report.unlink(missing_ok=True)
        raise SystemExit(f"{name} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    facts = {fact["size"]: fact for fact in map(json.loads, lines)}
    print(f"{name}: {time.monotonic() - begun:.0f} s, {', '.join(map(_told, facts.values()))}", flush=True)
    return facts


def _told(fact: dict[str, Any]) -> str:
    if "batched" not in fact:
        return f"{fact['size']}"
    if "stopped_at" in fact:
        return f"stopped at {fact['stopped_at']} after {fact['add_seconds']:.0f} s of adding"
    return f"{fact['size']} at {fact['batched'] / fact['add_seconds']:.0f}/s"


def truth(made: Corpus, size: int, largest: int, view: str) -> list[set[int]]:
    """Return the `K` nearest of each question among the texts that a view sees, by exact search."""
    rows = list(range(size))
    first, share = len(made.texts) - 2 * (largest // 20), largest // 20
    for number, _ in enumerate(TENANTS):
        if view in ("everything", "scoped") and (number == 0 or view == "everything"):
            rows += range(first + number * share, first + number * share + size // 20)
    scores = made.query_vectors @ made.vectors[rows].T
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    return [{rows[at] for at in line} for line in best]


def seen_by(system: str, view: str) -> str:
    """Return which texts a view of a system sees."""
    view = view.removesuffix(EMBEDDED)
    if system == "Chroma":
        return "everything" if view == "all" else "scoped"
    return view


def rows_of(facts: Facts, made: Corpus, sizes: list[int], embedding: float, *, has_bars: bool) -> list[Row]:
    """Return the table: what each system does at each size, and our bars."""
    rows: list[Row] = [Row("ms to embed one question, p95", embedding * 1000)]
    for size in sizes:
        for name, by_size in facts.items():
            fact = by_size.get(size, {"stopped_at": 0})
            if "stopped_at" in fact:
                rows.append(Row(f"{size}: {name}, stopped at", fact["stopped_at"], n=fact["stopped_at"]))
                continue
            rows += _system_rows(name, fact, made, max(sizes))
        reached = {name: by_size[size] for name, by_size in facts.items() if "views" in by_size.get(size, {})}
        rows += _bars(reached, size, embedding * 1000) if has_bars else []
    return rows


def _system_rows(name: str, fact: dict[str, Any], made: Corpus, largest: int) -> list[Row]:
    size, label = fact["size"], f"{fact['size']}: {name}"
    rows = [
        Row(f"{label}, added per second by the hundred", fact["batched"] / fact["add_seconds"], n=size),
        Row(f"{label}, added per second of CPU", fact["batched"] / fact["cpu_seconds"], n=size),
        Row(f"{label}, ms to add one alone", fact["single_seconds"] * 1000),
        Row(f"{label}, MB on disk", fact["disk"] / 1e6),
        Row(f"{label}, MB in memory", fact["rss"] / 1e6),
    ]
    if fact["early"]:
        whole = fact["add_seconds"] + fact["finish_seconds"]
        early = float(np.percentile(fact["early"], 95)) * 1000
        rows += [
            Row(f"{label}, added per second, with the graph", fact["batched"] / whole, n=size),
            Row(f"{label}, recall all before the graph has them, p95 ms", early, n=len(fact["early"])),
        ]
    for view, found in fact["views"].items():
        seconds, n = found["seconds"], len(found["seconds"])
        right = truth(made, size, largest, seen_by(name, view))
        hit = [len(right[at] & set(ids)) / K for at, ids in enumerate(found["found"])]
        rows += [
            Row(f"{label}, recall {view}, p50 ms", float(np.percentile(seconds, 50)) * 1000, n=n),
            Row(f"{label}, recall {view}, p95 ms", float(np.percentile(seconds, 95)) * 1000, n=n),
            Row(f"{label}, recall {view}, ms of CPU", found["cpu_seconds"] / n * 1000, n=n),
        ]
        is_bar = name == "agentkd, dense"
        share, spread = float(np.mean(hit)), 1.96 * float(np.std(hit)) / n**0.5
        kept = {"low": share - spread, "high": min(1.0, share + spread), "n": n}
        metric = f"{label}, recall@{K} {view}"
        rows.append(at_least(metric, share, 0.95, **kept) if is_bar else Row(metric, share, **kept))
    return rows


def _in_turns(seconds: dict[str, list[float]], size: int) -> list[Row]:
    """Compare recall with bare Chroma's where both were asked the same questions in turns."""
    p95 = {label: float(np.percentile(values, 95)) * 1000 for label, values in seconds.items()}
    n, bare, embedding = len(seconds["embedding"]), p95["Chroma all"], p95["embedding"]
    rows = [Row(f"{size}, in turns: embedding a question, p95 ms", embedding, n=n)]
    for label in (label for label in p95 if label.startswith("agentkd")):
        metric = f"{size}, in turns: p95 ms of {label}, of 1.5 times Chroma's"
        if label.endswith(EMBEDDED):
            rows.append(
                at_most(f"{metric} and the embedding", p95[label], 1.5 * bare + embedding,
                        peer=p95[f"Chroma all{EMBEDDED}"], peer_name="Chroma that embeds", n=n)
            )  # fmt: skip
        else:
            rows.append(at_most(metric, p95[label], 1.5 * bare, peer=bare, peer_name="Chroma", n=n))
    return rows


def _bars(facts: dict[str, dict[str, Any]], size: int, embedding: float) -> list[Row]:
    rows: list[Row] = []
    for view in facts.get("agentkd", {"views": {}})["views"] if "Chroma" in facts else ():
        if view.endswith(EMBEDDED):
            ours, peer = _p95(facts["agentkd"], view), _p95(facts["Chroma"], "all")
            metric = f"{size}: p95 ms of agentkd {view}, of 1.5 times Chroma's and the embedding"
            whole = peer + embedding
            rows += [
                at_most(metric, ours, 1.5 * peer + embedding, peer=whole, peer_name="Chroma, embedding"),
                _beside(f"{metric}, question by question", ours, facts["Chroma"]),
                Row(f"{size}: p95 of agentkd {view} / bare Chroma's, which embeds it too",
                    ours / _p95(facts["Chroma"], f"all{EMBEDDED}")),
            ]  # fmt: skip
    for name in ("agentkd", "agentkd, dense"):
        for view in ("all", "scoped"):
            if name in facts and "Chroma" in facts:
                ours, peer = _p95(facts[name], view), _p95(facts["Chroma"], "all")
                rows.append(
                    at_most(f"{size}: p95 of {name} {view} / bare Chroma's unfiltered", ours / peer, 1.5,
                            peer=_p95(facts["Chroma"], "filtered") / peer, peer_name="Chroma, filtered")
                )  # fmt: skip
    for peer_name in ("mem0", "LangMem, SQLite", "LangMem"):
        if "agentkd" in facts and peer_name in facts:
            ours, peer = (
                facts[name]["batched"] / facts[name]["cpu_seconds"] for name in ("agentkd", peer_name)
            )
            metric = f"{size}: added per second of CPU / {peer_name}'s"
            rows.append(at_least(metric, ours / peer, 3.0, peer=1.0, peer_name=peer_name))
    return rows


def _beside(metric: str, ours: float, chroma: dict[str, Any]) -> Row:
    """Compare with that sum where its parts belong together: bare Chroma embeds a question and looks it up.

    Apart, the lookup meets caches that no model has filled, and bare Chroma itself takes longer than the sum.
    """
    view = chroma["views"][f"all{EMBEDDED}"]
    sums = [
        embedding + 1.5 * (seconds - embedding)
        for seconds, embedding in zip(view["seconds"], view["embedding"], strict=True)
    ]
    whole = _p95(chroma, f"all{EMBEDDED}")
    limit = float(np.percentile(sums, 95)) * 1000
    return at_most(metric, ours, limit, peer=whole, peer_name="Chroma that embeds")


def _quantile(fact: dict[str, Any], view: str, percent: float) -> float:
    """Return milliseconds of a recall."""
    return float(np.percentile(fact["views"][view]["seconds"], percent)) * 1000


def _p95(fact: dict[str, Any], view: str) -> float:
    return _quantile(fact, view, 95)


def embedding_seconds(queries: list[str]) -> float:
    """Return the 95th percentile of embedding one of the questions with the default embedder, uncached."""
    embedder, seconds = minilm(), []
    for query in [*queries[-3:], *queries]:  # the first ones load the model
        before = time.perf_counter()
        embedder.embed([query])
        seconds.append(time.perf_counter() - before)
    return float(np.percentile(seconds[3:], 95))


def plot(facts: Facts, sizes: list[int], file: Path) -> None:
    """Draw recall, adding and disk over the number of memories, all axes logarithmic, as one SVG."""

    def lines(value: Callable[[dict[str, Any]], float], of: Facts = facts) -> dict[str, Line]:
        """Return by system what there is to draw; a logarithm knows no 0."""
        reached = {
            name: [by[size] for size in sizes if "views" in by.get(size, {})] for name, by in of.items()
        }
        return {
            name: [(fact["size"], value(fact)) for fact in line if value(fact) > 0]
            for name, line in reached.items()
        }

    recall = lines(lambda fact: _quantile(fact, "all", 50))
    for name, view in (("agentkd", "scoped"), ("Chroma", "filtered")):
        if name in facts:
            only = {f"{name}, {view}": facts[name]}
            recall |= lines(lambda fact, view=view: _quantile(fact, view, 50), only)
    charts = (
        ("recall p50, ms", recall),
        ("added per second of CPU", lines(lambda fact: fact["batched"] / fact["cpu_seconds"])),
        ("MB on disk", lines(lambda fact: fact["disk"] / 1e6)),
    )
    colours = dict(zip(recall, _COLOURS, strict=False))
    panels = [
        f'<g transform="translate({at * 400},0)">{_panel(label, line, colours)}</g>'
        for at, (label, line) in enumerate(charts)
    ]
    style = "text{font:11px sans-serif;fill:#222}line,path{stroke:#ccc;fill:none}.c{stroke-width:2}"
    file.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1200 330" role="img" aria-label="by size">'
        f"<style>{style}</style>{''.join(panels)}</svg>\n",
        encoding="utf-8",
    )


def _panel(label: str, lines: dict[str, Line], colours: dict[str, str]) -> str:
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    xs, ys = np.log10([p[0] for p in points]), np.log10([p[1] for p in points])
    width, height, left, top = 210, 230, 55, 24
    span_x, span_y = max(np.ptp(xs), 1e-9), max(np.ptp(ys), 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (np.log10(x) - xs.min()) / span_x * width
        return float(across), float(top + (ys.max() - np.log10(y)) / span_y * height)

    parts = [f'<text x="{left}" y="14">{label}</text>']
    steps = (1, 2, 5) if span_y < 2 else (1,)
    for tick in (step * 10.0**power for power in range(-3, 8) for step in steps):
        if 10 ** ys.min() <= tick <= 10 ** ys.max():
            y = place(10 ** xs.min(), tick)[1]
            parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    bottom = f'y="{top + height + 18}" text-anchor="middle"'
    for size in sorted({point[0] for point in points}):
        told = f"{size // 1_000_000}M" if size >= 1_000_000 else f"{size // 1000}k"
        parts.append(f'<text x="{place(size, points[0][1])[0]:.1f}" {bottom}>{told}</text>')
    ends: list[float] = []
    for name, line in sorted(lines.items(), key=lambda item: place(*item[1][-1])[1] if item[1] else 0.0):
        if not line:
            continue
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in (place(*point) for point in line))
        parts.append(f'<path class="c" d="M{path}" style="stroke:{colours[name]}"/>')
        x, y = place(*line[-1])
        ends.append(y := max(y, ends[-1] + 12 if ends else y))
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" style="fill:{colours[name]}">{name}</text>')
    return "".join(parts)


def main() -> int:
    """Measure all systems one after the other and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--small", action="store_true", help="1k and 5k memories, shorter caps")
    shape.add_argument("--growth", action="store_true", help="agentkd and Chroma, to a million; no bars")
    parser.add_argument("--data", type=Path, default=None, help="folder with reme-library, llb, tau")
    parser.add_argument("--sizes", default="", help="sizes instead, such as 1000,10000")
    parser.add_argument("--systems", default="", help="systems instead, separated by `;`")
    parser.add_argument("--resume", action="store_true", help="measure what the last run has not measured")
    parser.add_argument("--cap", type=float, default=0.0, help="seconds of one system")
    options = parser.parse_args()
    kind = "growth" if options.growth else "small" if options.small else "memory"
    plan = PLANS[kind]
    sizes = [int(size) for size in (options.sizes or plan.sizes).split(",")]
    cap, n = options.cap or plan.cap, max(sizes) + 2 * (max(sizes) // 20)
    made = grown(corpus(min(n, EMBEDDABLE), options.data), n)
    folder = WORK / plan.name
    if not (options.resume and (folder / "texts.json").is_file()):
        write_corpus(folder, made)
    names = options.systems.split(";") if options.systems else list(plan.systems)
    peers = peers_python("memory") if set(names) - set(NEEDS_OURS) else ""
    facts: Facts = {
        name: measured(name, sys.executable if name in NEEDS_OURS else peers, sizes, cap, folder)
        for name in names
    }
    turns = facts.pop(BESIDE, {})
    rows = rows_of(facts, made, sizes, embedding_seconds(made.queries), has_bars=not options.growth)
    rows += [row for size, fact in turns.items() for row in _in_turns(fact["seconds"], size)]
    plot(facts, sizes, RESULTS / f"{plan.name}.svg")
    settings = {
        "k": K,
        "cap_seconds": cap,
        "corpus": made.facts,
        "p95": "without embedding, but in the views that say so",
        "memory": "of agentkd and Chroma with the model of those views",
    }
    return publish(plan.name, rows, {"settings": settings})


if __name__ == "__main__":
    sys.exit(main())
