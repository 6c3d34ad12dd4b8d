"""Export a student: its adapter merged into the base, or as a GGUF adapter; each proved on real prompts.

A merge is computed in float32 and then cast. Every export is written aside and moved into place only after
the exported files, read back, answered like the student; one that does not is refused and removed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentkd.errors import CheckpointError, MissingExtraError
from agentkd.hf.adapter import Adapter, attach_adapter, read_adapter
from agentkd.hf.loading import load_model, load_tokenizer
from agentkd.schema import Rendered, Value

if TYPE_CHECKING:
    import torch

__all__ = ["EXPORTS", "Parity", "export_student"]

EXPORTS: tuple[str, ...] = ("peft", "merged", "gguf-adapter")
"""Shapes that a student can be exported to."""

_AGREEMENT = {"peft": 1.0, "merged": 0.999, "gguf-adapter": 0.995}
"""Least share of positions whose most likely token is the student's, by shape."""

_PERMUTED = {"llama": ("q_proj", "k_proj")}
"""Projections whose rows llama.cpp keeps in another order (rotary halves interleaved), by architecture."""


class Parity(Value):
    """How like the student an export answers."""

    n_prompts: int
    """Prompts that were compared."""
    n_tokens: int
    """Tokens of completions that were compared."""
    agreement: float
    """Share of them with the same most likely token."""
    largest: float
    """Largest difference of two logits."""
    bar: float
    """Least agreement that lets an export through."""


def export_student(
    shape: Literal["peft", "merged", "gguf-adapter"],
    base: Path,
    adapter: Path,
    out: Path,
    rows: Sequence[Rendered],
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Parity:
    """Write the student to `out` and return how like it the export answers.

    Args:
        shape: `peft` (a folder of peft), `merged` (a whole model of transformers) or `gguf-adapter` (one
            file for llama.cpp's `--lora`, beside a GGUF of the same base).
        base: Folder of the base model.
        adapter: Folder of the checkpoint.
        out: Folder, or file for `gguf-adapter`, that is made.
        rows: Prompts with completions, at least one; the parity is measured on the completions' tokens,
            since what a model would say within somebody else's words decides nothing.
        dtype: Type of the weights of a merged model.

    Raises CheckpointError where `out` exists, or where the export answers otherwise than the student.
    """
    if out.exists():
        raise CheckpointError(f"`{out}` exists already", hint="choose another place", path=str(out))
    if not any(weight for row in rows for weight in row.weights):
        raise CheckpointError("an export needs completions to be checked on", hint="compile a dataset first")
    checked = read_adapter(adapter)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".partial-", dir=out.parent)) / out.name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for what it renames
            wanted = _logits(attach_adapter(load_model(base, "float32", "cpu"), adapter), rows)
            found = _logits(_WRITERS[shape](base, checked, aside, dtype), rows)
        parity = _compare(wanted, found, _AGREEMENT[shape])
        if parity.agreement < parity.bar:
            raise CheckpointError(
                f"the {shape} export of `{adapter.name}` answers otherwise than the student: agreement "
                f"{parity.agreement:.4f} of {parity.n_tokens} tokens, needed {parity.bar:g}",
                hint="nothing was written; float32 keeps more digits of a merged model",
            )
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside.parent, ignore_errors=True)
    return parity


def _copy(base: Path, adapter: Adapter, out: Path, dtype: str) -> Any:
    """Copy a checkpoint as the folder that peft reads."""
    out.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(adapter.folder / name, out / name)
    return attach_adapter(load_model(base, "float32", "cpu"), out)


def _merge(base: Path, adapter: Adapter, out: Path, dtype: str) -> Any:
    """Add scale * B @ A to the weights in float32, cast, save, and read back."""
    import torch

    model: Any = load_model(base, "float32", "cpu")
    modules = dict(model.named_modules())
    for name, (a, b) in adapter.pairs().items():
        if name not in modules:
            raise CheckpointError(
                f"adapter `{adapter.folder}` has weights for `{name}`, which the base lacks"
            )
        modules[name].weight.add_(adapter.scale * (b.float() @ a.float()))
    model.to({"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype])
    model.save_pretrained(str(out), safe_serialization=True)
    load_tokenizer(base).save_pretrained(str(out))
    del model
    return load_model(out, dtype, "cpu")


def _write_gguf(base: Path, adapter: Adapter, out: Path, dtype: str) -> Any:
    """Write the adapter for llama.cpp and attach to the base what the file holds when it is read back."""
    gguf = _gguf()
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    architecture = str(config["model_type"])
    names = _tensor_names(gguf, architecture, int(config["num_hidden_layers"]))
    writer = gguf.GGUFWriter(str(out), architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.scale * adapter.r)  # llama.cpp divides by the rank
    for module, (a, b) in adapter.pairs().items():
        rows = _reorder(b.float(), _heads(config, module, architecture))
        writer.add_tensor(f"{names(module)}.lora_a", a.float().contiguous().numpy())
        writer.add_tensor(f"{names(module)}.lora_b", rows.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return _with_gguf(gguf, base, adapter, out, config, architecture, names)


def _with_gguf(
    gguf: Any,
    base: Path,
    adapter: Adapter,
    file: Path,
    config: dict[str, Any],
    architecture: str,
    names: Callable[[str], str],
) -> Any:
    import torch

    model: Any = load_model(base, "float32", "cpu")
    reader = gguf.GGUFReader(str(file))
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    alpha = float(reader.get_field("adapter.lora.alpha").contents())
    modules = dict(model.named_modules())
    for module in adapter.pairs():
        a, b = (tensors[f"{names(module)}.lora_{side}"] for side in "ab")
        rows = _reorder(b, _heads(config, module, architecture), back=True)
        modules[module].weight.add_(alpha / a.shape[0] * (rows @ a))
    return model


def _heads(config: dict[str, Any], module: str, architecture: str) -> int:
    """Return the number of heads whose rows llama.cpp reorders in this module; 0 for none."""
    name = module.rpartition(".")[2]
    if name not in _PERMUTED.get(architecture, ()):
        return 0
    heads = int(config["num_attention_heads"])
    return heads if name == "q_proj" else int(config.get("num_key_value_heads") or heads)


def _reorder(b: torch.Tensor, heads: int, *, back: bool = False) -> torch.Tensor:
    """Interleave the rotary halves of each head, or put them apart again; `[out, r]`."""
    if not heads:
        return b
    half = b.shape[0] // heads // 2
    shape = (heads, half, 2) if back else (heads, 2, half)
    return b.reshape(*shape, b.shape[1]).swapaxes(1, 2).reshape(b.shape)


def _tensor_names(gguf: Any, architecture: str, n_layers: int) -> Callable[[str], str]:
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    if architecture not in kinds:
        raise CheckpointError(
            f"llama.cpp knows no architecture `{architecture}`", hint="export it as `merged` or `peft`"
        )
    table = gguf.get_tensor_name_map(kinds[architecture], n_layers)

    def name_of(module: str) -> str:
        name = table.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if name is None:
            raise CheckpointError(f"llama.cpp has no name for `{module}` of architecture `{architecture}`")
        return str(name)

    return name_of


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingExtraError.of("gguf", "train", "a GGUF export") from None
    return gguf


def _logits(model: Any, rows: Sequence[Rendered]) -> list[torch.Tensor]:
    """Return the logits that predict each row's completion, float32 `[n, v]`."""
    import torch

    found = []
    with torch.inference_mode():
        for row in rows:
            at = [t - 1 for t, weight in enumerate(row.weights) if weight and t]
            if at:
                found.append(model(input_ids=torch.tensor([row.ids])).logits[0, at].float())
    return found


def _compare(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor], bar: float) -> Parity:
    same = sum(int((w.argmax(-1) == f.argmax(-1)).sum()) for w, f in zip(wanted, found, strict=True))
    n = sum(len(w) for w in wanted)
    largest = max(float((w - f).abs().max()) for w, f in zip(wanted, found, strict=True))
    return Parity(n_prompts=len(wanted), n_tokens=n, agreement=same / n, largest=largest, bar=bar)


_WRITERS: dict[str, Callable[[Path, Adapter, Path, str], Any]] = {
    "peft": _copy,
    "merged": _merge,
    "gguf-adapter": _write_gguf,
}
