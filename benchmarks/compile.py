"""The compile step on many trajectories: speed, and memory that does not grow with them.

    python benchmarks/compile.py            # 10,000 and 100,000 trajectories
    python benchmarks/compile.py --small    # 1,000 and 4,000; no bar on memory

Synthetic runs of two calls each, one in eight a failure, every fourth request a near duplicate of another,
are compiled from a ledger in a file, each size in a process of its own. Requests are embedded by feature
hashing; with the MiniLM embedder its time per distinct request comes on top. "Bookkeeping" is what the
design keeps per trajectory: one half-precision vector, and ids and hashes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import Row, at_least, at_most, peak_bytes, publish

from agentkd import hf
from agentkd.agents import PromptBuilder
from agentkd.compiler import CompileInputs, LedgerTraces, compile_dataset
from agentkd.config import AgentSettings, CompileSettings
from agentkd.embedders.hashing import HashingEmbedder
from agentkd.ledger import Ledger
from agentkd.plugins import PluginHost
from agentkd.schema import Message, Outcome, Step, Task, ToolCall, ToolResult, ToolSpec, Trajectory

FULL = 100_000
VECTOR_BYTES = 2 * 512
ID_BYTES = 1024
WORDS = Path(__file__).read_text(encoding="utf-8").split()
TOOLS = (
    ToolSpec(name="find", parameters={"type": "object", "properties": {"query": {"type": "string"}}}),
    ToolSpec(
        name="book",
        parameters={
            "type": "object",
            "properties": {"place": {"type": "string"}, "people": {"type": "integer"}},
        },
    ),
)


def trajectory(number: int) -> Trajectory:
    """Return a run; the same number gives the same run."""
    chance = random.Random(number)
    same = number - 1 if number % 4 == 3 else number
    prompt = " ".join(random.Random(-same).choices(WORDS, k=24)) + (" please" if same != number else "")
    calls = (
        ToolCall(name="find", arguments={"query": " ".join(chance.choices(WORDS, k=4))}),
        ToolCall(name="book", arguments={"place": chance.choice(WORDS), "people": chance.randint(1, 9)}),
    )
    steps = tuple(
        Step(
            index=index,
            reply=Message(role="assistant", tool_calls=(call,), origin="model"),
            accepted_calls=(call,),
            results=(ToolResult(content=" ".join(chance.choices(WORDS, k=30))),),
        )
        for index, call in enumerate(calls)
    )
    success = number % 8 != 5
    return Trajectory(
        id=f"tra-{number:07d}",
        run_id="run",
        task=Task(id=f"task-{number:07d}", suite="made-up", prompt=prompt, split="train"),
        model="base",
        steps=steps,
        outcome=Outcome(success=success, reward=float(success)),
    )


def fill(file: Path, n: int) -> None:
    """Write `n` runs to a ledger."""
    ledger = Ledger.open(file)
    for start in range(0, n, 1000):
        with ledger.transaction():
            for number in range(start, min(n, start + 1000)):
                ledger.trajectories.finish(trajectory(number))
    ledger.close()


def compile_here(folder: Path) -> dict[str, Any]:
    """Compile the ledger in a folder; return figures."""
    embedder, host = HashingEmbedder(), PluginHost(auto=False)
    ledger = Ledger.open(folder / "ledger.db")
    inputs = CompileInputs(
        traces=LedgerTraces(ledger, suite="made-up", split="train"),
        memories=(),
        recall=lambda trajectory: (),
        render=lambda hits: "",
        views=PromptBuilder(AgentSettings(force_tool_call=True)),
        tools_of=lambda task: TOOLS,
        tokenizer=folder / "tiny",
        base_id="base",
        teacher="base",
        embed=embedder.embed,
        students=frozenset({"base"}),
    )
    hf.load_tokenizer(folder / "tiny")  # imports are no part of the figure
    before, cpu, wall = peak_bytes(), time.process_time(), time.perf_counter()
    card = compile_dataset(
        inputs,
        settings=CompileSettings(),
        need_teacher=False,
        need_rejected=True,
        hooks=host.hooks,
        out_root=folder / "datasets",
        ledger=ledger,
    )
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    ledger.close()
    return {
        "id": card.id, "rows": card.n_train + card.n_dev, "tokens": card.n_tokens, "kinds": card.kinds,
        "cpu_seconds": cpu, "wall_seconds": wall, "peak_bytes": peak_bytes(), "idle_bytes": before,
    }  # fmt: skip


def measured(n: int) -> dict[str, Any]:
    """Fill a ledger and compile it in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hf.tiny_model(folder / "tiny")
        fill(folder / "ledger.db", n)
        done = subprocess.run(
            [sys.executable, __file__, "--here", str(folder)], check=True, capture_output=True, text=True
        )
    found = {"n": n, **json.loads(done.stdout.splitlines()[-1])}
    print(f"{n} trajectories: {json.dumps(found)}", flush=True)
    return found


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--small", action="store_true", help="fewer trajectories")
    parser.add_argument("--many", type=int, default=FULL, help="the larger number of trajectories")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(compile_here(options.here)))
        return 0
    few, many = (measured(n) for n in ((1000, 4000) if options.small else (10_000, options.many)))
    kept = (many["n"] - few["n"]) * (VECTOR_BYTES + ID_BYTES)
    allowed = (1.3 * few["peak_bytes"] + kept) / 1e6
    mega = many["peak_bytes"] / 1e6
    speed = many["n"] / many["cpu_seconds"]
    more = (many["peak_bytes"] - few["peak_bytes"]) / (many["n"] - few["n"])
    memory = f"peak memory at {many['n']} trajectories (MB)"
    rows = [
        at_least("trajectories per CPU second", speed, 5000),
        Row("rows per CPU second", many["rows"] / many["cpu_seconds"]),
        Row(f"peak memory at {few['n']} trajectories (MB)", few["peak_bytes"] / 1e6),
        Row(memory, mega) if options.small else at_most(memory, mega, round(allowed)),
        Row("bytes per further trajectory", more),
        at_least("speed at the larger size / speed at the smaller",
                 speed / (few["n"] / few["cpu_seconds"]), 0.7),
    ]  # fmt: skip
    facts = {"few": few, "many": many, "bookkeeping_bytes_per_trajectory": VECTOR_BYTES + ID_BYTES}
    return publish("compile" if many["n"] == FULL else "compile-small", rows, facts)


if __name__ == "__main__":
    sys.exit(main())
