"""Training on an accelerator: agentkd, TRL's SFTTrainer and a bare peft loop; tokens/s, MFU, peak memory.

    python benchmarks/gpu.py                        # on a GPU; without one it says so and ends well
    python benchmarks/gpu.py --device cpu --tiny    # the same code on tiny shapes, to see that it runs

Three shapes with random weights (speed does not depend on them, and GPU machines often reach no hub):
SmolLM2-135M, Gemma 3 270M and a Llama of 1.5 billion parameters. Rows are random tokens laid out as an
agent's: completions after one long prompt (`shared`), and traces of 256 to 4,096 tokens with nothing in
common (`distinct`). Runs from a checkout with torch, transformers, peft, safetensors, pydantic and pluggy;
TRL is measured where it can be imported. MFU counts the layers' and the head's products for the tokens that
an arm computes, without attention.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
from measure import WORK
from measure import Row as Figure
from peers import peers_folder
from train import Arm, base_spec, run
from train_rows import Row

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}
"""Dense bf16 FLOP/s of a device, by a part of its name."""
TRL_FLAGS: dict[str, dict[str, Any]] = {
    "trl, padded": {"gradient_checkpointing": False, "bf16": False, "n_micro": 4},
    "trl, padding-free": {
        "gradient_checkpointing": False,
        "bf16": False,
        "padding_free": True,
        "max_length": None,
        "n_micro": 4,
    },
}
SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    },
    "Gemma 3 270M": {
        "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
        "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
        "sliding_window": 512,
    },
    "Llama 1.5B": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 49152,
    },
}  # fmt: skip
TINY: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 512,
}  # fmt: skip


def make_model(name: str, folder: Path, device: str, is_tiny: bool) -> Path:
    """Write a model of a shape with random bf16 weights, and the tiny model's tokenizer: TRL wants one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from agentkd.hf import tiny_model

    shutil.rmtree(folder, ignore_errors=True)
    tiny_model(folder)
    fields = {**SHAPES[name], **(TINY if is_tiny else {})}
    config = AutoConfig.for_model(**fields, max_position_embeddings=8192, tie_word_embeddings=True)
    torch.manual_seed(0)
    with torch.device(device):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(str(folder))
    return folder


def rows_like_an_agents(vocabulary: int, n_tokens: int, scale: int, seed: int) -> dict[str, list[Row]]:
    """Return rows of random tokens of about `n_tokens` in each set; `scale` divides all lengths."""
    draw = random.Random(seed)

    def text(n: int) -> tuple[int, ...]:
        return tuple(draw.randrange(10, vocabulary) for _ in range(n))

    shared: list[Row] = []
    prompt = text(1024 // scale)
    while sum(len(row.ids) for row in shared) < n_tokens:
        asked, said = text(draw.randint(32, 256) // scale), text(draw.randint(32, 256) // scale)
        shared.append(Row((*prompt, *asked, *said), (0,) * (len(prompt) + len(asked)) + (1,) * len(said)))
    distinct: list[Row] = []
    while sum(len(row.ids) for row in distinct) < n_tokens:
        n = round(256 * 16 ** draw.random()) // scale
        turns = [int(place // max(1, 64 // scale) % 5 in (3, 4)) for place in range(n)]
        distinct.append(Row(text(n), (*turns[:-1], 1)))
    return {"shared": shared, "distinct": distinct}


def trl_python() -> str | None:
    """Return a Python that has TRL, or None."""
    python = peers_folder("train") / "bin" / "python"
    if python.is_file():
        return str(python)
    return sys.executable if importlib.util.find_spec("trl") else None


def peak_flops(device_name: str) -> float | None:
    """Return the dense bf16 peak of a device; None where it is not known."""
    return next((peak for part, peak in PEAKS.items() if part in device_name), None)


def n_flops(folder: Path, n_tokens: float, n_labels: float) -> float:
    """Return the products of a LoRA step: forward and the gradient of the inputs, without attention."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    heads = config.head_dim or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * heads, config.num_key_value_heads * heads
    layer = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
    head = config.vocab_size * config.hidden_size
    return 4.0 * (config.num_hidden_layers * layer * n_tokens + head * n_labels)


def figures(
    label: str, spec: Mapping[str, Any], arms: Sequence[Arm], folder: Path, peak: float | None
) -> list[Figure]:
    """Return tokens/s, MFU and peak memory of each arm, and how far its losses are from ours."""
    steps = spec["steps"][1:]
    n_tokens = sum(len(spec["rows"][row][0]) for step in steps for row in step)
    n_labels = sum(sum(spec["rows"][row][1]) for step in steps for row in step)
    ours = arms[0]
    speeds = {arm.name: n_tokens / arm.seconds("seconds") for arm in arms}
    rivals = [name for name in speeds if name.startswith("trl")]
    best = max(rivals, key=lambda name: speeds[name]) if rivals else ""
    found = []
    for arm in arms:
        beside = {"peer": speeds[best], "peer_name": best} if arm is ours and best else {}
        found.append(
            Figure(f"{label}, {arm.name}: real tokens/s", speeds[arm.name], n=len(spec["rows"]), **beside)
        )
        found.append(Figure(f"{label}, {arm.name}: label tokens/s", n_labels / arm.seconds("seconds")))
        if peak is not None:
            last = arm.rounds[0]["steps"][1:]
            computed = sum(line.get("computed_tokens", 0) for line in last) or n_tokens
            used = n_flops(folder, computed, n_labels) / arm.seconds("seconds") / peak
            found.append(Figure(f"{label}, {arm.name}: MFU", used))
        found.append(Figure(f"{label}, {arm.name}: peak memory, MiB", arm.rounds[0]["peak_mib"]))
        if arm is not ours:
            apart = max(abs(a - b) for a, b in zip(ours.losses, arm.losses, strict=True))
            found.append(Figure(f"{label}, {arm.name}: largest difference of a step's loss", apart))
    return found


def main() -> int:
    """Run the arms and publish the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="where to train [default: cuda]")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes; the figures are not kept")
    options = parser.parse_args()
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no accelerator here: nothing was measured (a GPU that torch sees is needed)")
        return 0
    is_gpu, python = options.device.startswith("cuda"), trl_python()
    device_name = torch.cuda.get_device_name() if is_gpu else "CPU"
    scale, tokens_per_step = (16, 600) if options.tiny else (1, 32768)
    facts = {
        "device": device_name,
        "trl": "measured" if python else "not importable here: not measured",
        "versions": {"torch": torch.__version__},
        "weights": "random",
    }
    found: list[Figure] = []
    for name in SHAPES:
        folder = make_model(name, WORK / "gpu" / name.replace(" ", "-"), options.device, options.tiny)
        vocabulary = (TINY if options.tiny else SHAPES[name])["vocab_size"]
        for kind, rows in rows_like_an_agents(vocabulary, 6 * tokens_per_step, scale, seed=5).items():
            label = f"{name}, {kind} rows"
            print(label, flush=True)
            work = WORK / "gpu" / f"{folder.name}-{kind}"
            spec = base_spec(folder, rows, tokens_per_step, work) | {
                "device": options.device,
                "micro_rows": 8,
            }
            arms = [
                Arm("agentkd", {**spec, "arm": "agentkd"}),
                Arm("bare peft loop", {**spec, "arm": "bare"}),
            ]
            if python:
                arms += [
                    Arm(key, {**spec, "arm": "trl", "trl": flags}, True) for key, flags in TRL_FLAGS.items()
                ]
            for arm in arms:
                arm.rounds.append(run(arm, work / arm.spec["arm"], python if arm.is_peer else None))
            found += figures(label, spec, arms, folder, peak_flops(device_name))
    if not python:
        print("TRL cannot be imported here: it was not measured")
    if options.tiny:
        measure.RESULTS = WORK
    return measure.publish("gpu", found, facts)


if __name__ == "__main__":
    sys.exit(main())
