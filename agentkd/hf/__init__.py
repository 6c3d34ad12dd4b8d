"""The only door to torch, transformers and peft; nothing heavy is imported before a function is called.

Loading (`load_tokenizer`, `load_model`, `convert_gguf`), adapters (`check_files`, `read_adapter`,
`attach_adapter`), fingerprints (`base_id`, `template_hash`), chat rendering (`render`, `render_example`) and
a tiny random model for tests.
"""

from __future__ import annotations

from agentkd.hf.adapter import Adapter, attach_adapter, check_files, read_adapter
from agentkd.hf.export import EXPORTS, Parity, export_student
from agentkd.hf.fingerprint import base_id, file_sha256, template_hash
from agentkd.hf.loading import convert_gguf, fastest_dtype, load_model, load_tokenizer, pick_device
from agentkd.hf.render import as_text, call_text, end_ids, render, render_example
from agentkd.hf.tiny import tiny_model

__all__ = [
    "Adapter",
    "EXPORTS",
    "Parity",
    "as_text",
    "attach_adapter",
    "base_id",
    "call_text",
    "check_files",
    "convert_gguf",
    "end_ids",
    "export_student",
    "fastest_dtype",
    "file_sha256",
    "load_model",
    "load_tokenizer",
    "pick_device",
    "read_adapter",
    "render",
    "render_example",
    "template_hash",
    "tiny_model",
]
