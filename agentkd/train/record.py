"""What a training writes down: one line of `metrics.jsonl` per step, and the figures of the whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentkd.files import write_whole
from agentkd.schema import TrainPlan
from agentkd.train.memory import peak_mib
from agentkd.train.saves import Progressed

__all__ = ["Record", "plan_line", "predicted"]


class Record:
    """The lines of `metrics.jsonl` in a work folder; only a process that `writes` touches the file."""

    def __init__(self, work: Path, *, writes: bool = True) -> None:
        """Take the work folder of a training."""
        self._file = work / "metrics.jsonl"
        self._writes = writes

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        if self._writes:
            with open(self._file, "a", encoding="utf-8") as metrics:
                metrics.write(json.dumps(line) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """Return the whole lines."""
        if not self._file.is_file():
            return []
        lines = self._file.read_text(encoding="utf-8").split("\n")[:-1]  # a line without its end was cut off
        return [json.loads(line) for line in lines]

    def go_back_to(self, step: int) -> None:
        """Drop the lines of steps after `step`: they will be done again."""
        if self._writes:
            kept = [line for line in self.lines() if line["step"] <= step]
            write_whole(self._file, "".join(json.dumps(line) + "\n" for line in kept))

    def figures(self, done: Progressed, device: str) -> dict[str, float]:
        """Return the metrics of a training that finished on a device."""
        lines = self.lines()
        losses = [line["loss"] for line in lines if "loss" in line]
        last = losses[-max(1, len(losses) // 10) :]  # one step is a noisy figure
        dev = [line["dev_loss"] for line in lines if "dev_loss" in line]
        return ({"dev_loss": dev[-1]} if dev else {}) | {
            "loss": sum(last) / len(last),
            "steps": float(done.step),
            "tokens": float(done.tokens),
            "label_tokens": float(done.label_tokens),
            "seconds": done.seconds,
            "cpu_seconds": done.cpu_seconds,
            "peak_memory_mib": peak_mib(device),
        }


def predicted(plan: TrainPlan) -> dict[str, float]:
    """Return the plan's figures under the names that a checkpoint keeps beside the measured ones."""
    return {"predicted_memory_mib": plan.memory_mib, "predicted_seconds": round(plan.seconds, 1)}


def plan_line(plan: TrainPlan) -> str:
    """Say what a training will take."""
    how = ", activations computed twice" if plan.recompute else ""
    return (
        f"{plan.dtype} on {plan.device}: about {plan.memory_mib:,.0f} MiB (of {plan.memory_limit_mib:,.0f}) "
        f"and {plan.seconds:,.0f} s; packs of {plan.pack_tokens} tokens{how}"
    )
