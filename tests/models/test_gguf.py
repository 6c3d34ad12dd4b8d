"""A GGUF file becomes a folder that can be loaded and trained: once, whole, with the same numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agentkd import hf
from agentkd.errors import ModelError
from agentkd.files import own_name
from agentkd.models.gguf import convert_gguf, resolve_model

_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


@pytest.fixture(scope="module")
def gguf_file(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as GGUF, its matrices quantised to 8 bits."""
    import gguf

    model: Any = hf.load_model(tiny, "float32")
    tokenizer = hf.load_tokenizer(tiny)
    config = model.config
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            _add_tensor(writer, gguf, config, name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    import json

    facts = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.get_added_vocab())
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in facts["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)


def _add_tensor(writer: Any, gguf: Any, config: Any, name: str, data: Any) -> None:
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for module, n in heads.items():
        if module in name:  # GGUF interleaves the two rotary halves of llama models
            data = data.reshape(n, 2, len(data) // n // 2, -1).swapaxes(1, 2).reshape(data.shape)
    if name.startswith("model.layers."):
        _, _, layer, *rest = name.removesuffix(".weight").split(".")
        name = f"blk.{layer}.{_NAMES['.'.join(rest)]}.weight"
    else:
        name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[
            name
        ]
    if data.ndim == 2:
        packed = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(name, data)


def test_a_converted_model_says_the_same_and_is_cached(tiny: Path, gguf_file: Path, tmp_path: Path) -> None:
    import torch

    files = resolve_model(f"path:{gguf_file.parent}", tmp_path)
    assert files.path.parent == tmp_path / "models"
    assert files.base_id == hf.base_id(files.path)
    stamp = (files.path / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(f"path:{gguf_file.parent}", tmp_path) == files
    assert (files.path / "model.safetensors").stat().st_mtime_ns == stamp
    tokenizer, original = hf.load_tokenizer(files.path), hf.load_tokenizer(tiny)
    text = "Book a ride in San Francisco at 19:30, zoë!"
    assert tokenizer(text)["input_ids"] == original(text)["input_ids"]
    assert tokenizer.chat_template == original.chat_template
    model: Any = hf.load_model(files.path, "float32")
    assert getattr(model.config, "quantization_config", None) is None
    ids = torch.tensor([original(text)["input_ids"]])
    with torch.no_grad():
        ours, theirs = model(ids).logits, hf.load_model(tiny, "float32")(ids).logits
    assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.995  # 8 bits, then bfloat16


def test_a_broken_file_leaves_nothing_behind(gguf_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf_file.read_bytes()[:5000])
    killed = own_name().replace(f"-{os.getpid()}-", "-999999999-")
    (tmp_path / "models" / killed / "model").mkdir(parents=True)
    with pytest.raises(ModelError, match="cannot de-quantise"):
        convert_gguf(broken, tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_source_must_hold_one_model(tiny: Path, tmp_path: Path) -> None:
    assert resolve_model(f"path:{tiny}", tmp_path).path == tiny.resolve()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="exactly one model"):
        resolve_model(f"path:{tmp_path / 'empty'}", tmp_path)
