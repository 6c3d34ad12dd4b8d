"""One arm of the training benchmarks, in a process of its own: `train_arm.py spec.json result.json`.

Runs with agentkd's Python or, for TRL, with the peers' one. Every arm takes the same rows in the same
steps, the same rates and a copy of one adapter, and writes its loss, CPU seconds and wall seconds of each
step.
"""

from __future__ import annotations

import time

_STARTED = time.perf_counter()

import contextlib  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from measure import peak_bytes  # noqa: E402

Spec = dict[str, Any]
PAD = -100


class Clock:
    """Takes the time of steps; `ready` is when the first one began."""

    def __init__(self, device: str) -> None:
        self._device, self.ready = device, 0.0
        self.steps: list[dict[str, float]] = []

    def _now(self) -> tuple[float, float]:
        if self._device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    @contextlib.contextmanager
    def step(self) -> Iterator[dict[str, float]]:
        """Time one step; the caller puts its `loss` into what is yielded."""
        wall, cpu = self._now()
        line: dict[str, float] = {}
        yield line
        ended, cpu_ended = self._now()
        if not self.steps:
            self.ready = ended - _STARTED
        self.steps.append({**line, "seconds": ended - wall, "cpu_seconds": cpu_ended - cpu})


def rate(spec: Spec, step: int) -> float:
    """Return the learning rate of a step, the same function for all arms."""
    from agentkd.train.loop import learning_rate

    return learning_rate(
        step, len(spec["steps"]), peak=spec["learning_rate"], warmup_share=spec["warmup_share"]
    )


def prepare(spec: Spec) -> None:
    """Write the adapter that every arm begins with."""
    from agentkd import hf
    from agentkd.schema import LoraSettings
    from agentkd.train.lora import add_adapter, write_adapter

    model = hf.load_model(spec["model"], dtype="float32", device="cpu")
    folder = Path(spec["adapter"])
    folder.mkdir(parents=True, exist_ok=True)
    adapted = add_adapter(model, LoraSettings(r=spec["r"], alpha=2 * spec["r"]), init_adapter="", seed=0)
    write_adapter(adapted, folder, spec["model"])


def agentkd(spec: Spec, clock: Clock) -> None:
    """Train as the product does: a job on a dataset folder."""
    from agentkd.schema import AnchorSettings, LoraSettings, TrainJob, TrainSettings
    from agentkd.train.loop import train
    from agentkd.train.reporter import Reporter

    settings = TrainSettings(
        lora=LoraSettings(r=spec["r"], alpha=2 * spec["r"]),
        learning_rate=spec["learning_rate"],
        warmup_share=spec["warmup_share"],
        epochs=1.0,
        tokens_per_step=spec["tokens_per_step"],
        max_tokens_per_row=1 << 20,
        dtype=spec["dtype"],
        device=spec["device"],
        seed=spec["seed"],
        gradient_checkpointing="off",
        anchor=AnchorSettings(weight=0),  # no other arm has them
        save_every_seconds=1e9,
    )
    job = TrainJob(
        dataset=spec["dataset"],
        base=spec["model"],
        base_id="bench",
        output=spec["output"],
        init_adapter=spec["adapter"],
        settings=settings,
    )
    train(job, Reporter(is_machine=False))
    lines = [json.loads(line) for line in (Path(spec["output"]) / "metrics.jsonl").read_text().splitlines()]
    keys = ("loss", "seconds", "cpu_seconds", "computed_tokens")
    clock.steps = [{key: line[key] for key in keys} for line in lines if "loss" in line]
    clock.ready = time.perf_counter() - _STARTED - sum(step["seconds"] for step in clock.steps[1:])


def bare(spec: Spec, clock: Clock) -> None:
    """Train in a plain loop over peft: rows sorted by length, logits of the labels alone."""
    model = _peft_model(spec).train()
    causal = model.get_base_model()
    optimizer = _optimizer(spec, model)
    for number, rows in enumerate(spec["steps"][: spec["n_steps"]]):
        with clock.step() as line:
            _set_rate(optimizer, rate(spec, number))
            optimizer.zero_grad()
            n_labels = sum(sum(spec["rows"][row][1]) for row in rows)
            line["loss"] = 0.0
            for micro in sorted_parts(spec, rows):
                ids, labels = _padded([spec["rows"][row] for row in micro], spec["device"])
                with _autocast(spec):
                    hidden = causal.base_model(
                        input_ids=ids, attention_mask=(labels != -1).long(), use_cache=False
                    ).last_hidden_state[:, :-1]
                    is_wanted = labels[:, 1:] >= 0
                    logits = causal.get_output_embeddings()(hidden[is_wanted]).float()
                loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:][is_wanted], reduction="sum")
                (loss / n_labels).backward()
                line["loss"] += float(loss.detach()) / n_labels
            torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
            optimizer.step()


def trl(spec: Spec, clock: Clock) -> None:
    """Train with TRL's SFTTrainer; `packing` lets it make its own batches, else it gets our steps."""
    from train_trl import run

    run(spec, clock, _peft_model, rate)


def sorted_parts(spec: Spec, rows: list[int]) -> list[list[int]]:
    """Cut a step into micro-batches of rows of similar length."""
    ordered = sorted(rows, key=lambda row: len(spec["rows"][row][0]))
    size = spec["micro_rows"]
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _padded(rows: list[Any], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels, `[row, time]`: -100 where nothing is predicted, -1 where there is no token."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, -1)
    for number, (row, flags) in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        labels[number, : len(row)] = torch.tensor(
            [token if flag else PAD for token, flag in zip(row, flags, strict=True)]
        )
    return ids.to(device), labels.to(device)


def _peft_model(spec: Spec) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, spec["dtype"])
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype).to(spec["device"])
    return PeftModel.from_pretrained(model, spec["adapter"], is_trainable=True)


def _optimizer(spec: Spec, model: Any) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=spec["learning_rate"], weight_decay=0.0)


def _set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def _autocast(spec: Spec) -> contextlib.AbstractContextManager[Any]:
    if not spec.get("autocast"):
        return contextlib.nullcontext()
    return torch.autocast(torch.device(spec["device"]).type, dtype=torch.bfloat16)


def separate(spec: Spec, clock: Clock) -> None:
    """Losses of rows by our model, all rows in packs, or each row in a pack of its own (`is_alone`)."""
    from agentkd import hf
    from agentkd.schema import LoraSettings
    from agentkd.train.body import Body
    from agentkd.train.lora import add_adapter
    from agentkd.train.packing import make_packs
    from agentkd.train.rows import View

    model = hf.load_model(spec["model"], dtype=spec["dtype"], device=spec["device"])
    settings = LoraSettings(r=spec["r"], alpha=2 * spec["r"])
    body = Body(add_adapter(model, settings, init_adapter=spec["adapter"], seed=0))
    views = []
    for ids, flags in spec["rows"]:
        labels = tuple(place for place, flag in enumerate(flags) if flag)
        views.append(View(tuple(ids), labels, (1.0,) * len(labels)))
    body.pack_for_training(views[:2])
    _ = body.hidden(next(iter(make_packs(views[:1], 1 << 20))))  # warm
    packs = [next(make_packs([view], 1 << 20)) for view in views] if spec["is_alone"] else None
    for pack in packs or make_packs(views, 3072):
        with clock.step() as line:
            hidden = body.hidden(pack)
            logits = body.logits(hidden)
            losses = torch.nn.functional.cross_entropy(logits, torch.tensor(pack.targets), reduction="none")
            losses.sum().backward()
            line["loss"] = float(losses.detach().double().sum())
            line["computed_tokens"] = float(len(pack.tokens))


ARMS: dict[str, Callable[[Spec, Clock], None]] = {
    "agentkd": agentkd,
    "bare": bare,
    "trl": trl,
    "separate": separate,
}


def main() -> None:
    """Run the arm of a spec and write what it measured."""
    spec: Spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    warnings.simplefilter("ignore")
    torch.set_num_threads(spec["threads"])
    if spec["arm"] == "prepare":
        prepare(spec)
        return
    clock = Clock(spec["device"])
    ARMS[spec["arm"]](spec, clock)
    peak = peak_bytes() / 2**20
    if spec["device"] != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    result = {"steps": clock.steps, "first_step_seconds": clock.ready, "peak_mib": peak}
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
