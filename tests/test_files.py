"""Files and folders are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import agentkd
from agentkd.files import ASIDE, append_line, aside_folder, opened_whole, put_in_place, sweep, write_whole

Break = Callable[[str, int], None]


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Return a function that lets the n-th call of a function of `os` fail from then on."""

    def arm(name: str, n: int) -> None:
        real, calls = getattr(os, name), []

        def failing(*arguments: object, **options: object) -> object:
            calls.append(1)
            if len(calls) >= n:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, failing)

    return arm


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("data", ["new", b"new"])
def test_a_file_that_cannot_be_written_stays_as_it_was(
    tmp_path: Path, breaks: Break, call: str, data: str | bytes
) -> None:
    file = tmp_path / "facts.json"
    write_whole(file, "old")
    breaks(call, 1)
    with pytest.raises(OSError, match="No space") as raised:
        write_whole(file, data)
    assert raised.value.filename == str(file)  # the system names none
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["facts.json"]


def test_a_file_whose_writer_raises_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"

    def write() -> None:
        with opened_whole(file) as opened:
            opened.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert os.listdir(tmp_path) == []


def test_a_folder_takes_its_place_when_all_of_it_is_on_disk(tmp_path: Path, breaks: Break) -> None:
    def write() -> None:
        with aside_folder(tmp_path) as aside:
            (aside / "part").mkdir()
            (aside / "part" / "a").write_text("a")
            put_in_place(aside, tmp_path / "whole")

    breaks("fsync", 2)
    with pytest.raises(OSError, match="No space"):
        write()
    assert os.listdir(tmp_path) == []


def test_every_file_and_name_is_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def rename(old: Path, new: Path) -> None:
        seen.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    with aside_folder(tmp_path) as aside:
        (aside / "a").write_text("a")
        put_in_place(aside, tmp_path / "whole")
    assert seen == ["a", aside.name, "rename", tmp_path.name]


def test_what_a_killed_process_left_aside_goes_with_the_next_write(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from agentkd.files import *\n"
        "with aside_folder(Path(sys.argv[1])) as folder, opened_whole(folder.parent / 'x') as file:\n"
        "    (folder / 'half').write_text('x'); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
    assert done.returncode == -9
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / "a" / "b").mkdir(parents=True)
    for left in [path for path in tmp_path.iterdir() if path.name.startswith(ASIDE)]:
        left.rename(tmp_path / "a" / "b" / left.name)
    with aside_folder(tmp_path / "a") as mine:
        assert sweep(tmp_path) == 2
        assert mine.is_dir()
    assert os.listdir(tmp_path / "a" / "b") == []
    shutil.rmtree(tmp_path / "a")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
    with aside_folder(tmp_path) as mine:
        write_whole(tmp_path / "y", "whole")
        assert mine.is_dir(), "what a living process writes stays"
    assert os.listdir(tmp_path) == ["y"]


def test_a_log_ends_in_whole_lines(tmp_path: Path, breaks: Break) -> None:
    log = tmp_path / "log.jsonl"
    append_line(log, "one")
    with log.open("a") as torn:
        torn.write("tw")
    append_line(log, "three")
    assert log.read_text().splitlines() == ["one", "tw", "three"]
    before = log.read_bytes()
    breaks("fsync", 1)
    with pytest.raises(OSError, match="No space"):
        append_line(log, "four")
    assert log.read_bytes() == before


def test_nothing_but_this_module_renames_files_into_place() -> None:
    root = Path(agentkd.__file__).parent
    found = {
        str(path.relative_to(root))
        for path in root.glob("**/*.py")
        if re.search(r"os\.(replace|rename)\(|\.rename\(", path.read_text(encoding="utf-8"))
    }
    assert found == {
        "files.py",
        "skills/place.py",  # puts the old folder aside before the new one takes its place
    }
