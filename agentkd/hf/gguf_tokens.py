"""The tokenizer as the metadata of a GGUF file, made from tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agentkd.errors import CheckpointError
from agentkd.hf.gguf_tensor import gguf_package

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["add_tokenizer"]

# llama.cpp knows how a text is cut before the merges by a name; these are the ways that are told for certain.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    rf"{_CONTRACTIONS}\p{{N}}{_REST}": "qwen2",
    rf"{_CONTRACTIONS}\p{{N}}{{1,3}}{_REST}": "llama-bpe",
}

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 3, 4, 5, 6
"""Kinds of tokens in llama.cpp."""


def add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerFast, n_vocabulary: int) -> None:
    """Write tokens, merges and special tokens to a GGUFWriter.

    Raises CheckpointError for a tokenizer that llama.cpp has no certain name for.
    """
    facts = json.loads(tokenizer.backend_tokenizer.to_str())
    if facts["model"].get("type") != "BPE":
        raise _unknown(f"its model is `{facts['model'].get('type')}`")
    tokens, kinds = _tokens(facts, n_vocabulary)
    if facts["model"].get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([-float(index) for index in range(len(tokens))])  # pieces stand by rank
        writer.add_key_value(
            "tokenizer.ggml.add_space_prefix", _has_prefix(facts), gguf_package().GGUFValueType.BOOL
        )
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_cut_name(facts))
        merges = facts["model"]["merges"]
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    _add_special(writer, tokenizer)


def _tokens(facts: dict[str, Any], n_vocabulary: int) -> tuple[list[str], list[int]]:
    """Return the texts and kinds of all tokens by id.

    Rows of the embedding without a token are filled up; a token without a row (Gemma 3 has one for images,
    its text models have no row for it) is left out.
    """
    texts: list[str] = [f"[PAD{index}]" for index in range(n_vocabulary)]
    kinds = [_UNUSED] * n_vocabulary
    for text, index in facts["model"]["vocab"].items():
        is_byte = facts["model"].get("byte_fallback") and len(text) == 6 and text.startswith("<0x")
        if index < n_vocabulary:
            texts[index], kinds[index] = text, _BYTE if is_byte else _NORMAL
    for added in facts["added_tokens"]:
        if (index := added["id"]) < n_vocabulary:
            texts[index] = added["content"]
            kinds[index] = _CONTROL if added["special"] else _USER_DEFINED
    return texts, kinds


def _cut_name(facts: dict[str, Any]) -> str:
    """Return llama.cpp's name of how texts are cut before the merges; raises CheckpointError."""
    steps = list(_steps(facts.get("pre_tokenizer")))
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[1].get("use_regex"):
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex"):
        name = _SPLITS.get(steps[0]["pattern"].get("Regex", ""))
        if name and bool(facts["model"].get("ignore_merges")) == (name == "llama-bpe"):
            return name
    raise _unknown(f"it cuts texts by {kinds}")


def _steps(pre_tokenizer: Any) -> Iterator[dict[str, Any]]:
    if pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        yield from pre_tokenizer["pretokenizers"]
    elif pre_tokenizer:
        yield pre_tokenizer


def _has_prefix(facts: dict[str, Any]) -> bool:
    normalizer = facts.get("normalizer") or {}
    parts: Sequence[dict[str, Any]] = normalizer.get("normalizers", [normalizer])
    return any(part.get("type") == "Prepend" for part in parts)


def _add_special(writer: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    for add, index in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if index is not None:
            add(int(index))
    first = list(tokenizer("a")["input_ids"])[:1]
    writer.add_add_bos_token(bool(first) and first[0] == tokenizer.bos_token_id)


def _unknown(why: str) -> CheckpointError:
    return CheckpointError(
        f"the tokenizer has no certain name in llama.cpp: {why}",
        hint="export it as `merged`, or begin from a base that came as a GGUF file",
    )
