"""The only door to torch, transformers and peft; nothing heavy is imported before a function is called.

Loading (`load_config`, `load_tokenizer`, `load_model`, `convert_gguf`), adapters (`check_files`,
`read_adapter`, `attach_adapter`), fingerprints (`base_id`, `template_hash`), chat rendering (`render`,
`render_example`) and a tiny random model for tests.
"""

from __future__ import annotations

from agentkd.hf.adapter import (
    Adapter,
    attach_adapter,
    check_files,
    quiet_peft,
    read_adapter,
    registered_files,
)
from agentkd.hf.anchor import Anchors, anchor_rows, measure_anchors
from agentkd.hf.export import DTYPES, EXPORTS, Export, export_student
from agentkd.hf.fingerprint import base_id, file_sha256, template_hash
from agentkd.hf.loading import (
    convert_gguf,
    fastest_dtype,
    load_config,
    load_model,
    load_tokenizer,
    n_cores,
    pick_device,
)
from agentkd.hf.parity import PROMPTS, Parity
from agentkd.hf.render import (
    as_text,
    call_text,
    chat_text,
    chat_turns,
    end_ids,
    render,
    render_example,
    special_tokens,
)
from agentkd.hf.scoring import ReplyScorer, ScoredReply
from agentkd.hf.tiny import tiny_model
from agentkd.hf.transfer import check_fits

__all__ = [
    "Adapter",
    "Anchors",
    "DTYPES",
    "EXPORTS",
    "Export",
    "PROMPTS",
    "Parity",
    "ReplyScorer",
    "ScoredReply",
    "anchor_rows",
    "as_text",
    "attach_adapter",
    "base_id",
    "call_text",
    "chat_text",
    "chat_turns",
    "check_files",
    "check_fits",
    "convert_gguf",
    "end_ids",
    "export_student",
    "fastest_dtype",
    "file_sha256",
    "load_config",
    "load_model",
    "load_tokenizer",
    "measure_anchors",
    "n_cores",
    "pick_device",
    "quiet_peft",
    "read_adapter",
    "registered_files",
    "render",
    "render_example",
    "special_tokens",
    "template_hash",
    "tiny_model",
]
