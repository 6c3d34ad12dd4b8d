"""Resumable saves: `step-N/` folders that appear whole or not at all, as safetensors and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from agentkd import hf
from agentkd.errors import CheckpointError
from agentkd.files import put_in_place, sync_file
from agentkd.train.lora import adapter_parameters

__all__ = ["Progressed", "latest", "restore", "save"]

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass
class Progressed:
    """How far a training is, besides its tensors."""

    step: int = 0
    """Optimiser steps done; the rows of the next one follow from the seed."""
    tokens: int = 0
    """Tokens seen."""
    label_tokens: int = 0
    """Trained tokens seen."""
    seconds: float = 0.0
    """Time in steps so far, over all runs."""
    cpu_seconds: float = 0.0
    """CPU time so far, over all runs."""
    loss: float = 0.0
    """Loss of the last step."""


def save(
    folder: Path,
    progressed: Progressed,
    model: Any,
    optimizer: Any,
    objectives: Mapping[str, Any],
    *,
    keep_last: int = 2,
) -> None:
    """Write `<folder>/step-N` atomically and drop all but the newest `keep_last`."""
    from safetensors.torch import save_file

    final = folder / f"step-{progressed.step:06d}"
    aside = folder / f"{final.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(_tensors(model, optimizer), str(aside / _TENSORS))
    state = {
        "progressed": asdict(progressed),
        "objectives": dict(objectives),
        "sha256": hf.file_sha256(aside / _TENSORS),
    }
    (aside / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    for file in folder.iterdir():
        if file.is_file():
            sync_file(file)  # the lines of the steps before it
    shutil.rmtree(final, ignore_errors=True)
    put_in_place(aside, final)
    for old in sorted(folder.glob("step-??????"))[:-keep_last]:
        shutil.rmtree(old)


def latest(folder: Path) -> Path | None:
    """Return the newest save whose tensors have their sha256; remove damaged ones."""
    for candidate in sorted(folder.glob("step-??????"), reverse=True):
        try:
            state = json.loads((candidate / _STATE).read_text(encoding="utf-8"))
            if hf.file_sha256(candidate / _TENSORS) == state["sha256"]:
                return candidate
        except (OSError, ValueError, KeyError):
            pass
        shutil.rmtree(candidate, ignore_errors=True)  # another process may have found it as well
    return None


def restore(saved: Path, model: Any, optimizer: Any) -> tuple[Progressed, dict[str, Any]]:
    """Put a save back; return how far it is and the objectives' states.

    Raises CheckpointError where the save belongs to another adapter.
    """
    from safetensors.torch import load_file

    tensors = load_file(str(saved / _TENSORS))
    state = json.loads((saved / _STATE).read_text(encoding="utf-8"))
    try:
        for name, parameter in adapter_parameters(model):
            with torch.no_grad():
                parameter.copy_(tensors[f"adapter/{name}"])
            if f"optimizer/step/{name}" not in tensors:
                continue  # it had no gradient so far, and AdamW keeps nothing of such a one
            optimizer.state[parameter] = {
                key: tensors[f"optimizer/{key}/{name}"].to(parameter.device if key != "step" else "cpu")
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"save `{saved}` does not fit this model: {error}", path=str(saved)) from error
    torch.set_rng_state(tensors["rng/cpu"])
    if "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"])
    return Progressed(**state["progressed"]), state["objectives"]


def _tensors(model: Any, optimizer: Any) -> dict[str, torch.Tensor]:
    tensors = {"rng/cpu": torch.get_rng_state()}
    if any(parameter.is_cuda for _, parameter in adapter_parameters(model)):
        tensors["rng/cuda"] = torch.cuda.get_rng_state()
    for name, parameter in adapter_parameters(model):
        tensors[f"adapter/{name}"] = parameter.detach().cpu().contiguous()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{key}/{name}"] = value.cpu().contiguous()
    return tensors
