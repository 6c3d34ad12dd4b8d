"""Whether an adapter's change of the weights means the same on another base: names, shapes, architecture."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from agentkd.errors import CheckpointError
from agentkd.hf.adapter import Adapter

__all__ = ["check_fits", "linear_shapes"]

_SAME = ("model_type", "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers")
"""Keys of `config.json` in which two bases of one family agree."""


def check_fits(adapter: Adapter, base: str | Path, old_base: str | Path | None = None) -> None:
    """Refuse an adapter whose B @ A cannot be added to the weights of `base`.

    Every layer that it changes must be there with the same shape, and no layer of the same kind may be
    without a change, but for those that it left alone on its `old_base`: the new base would then be deeper.
    Where the old base is at hand, its architecture must be the same. Reads headers only.

    Raises:
        CheckpointError: it does not fit, and why.
    """
    if adapter.has_magnitudes:
        raise _refused(
            adapter,
            "is of DoRA: its magnitudes are lengths of the old base's rows and no difference of weights",
            "train a plain LoRA or rslora adapter (`[train.lora] variant`) on the new base",
        )
    _check_configs(adapter, Path(base), old_base)
    shapes = linear_shapes(base)
    pairs = adapter.pairs()
    for module, (a, b) in pairs.items():
        wanted, found = (b.shape[0], a.shape[1]), shapes.get(module)
        if found != wanted:
            there = f"there it is {list(found)}" if found else "it is not there"
            raise _refused(adapter, f"changes `{module}` of shape {list(wanted)}; {there} in `{base}`")
    known = {*pairs, *(linear_shapes(old_base) if old_base is not None else ())}
    kinds = {module.rpartition(".")[2] for module in pairs}
    beyond = sorted(name for name in shapes if name.rpartition(".")[2] in kinds and name not in known)
    if beyond:
        is_open = old_base is None and _names_layers(adapter)
        why = (
            "whether its old base had that layer cannot be told"
            if is_open
            else "the new base has more layers"
        )
        raise _refused(adapter, f"has no change for `{beyond[0]}` of `{base}`: {why}")


def linear_shapes(base: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every two-dimensional weight of a model folder, by module name."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(Path(base).glob("*.safetensors")):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, facts in header.items():
            if name.endswith(".weight") and len(facts["shape"]) == 2:
                found[name.removesuffix(".weight")] = tuple(facts["shape"])
    return found


def _names_layers(adapter: Adapter) -> bool:
    """Whether an adapter's targets may be single layers, and not all of a kind."""
    targets = adapter.config["target_modules"]
    return any("." in name for name in ([targets] if isinstance(targets, str) else targets))


def _check_configs(adapter: Adapter, base: Path, old_base: str | Path | None) -> None:
    if old_base is None:
        return
    new, old = _config(base), _config(Path(old_base))
    for key in _SAME:
        if new.get(key) != old.get(key):
            raise _refused(
                adapter,
                f"was trained on a base with `{key}` = {old.get(key)}, and `{base}` has {new.get(key)}",
            )


def _config(base: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return found


def _refused(
    adapter: Adapter, why: str, hint: str = "train anew: `agentkd compile`, then `agentkd train`"
) -> CheckpointError:
    return CheckpointError(f"adapter `{adapter.folder.name}` {why}", hint=hint, path=str(adapter.folder))
