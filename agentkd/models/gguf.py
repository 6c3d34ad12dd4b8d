"""From any source to a folder that can be loaded and trained; GGUF is de-quantised once into the cache.

Run as `python -m agentkd.models.gguf FILE FOLDER` it converts in a process of its own, so that the gigabytes
which that takes are given back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentkd import archive, hf
from agentkd.errors import AgentkdError, ModelError
from agentkd.files import aside_folder, write_whole
from agentkd.models.source import fetch
from agentkd.protocols import Progress, SilentProgress
from agentkd.schema import Value

__all__ = ["ModelFiles", "convert_gguf", "resolve_model"]

_MARKER = "agentkd-model.json"


class ModelFiles(Value):
    """A model that lies on this machine, ready to be loaded."""

    path: Path
    """Folder with config.json, safetensors, tokenizer and chat template."""
    base_id: str
    """Fingerprint of the folder's content."""
    source: str
    """Source that it was resolved from."""


def resolve_model(
    source: str, cache_dir: Path, *, sha256: str | None = None, progress: Progress | None = None
) -> ModelFiles:
    """Fetch `source` and return a folder that transformers can load, converting a GGUF file where it is one.

    Raises ModelError where the source holds no model, or more than one.
    """
    folder = fetch(source, cache_dir=cache_dir, sha256=sha256, progress=progress)
    models = _model_folders(folder)
    ggufs = sorted(folder.rglob("*.gguf")) if not models else []
    if len(models) + len(ggufs) != 1:
        found = ", ".join(str(path.relative_to(folder)) for path in [*models, *ggufs]) or "none"
        raise ModelError(
            f"`{source}` must hold exactly one model, but it holds: {found}",
            hint="a model is a folder with config.json and *.safetensors, or one *.gguf file",
        )
    path = models[0] if models else convert_gguf(ggufs[0], cache_dir / "models", progress=progress)
    return ModelFiles(path=path, base_id=hf.base_id(path), source=source)


def _model_folders(folder: Path) -> list[Path]:
    if (folder / "config.json").is_file():
        return [folder]
    configs = (config.parent for config in sorted(folder.rglob("config.json")))
    return [path for path in configs if any(path.glob("*.safetensors"))]


def convert_gguf(gguf_path: Path, out_dir: Path, *, progress: Progress | None = None) -> Path:
    """De-quantise a GGUF file into a new folder under `out_dir` and return it; a second call finds it there.

    The folder is named by the file's content and appears whole or not at all. Takes about 20 s and 1.2 GB for
    SmolLM2-135M, in a subprocess. Raises ModelError.
    """
    folder = out_dir / f"{gguf_path.stem}-{hf.file_sha256(gguf_path)[:12]}"
    if _is_whole(folder):
        return folder
    with aside_folder(out_dir) as aside:
        _convert_apart(gguf_path, aside / "model", progress or SilentProgress())
        archive.place(aside / "model", folder, lambda: _is_whole(folder))
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _MARKER).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _convert_apart(gguf_path: Path, folder: Path, progress: Progress) -> None:
    command = [sys.executable, "-m", "agentkd.models.gguf", str(gguf_path), str(folder)]
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    with (
        progress.bar(f"de-quantise {gguf_path.name}", None, "s") as bar,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": paths},
        ) as process,
    ):
        try:
            while process.poll() is None:
                time.sleep(0.25)
                bar.advance(0.25)
        except BaseException:
            process.kill()
            raise
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines() or ["no message"]
    if process.returncode:
        raise ModelError(
            f"cannot de-quantise `{gguf_path.name}`: {lines[-1]}",
            hint="needs torch, transformers and gguf (pip install 'agentkd[train]') and a known architecture",
            path=str(gguf_path),
        )


def _convert_here(gguf_path: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    hf.convert_gguf(gguf_path, folder)
    sizes = {}
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        sizes[file.name] = file.stat().st_size
    facts = {"source": gguf_path.name, "sha256": hf.file_sha256(gguf_path), "files": sizes}
    write_whole(folder / _MARKER, json.dumps(facts, indent=1))


if __name__ == "__main__":
    try:
        _convert_here(Path(sys.argv[1]), Path(sys.argv[2]))
    except AgentkdError as problem:
        sys.exit(str(problem))
