"""A LoRA adapter as one GGUF file for llama.cpp, and read back from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentkd.errors import CheckpointError
from agentkd.hf.adapter import Adapter
from agentkd.hf.gguf_tensor import Layout, gguf_package

__all__ = ["check_adapter", "merge_from_gguf", "write_adapter_gguf"]


def check_adapter(base: Path, adapter: Adapter) -> Layout:
    """Return the layout of the base's tensors.

    Raises CheckpointError for a DoRA adapter and for an architecture that no GGUF is written of.
    """
    if adapter.has_magnitudes:
        raise CheckpointError(
            f"`{adapter.folder.name}` is a DoRA adapter: it gives whole rows of the weights another length, "
            "and a GGUF adapter can only add to them",
            hint="export it as `gguf` or `merged`, where it is merged into the weights",
        )
    return Layout.of(base)


def write_adapter_gguf(base: Path, adapter: Adapter, out: Path) -> None:
    """Write the adapter for llama.cpp's `--lora`.

    llama.cpp scales by alpha / r; alpha is written so that this is the adapter's scale, whatever made it
    (rsLoRA's alpha / sqrt(r) too). Raises CheckpointError as `check_adapter`.
    """
    gguf = gguf_package()
    layout = check_adapter(base, adapter)
    name_of = layout.namer()
    writer = gguf.GGUFWriter(str(out), layout.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.scale * adapter.r)
    for module, (a, b) in adapter.pairs().items():
        parameter = f"{module}.weight"
        writer.add_tensor(f"{name_of(parameter)}.lora_a", a.float().contiguous().numpy())
        rows = layout.stored(parameter, b.float())
        writer.add_tensor(f"{name_of(parameter)}.lora_b", rows.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def merge_from_gguf(base: Path, adapter: Adapter, file: Path, model: Any) -> Any:
    """Add to `model` what the file holds for the adapter's modules, and return it."""
    import torch

    layout = Layout.of(base)
    name_of = layout.namer()
    reader = gguf_package().GGUFReader(str(file))
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    alpha = float(reader.get_field("adapter.lora.alpha").contents())
    modules = dict(model.named_modules())
    for module in adapter.pairs():
        parameter = f"{module}.weight"
        a, b = (tensors[f"{name_of(parameter)}.lora_{side}"] for side in "ab")
        with torch.no_grad():
            modules[module].weight.add_(alpha / a.shape[0] * (layout.stored(parameter, b, back=True) @ a))
    return model
