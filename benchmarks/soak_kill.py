"""kill -9 at random instants over whole cycles: each must end as an undisturbed one does.

    python benchmarks/soak_kill.py            # 20 cycles, each killed again and again
    python benchmarks/soak_kill.py --small    # 3

An undisturbed cycle of a tiny random student gives the reference: dataset, checkpoint, number of facts of
every kind, and the seconds that it takes. Then every cycle is started and killed after a random share of
that time, at most five times, and at last left to end. Every second kill takes the training process too;
the others leave it an orphan.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measure import WORK, Row, at_least, publish

from agentkd import Workspace
from agentkd.ledger import Ledger
from agentkd.testing import tiny_student

MAX_KILLS, LIMIT_SECONDS = 5, 600.0
TOOLS = [
    {
        "name": name,
        "description": f"Tell the {name} of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    }
    for name in ("weather", "population", "time", "mayor")
]
CITIES = ("Rome", "Oslo", "Lima", "Cairo", "Quito", "Delhi", "Paris", "Tunis", "Accra", "Hanoi")
SETTINGS = """\
[roles]
student = "{student}"

[agent]
max_steps = 1
force_tool_call = true
recall = "start"

[models]
dtype = "float32"
device = "cpu"
max_new_tokens = 48

[run]
workers = 8

[memory]
embedder = "hashing"
min_score = 0.05

[train]
epochs = 6
tokens_per_step = 512
dtype = "float32"
device = "cpu"
save_every_seconds = 0.0

[train.objective.sft]

[gate]
min_tasks = 8

[cycle]
suite = "jsonl"

[suite.jsonl]
path = "{tasks}"
"""


def make_world(folder: Path) -> str:
    """Write a student and forty tasks; return the settings of a workspace over them."""
    rows = [
        {
            "id": f"{tool['name']}-{city}",
            "prompt": f"What is the {tool['name']} of {city}?",
            "split": "holdout" if number >= 7 else "train",
            "tools": TOOLS,
            "calls": [{"name": tool["name"], "arguments": {"city": city}}],
        }
        for tool in TOOLS
        for number, city in enumerate(CITIES)
    ]
    tasks = folder / "tasks.jsonl"
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SETTINGS.format(student=tiny_student(folder / "student"), tasks=tasks)


def make_workspace(folder: Path, settings: str) -> Path:
    """Make an empty workspace."""
    folder.mkdir()
    (folder / "agentkd.toml").write_text(settings, encoding="utf-8")
    return folder


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start a cycle as the leader of a process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "agentkd.cli", "-q", "-C", str(folder), "cycle"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def phase_at_work(folder: Path) -> str:
    """Return the phase that a killed cycle was in: `start` before its first, an empty text after its last."""
    if not (folder / "ledger.db").is_file():
        return "start"
    with Ledger.open(folder / "ledger.db") as ledger:
        if ledger.cycles.list("done"):  # the kill came while the process was leaving
            return ""
        cycle = ledger.cycles.unfinished()
        phases = ledger.cycles.phases(cycle.id) if cycle else ()
        return next((phase.name for phase in phases if phase.status == "running"), "between")


def kill_after(folder: Path, seconds: float, *, with_trainer: bool) -> str:
    """Start a cycle, kill -9 it after `seconds`; return the phase, or "" where the cycle was done."""
    process = start(folder)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        (os.killpg if with_trainer else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        return phase_at_work(folder)
    if code:
        raise SystemExit(f"a cycle in `{folder}` ended with code {code}")
    return ""


def finish(folder: Path) -> float:
    """Run a cycle to its end and return the seconds that it took."""
    begun = time.monotonic()
    code = start(folder).wait(timeout=LIMIT_SECONDS)
    if code:
        raise SystemExit(f"a cycle in `{folder}` ended with code {code}")
    return time.monotonic() - begun


def facts(folder: Path) -> dict[str, Any]:
    """Return what has to be the same however often a cycle was killed."""
    with Workspace(folder) as workspace:
        checkpoint = workspace.checkpoints()[0]
        return {
            "datasets": [card.id for card in workspace.datasets()],
            "checkpoint": checkpoint.name,
            "weights": checkpoint.files["adapter_model.safetensors"],
            "counts": workspace.ledger.counts(),
            "left_over": sorted(str(path.relative_to(folder)) for path in folder.glob("**/*.partial")),
        }


def soak(n: int, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Kill `n` cycles; return what happened to each, and the reference."""
    world = WORK / "kill"
    shutil.rmtree(world, ignore_errors=True)
    world.mkdir(parents=True)
    settings, dice = make_world(world), random.Random(seed)
    calm = make_workspace(world / "calm", settings)
    seconds = finish(calm)
    expected = facts(calm)
    cycles = []
    for number in range(n):
        folder, kills, phase = make_workspace(world / f"{number:03d}", settings), [], "start"
        for turn in range(dice.randint(1, MAX_KILLS)):
            phase = kill_after(folder, dice.uniform(0.05, 0.8) * seconds, with_trainer=turn % 2 == 0)
            if not phase:
                break
            kills.append(phase)
        if phase:
            finish(folder)
        found = facts(folder)
        differs = sorted(key for key in expected if found[key] != expected[key])
        cycles.append({"kills": kills, "differs": differs})
        print(f"cycle {number + 1} of {n}: killed in {', '.join(kills) or 'nothing'}: "
              f"{'the same' if not differs else 'DIFFERS in ' + ', '.join(differs)}")  # fmt: skip
        if not differs:
            shutil.rmtree(folder)
    return cycles, {**expected, "seconds_undisturbed": seconds}


def main() -> int:
    """Soak and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="3 cycles instead of 20")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants")
    options = parser.parse_args()
    n = 3 if options.small else 20
    cycles, reference = soak(n, options.seed)
    kills = [phase for cycle in cycles for phase in cycle["kills"]]
    same = sum(not cycle["differs"] for cycle in cycles)
    rows = [at_least("share of killed cycles that end the same", same / n, 1.0, n=n)]
    rows += [Row(f"kills in {phase}", kills.count(phase), n=len(kills)) for phase in sorted(set(kills))]
    name = "kill-small" if options.small else "kill"
    return publish(
        name, rows, {"seeds": {"instants": options.seed}, "reference": reference, "cycles": cycles}
    )


if __name__ == "__main__":
    sys.exit(main())
