"""A whole model as one GGUF file, written with the `gguf` package alone, and read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.errors import CheckpointError
from agentkd.hf.gguf_tensor import Layout, gguf_package
from agentkd.hf.gguf_tokens import add_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["TYPES", "check_model", "read_model", "write_model"]

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "q8_0": "Q8_0"}
"""Types of a GGUF file's matrices, by our name."""

_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
_OWN: tuple[str, ...] = ("GGUF.", "general.file_type", "general.quantization_version", "general.name")
_OWN += ("tokenizer.chat_template",)
"""Fields of the base's file that are not taken over."""


def write_model(
    out: Path,
    base: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    *,
    dtype: str,
    name: str,
    base_gguf: Path | None = None,
) -> Layout:
    """Write `model` (merged, float32) for llama.cpp with its tokenizer and chat template.

    Args:
        out: The file.
        base: Folder of the base model.
        model: What is written.
        tokenizer: Its tokenizer.
        dtype: Type of the matrices, a key of `TYPES`; vectors stay float32.
        name: What the file says that it is.
        base_gguf: File that the base came from: its metadata and tokenizer are taken over.

    Raises CheckpointError where the model is of a kind that is not known to be written right.
    """
    gguf = gguf_package()
    layout = check_model(base)
    writer = gguf.GGUFWriter(str(out), layout.architecture)
    writer.add_name(name)
    if base_gguf is None or not _take_over(writer, base_gguf, layout.architecture):
        _add_shape(writer, layout)
        add_tokenizer(writer, tokenizer, int(model.get_input_embeddings().weight.shape[0]))
    if tokenizer.chat_template:
        writer.add_chat_template(str(tokenizer.chat_template))
    kind = TYPES[dtype]
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[kind]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for stored_name, array, tensor_kind in _arrays(layout, model, kind):
        writer.add_tensor(stored_name, gguf.quants.quantize(array, tensor_kind), raw_dtype=tensor_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return layout


def check_model(base: Path) -> Layout:
    """Return the layout of a model folder; raises CheckpointError for what may not be written right."""
    layout = Layout.of(base)
    _check_plain(layout.config)
    return layout


def read_model(file: Path, layout: Layout, model: Any) -> Any:
    """Put the weights of a GGUF file, de-quantised, into `model` and return it.

    Raises CheckpointError where file and model do not hold the same weights.
    """
    import torch

    gguf = gguf_package()
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    name_of = layout.namer()
    for parameter, weight in model.named_parameters():
        tensor = tensors.pop(name_of(parameter), None)
        if tensor is None:
            raise CheckpointError(f"`{file.name}` lacks `{parameter}`")
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found = layout.stored(parameter, torch.from_numpy(array.copy()), back=True)
        with torch.no_grad():
            weight.copy_(found)
    if tensors:
        raise CheckpointError(f"`{file.name}` holds `{next(iter(tensors))}`, which the model lacks")
    return model


def _arrays(layout: Layout, model: Any, kind: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, float32 array and type of every tensor; what cannot be cut into blocks stays F16."""
    gguf = gguf_package()
    name_of = layout.namer()
    for parameter, weight in model.named_parameters():  # a tied output layer is the embedding, once
        array = layout.stored(parameter, weight.detach().float()).contiguous().numpy()
        wanted = "F32" if array.ndim < 2 else kind
        if wanted == "Q8_0" and array.shape[-1] % 32:
            wanted = "F16"
        yield name_of(parameter), array, gguf.GGMLQuantizationType[wanted]


def _take_over(writer: Any, base_gguf: Path, architecture: str) -> bool:
    """Copy the metadata of the base's file; False where it is of another architecture."""
    gguf = gguf_package()
    fields = gguf.GGUFReader(str(base_gguf)).fields
    if fields["general.architecture"].contents() != architecture:
        return False
    for key, field in fields.items():
        if key.startswith(_OWN) or key == "general.architecture":
            continue
        sub_type = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    return True


def _add_shape(writer: Any, layout: Layout) -> None:
    config = layout.config
    heads = int(config["num_attention_heads"])
    head_size = int(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    rope = _rope(config)
    writer.add_rope_freq_base(float(rope.get("full_attention", rope)["rope_theta"]))
    if layout.architecture == "gemma3":
        writer.add_sliding_window(int(config["sliding_window"]))


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Return the rotary parameters, wherever this version of transformers keeps them."""
    found = config.get("rope_parameters")
    return dict(found) if found else {"rope_theta": config.get("rope_theta", 10000.0)}


def _check_plain(config: dict[str, Any]) -> None:
    """Refuse what llama.cpp would compute otherwise than the metadata that is written here says."""
    rope = _rope(config)
    kinds = {part.get("rope_type", "default") for part in ([rope] if "rope_theta" in rope else rope.values())}
    odd = ""
    if kinds - {"default"} or config.get("rope_scaling"):
        odd = f"scaled rotary positions {sorted(kinds)}"
    elif config.get("use_sliding_window"):
        odd = "a sliding window"
    elif config["model_type"] == "gemma3_text":
        odd = _odd_gemma(config)
    if odd:
        raise CheckpointError(
            f"agentkd writes no GGUF of a model with {odd}",
            hint="export it as `merged`; llama.cpp's own converter takes that folder",
        )


def _odd_gemma(config: dict[str, Any]) -> str:
    local = _rope(config).get("sliding_attention", {}).get("rope_theta", 10000.0)
    full = [i % 6 == 5 for i in range(int(config["num_hidden_layers"]))]
    kinds = config.get("layer_types") or []
    if [kind == "full_attention" for kind in kinds] != full:
        return "layers in another order than five local to one global"
    if local != 10000.0 or config.get("final_logit_softcapping") or config.get("attn_logit_softcapping"):
        return "soft caps or another local rotary base"
    return "" if config.get("query_pre_attn_scalar") == config.get("head_dim") else "another attention scale"
