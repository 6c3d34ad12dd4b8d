"""Contrast distillation on real traces: what is paired, refused and stored, and does every quote hold?

    python benchmarks/contrast.py             # MiniLM pairs and admits; well under a minute
    python benchmarks/contrast.py --small     # hashed words in its place: no model at all

The traces are those of a gpt-4o agent in tau-bench's airline world (MIT), found below `--data` or
`$AGENTKD_DATA`. The teacher is scripted: `replies/contrast.jsonl` holds one hand-written reply for every task
that was both done and failed, read from the two records. Some are bad on purpose (`PLANNED`), and soft pairs
get an empty answer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from measure import WORK, Row, publish

from agentkd.interop import read_openai_traces
from agentkd.schema import Memory, Trajectory
from agentkd.workspace import Workspace

REPLIES = Path(__file__).with_name("replies") / "contrast.jsonl"
TRACES = Path("tau") / "gpt-4o-airline.trials01.json"
SUITE = "tau-airline"

PLANNED = {"quote-not-found": 2, "quote-of-system": 1, "quote-too-short": 1}
"""Lessons of the reply file that must be refused: two invented quotes, the policy's words, and `yes`."""
UNREADABLE = 1
"""Answers that are no JSON even after the repair; another one is mended by it."""


def both_sides(file: Path) -> int:
    """Count, without the library, the tasks of the file that were both done and failed."""
    rewards: dict[Any, set[bool]] = {}
    for record in json.loads(file.read_text(encoding="utf-8")):
        rewards.setdefault(record["task_id"], set()).add(record["reward"] >= 1.0)
    return sum(len(seen) == 2 for seen in rewards.values())


def plain(text: str) -> str:
    """Return a text as quotes are compared: without differences of case and spaces."""
    return " ".join(text.replace("\u2019", "'").casefold().split())


def said_in(trajectory: Trajectory) -> str:
    """Return everything that user, tools and agent said, and not what the agent was instructed."""
    parts = []
    for message in trajectory.messages:
        if message.role != "system":
            parts.append(message.content)
            parts.extend(
                json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
                for call in message.tool_calls
            )
    return plain("\n".join(parts))


def quotes_hold(memory: Memory, said: dict[str, str]) -> bool:
    """Whether a memory names words, and all of them stand in the trajectories that it names."""
    spans = memory.evidence.spans
    return bool(spans) and all(
        plain(span.quote).removesuffix("...") in said[span.trajectory]
        and span.origin not in ("memory", "system")
        and span.trajectory in memory.evidence.trajectories
        for span in spans
    )


def open_workspace(folder: Path, is_small: bool) -> Workspace:
    """Open a fresh workspace with the scripted teacher and the distillers under test."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = {
        "roles": {"distiller": "scripted:recorded-teacher"},
        "model": {"scripted": {"replies": str(REPLIES)}},
        "distill": {"distillers": ["contrast", "tool-notes", "case"]},
        "distiller": {
            "contrast": {"pairing": "soft", "max_transcript_chars": 60_000, "workers": 2},
            "tool-notes": {"use_model": "never"},
        },
        "memory": {"index": "exact", **({"embedder": "hashing"} if is_small else {})},
    }
    return Workspace(folder, settings=settings)


def exactly(metric: str, ours: int, bar: int, **rest: Any) -> Row:
    """Return a row that holds where the count is what it has to be."""
    return Row(metric, ours, f"== {bar}", ours == bar, **rest)


def rows_of(output: dict[str, Any], memories: list[Memory], n_held: int, n_both: int) -> list[Row]:
    """Return the figures of the run, counts of what was planned with their bars."""
    by_origin = Counter(memory.origin for memory in memories)
    n_pairs = output.get("contrast: hard pairs", 0)
    return [
        exactly("hard pairs", n_pairs, n_both, peer=n_both, peer_name="tasks done and failed, counted apart"),
        Row("soft pairs", output.get("contrast: soft pairs", 0)),
        Row("candidates", output["candidates"]),
        exactly("lessons refused", output["refused"], sum(PLANNED.values())),
        *(
            exactly(f"refused: {reason}", output.get(f"refused: {reason}", 0), n)
            for reason, n in PLANNED.items()
        ),
        exactly("answers not understood", output["failures"], UNREADABLE),
        Row("claims without a suite to replay them", output.get("contrast: claims: unknown", 0)),
        Row("left out beyond the cap per run", output["left_out"]),
        Row("stored", len(memories)),
        *(Row(f"stored: {origin}", n) for origin, n in sorted(by_origin.items())),
        exactly("stored memories whose every quote is in its record", n_held, len(memories)),
    ]


def main() -> int:
    """Import, distil, admit and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="hashed words in the place of MiniLM")
    parser.add_argument("--data", type=Path, help="folder with the traces [default: $AGENTKD_DATA]")
    options = parser.parse_args()
    default = os.environ.get("AGENTKD_DATA") or Path(__file__).parents[2] / "shared" / "data"
    file = Path(options.data or default) / TRACES
    if not file.is_file():
        raise SystemExit(f"`{file}` is missing: pass the folder that holds `{TRACES}` with --data")
    trajectories = read_openai_traces(file, suite=SUITE)
    with open_workspace(WORK / "contrast", options.small) as workspace:
        for trajectory in trajectories:
            workspace.ledger.trajectories.finish(trajectory)
        report = workspace.distill()
        memories = list(workspace.ledger.memories.list())
    said = {trajectory.id: said_in(trajectory) for trajectory in trajectories}
    n_held = sum(quotes_hold(memory, said) for memory in memories)
    print(report.summary, end="\n\n")
    for memory in memories:
        if memory.origin == "contrast":
            print(f"- {memory.when_to_use}: {memory.content}")
    print()
    facts = {
        "traces": TRACES.name,
        "trajectories": len(trajectories),
        "tasks": len({trajectory.task.id for trajectory in trajectories}),
        "note": "the file holds two of the four published trials of each task",
        "embedder": "hashing" if options.small else "minilm-onnx",
        "seconds": round(report.seconds, 2),
    }
    name = "contrast-small" if options.small else "contrast"
    return publish(name, rows_of(report.output, memories, n_held, both_sides(file)), facts)


if __name__ == "__main__":
    sys.exit(main())
