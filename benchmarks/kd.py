"""Memory, time and exactness of full-vocabulary JSD and cached top-k losses against TRL's.

    python benchmarks/kd.py            # V = 49,152 and 262,144
    python benchmarks/kd.py --small    # V = 49,152 with 1,024 tokens

Every arm gets the last states of student and teacher with one head and gives a loss and its gradient by the
student's states, in a process of its own; its memory is the high-water mark of that process above what it
held before. Errors are relative, against the definition in float64. The trainer distils from cached top
tokens; the full-vocabulary arm is its JSD formula over whole distributions, chunk by chunk as the trainer
runs its losses; its memory is set by the chunk, GKD's grows with the tokens, so that the share is larger
for fewer of them (0.23 at T = 512 in a trial, above the bar). TRL's GKD needs about 13 tensors of all
logits: where this machine has no room for them, fewer tokens are taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from measure import WORK, Row, at_most, publish
from train import peer_python

from agentkd.schema import TrainSettings
from agentkd.train.planner import chunk_for

CASES = (("49k", 49_152, 576, (1024, 2048)), ("262k", 262_144, 640, (1024,)))
PEERS = ("trl gkd", "trl chunked")
BAR_MEMORY, BAR_ERROR = 0.2, 1e-3
_GKD_TENSORS, _ROOM, _LEAST_TOKENS = 14, 0.7, 256


def room_mib() -> float:
    """Return the memory that is free on this machine."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/meminfo has no MemAvailable: this benchmark needs Linux")


def fitting(n_tokens: int, vocabulary: int) -> int:
    """Return the tokens for which the largest arm fits into memory."""
    while n_tokens > _LEAST_TOKENS and _GKD_TENSORS * n_tokens * vocabulary * 4 / 2**20 > _ROOM * room_mib():
        n_tokens //= 2
    return n_tokens


def run(arm: str, spec: dict[str, Any]) -> tuple[dict[str, float], np.ndarray]:
    """Run an arm; return its figures and its gradient."""
    folder = WORK / "kd"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("spec.json", "result.json", "gradient.npy")]
    files[0].write_text(json.dumps({**spec, "arm": arm}), encoding="utf-8")
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_WAIT_POLICY": "PASSIVE"}
    python = peer_python() if arm in PEERS else sys.executable
    command = [python, str(root / "benchmarks" / "kd_arm.py"), *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise SystemExit(f"arm `{arm}` failed with code {done.returncode}:\n{done.stderr[-3000:]}")
    found = json.loads(files[1].read_text(encoding="utf-8"))
    print(f"  {arm}: {found['peak_mib']:.0f} MiB, {found['cpu_seconds']:.1f} CPU-s", flush=True)
    return found, np.load(files[2])


def figures(label: str, spec: dict[str, Any]) -> list[Row]:
    """Return the rows of the table for one shape."""
    truth = {"full": run("float64", spec), "top-k": run("float64 top-k", spec)}
    peers = {arm: run(arm, spec) for arm in PEERS}
    found = []
    for arm, name in (("full", "full-vocabulary JSD"), ("top-k", "cached top 20, forward KL")):
        mine, gradient = run(arm, spec)
        for peer, (theirs, _) in peers.items():
            common = {"peer": theirs["peak_mib"], "peer_name": peer, "n": spec["tokens"]}
            metric = f"{label}, {name} against {peer}"
            found.append(Row(f"{metric}: extra memory, MiB", mine["peak_mib"], **common))
            share = mine["peak_mib"] / theirs["peak_mib"]
            judged = at_most(f"{metric}: share of its memory", share, BAR_MEMORY, n=spec["tokens"])
            found.append(judged if peer == "trl gkd" else Row(judged.metric, share, n=spec["tokens"]))
            for key in ("cpu_seconds", "seconds"):
                common = {"peer": theirs[key], "peer_name": peer, "n": spec["tokens"]}
                found.append(Row(f"{metric}: {key}", mine[key], **common))
        found += errors(f"{label}, {name}", (mine, gradient), truth[arm])
    for arm, result in peers.items():
        found += [Row(row.metric, row.ours) for row in errors(f"{label}, {arm}", result, truth["full"])]
    return found


def errors(
    name: str, result: tuple[dict[str, float], np.ndarray], truth: tuple[dict[str, float], np.ndarray]
) -> list[Row]:
    """Return the relative errors of loss and gradient."""
    loss = abs(result[0]["loss"] - truth[0]["loss"]) / abs(truth[0]["loss"])
    gradient = float(np.linalg.norm(result[1] - truth[1]) / np.linalg.norm(truth[1]))
    return [
        at_most(f"{name}: relative error of the loss", loss, BAR_ERROR),
        at_most(f"{name}: relative error of the gradient", gradient, BAR_ERROR),
    ]


def main() -> int:
    """Run the arms and publish the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="one vocabulary, 1,024 tokens")
    options = parser.parse_args()
    found: list[Row] = []
    taken = {}
    for name, vocabulary, width, lengths in CASES[:1] if options.small else CASES:
        for wanted in (1024,) if options.small else lengths:
            n_tokens = fitting(wanted, vocabulary)
            label = f"V = {name}, T = {n_tokens}"
            if label in taken:
                continue
            print(label, flush=True)
            spec = {
                "tokens": n_tokens, "vocabulary": vocabulary, "width": width, "seed": 0,
                "chunk": chunk_for(TrainSettings().chunk_tokens, vocabulary, "cpu"),
                "threads": os.cpu_count() or 1,
            }  # fmt: skip
            taken[label] = {"wanted": wanted, "free_mib": round(room_mib()), **spec}
            found += figures(label, spec)
    facts = {"shapes": taken, "beta": 0.5, "top_k": 20}
    return publish("kd-small" if options.small else "kd", found, facts)


if __name__ == "__main__":
    sys.exit(main())
