"""Fingerprints by content: which base model, and which chat template and tokenizer."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from agentkd.errors import ModelError
from agentkd.schema import content_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["base_id", "file_sha256", "template_hash"]

_PATTERNS = (
    "*.safetensors",
    "*.model",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
)
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_VOLATILE = ("transformers_version", "_name_or_path")


def base_id(path: str | Path) -> str:
    """Return `base-` and 20 hex digits over config, weights and tokenizer of a model folder."""
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise ModelError(f"`{folder}` is no model folder: it has no config.json", path=str(folder))
    files = {file for pattern in (*_PATTERNS, *_TEMPLATES) for file in folder.glob(pattern)}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    facts = {key: value for key, value in config.items() if key not in _VOLATILE}
    return content_id("base", facts, {file.name: file_sha256(file) for file in sorted(files)})


def file_sha256(file: Path) -> str:
    """Return the sha256 of a file; remembered while its size and time of change stay the same."""
    stat = file.stat()
    return _sha256(str(file.resolve()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


_template_hashes: WeakKeyDictionary[PreTrainedTokenizerFast, str] = WeakKeyDictionary()


def template_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return 16 hex digits over the chat template and the tokenizer: equal hash, equal token ids."""
    if tokenizer not in _template_hashes:
        text = f"{tokenizer.chat_template}\0{tokenizer.backend_tokenizer.to_str()}"
        _template_hashes[tokenizer] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return _template_hashes[tokenizer]
