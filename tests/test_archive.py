"""Archives: one is refused whole, or its files lie below the folder and nowhere else."""

from __future__ import annotations

import io
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkd.archive import CODE, Limits, open_archive
from agentkd.errors import DataError

SMALL = Limits(entries=20, n_bytes=1 << 20, depth=6)
Item = tuple[str, bytes, str, str]  # name, content, kind, link target

UNSAFE = {
    "climbs out": [("../out.txt", b"x")],
    "absolute": [("/etc/out.txt", b"x")],
    "climbs out inside": [("a/../../out.txt", b"x")],
    "backslash": [("a\\..\\out.txt", b"x")],
    "drive": [("c:out.txt", b"x")],
    "same but for case": [("a.txt", b"x"), ("A.TXT", b"y")],
    "same folder but for case": [("a/x.txt", b"x"), ("A/y.txt", b"y")],
    "same composed": [("caf\u00e9.txt", b"x"), ("cafe\u0301.txt", b"y")],
    "file and folder": [("a", b"x"), ("a/b.txt", b"y")],
    "empty part": [("a//b.txt", b"x")],
    "dot": [("./a.txt", b"x")],
    "twice": [("a.txt", b"x"), ("a.txt", b"y")],
    "control character": [("a\x1b[2J.txt", b"x")],
    "ends in a dot": [("a./b.txt", b"x")],
    "too deep": [("/".join("abcdefgh"), b"x")],
    "too many": [(f"{n}.txt", b"x") for n in range(21)],
    "too large": [("a.bin", bytes(range(256)) * 4097)],
    "too long a name": [("n" * 256, b"x")],
}


def write_zip(path: Path, items: Sequence[Item]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content, kind, target in items:
            info = zipfile.ZipInfo(name or "x")
            info.filename = info.orig_filename = name + ("/" if kind == "folder" else "")
            info.compress_type = zipfile.ZIP_DEFLATED
            mode = {"link": stat.S_IFLNK, "hard": stat.S_IFLNK, "device": stat.S_IFCHR, "fifo": stat.S_IFIFO}
            info.external_attr = (mode.get(kind, 0) | 0o777) << 16
            opened.writestr(info, target if kind == "link" else b"" if kind == "folder" else content)


def write_tar(path: Path, items: Sequence[Item]) -> None:
    kinds = {
        "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "fifo": tarfile.FIFOTYPE,
        "folder": tarfile.DIRTYPE, "file": tarfile.REGTYPE,
    }  # fmt: skip
    with tarfile.open(path, "w:gz") as opened:
        for name, content, kind, target in items:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kinds[kind], target
            info.size = len(content) if kind == "file" else 0
            opened.addfile(info, io.BytesIO(content))


WRITERS: dict[str, Callable[[Path, Sequence[Item]], None]] = {"zip": write_zip, "tar": write_tar}


def files(*pairs: tuple[str, bytes]) -> list[Item]:
    return [(name, content, "file", "") for name, content in pairs]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("why", UNSAFE)
def test_an_unsafe_entry_stops_everything(tmp_path: Path, kind: str, why: str) -> None:
    path = tmp_path / "evil"
    WRITERS[kind](path, files(("good.txt", b"x"), *UNSAFE[why]))
    with pytest.raises(DataError, match="nothing was unpacked"), open_archive(path, SMALL) as opened:
        opened.unpack(tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("what", ["link", "hard", "device", "fifo"])
def test_links_and_devices_are_refused(tmp_path: Path, kind: str, what: str) -> None:
    path = tmp_path / "evil"
    WRITERS[kind](path, [*files(("good.txt", b"x")), ("a", b"", what, "/etc/passwd")])
    with pytest.raises(DataError, match="link"), open_archive(path):
        pass


def test_a_bomb_is_refused_before_a_byte_is_written(tmp_path: Path) -> None:
    zeros = files(("zeros.bin", bytes(40 << 20)))
    for kind, write in WRITERS.items():
        write(tmp_path / kind, zeros)
        with pytest.raises(DataError, match="unpacks to more than"), open_archive(tmp_path / kind):
            pass
    header = tarfile.TarInfo("pax")  # a header that is read into memory whole
    with tarfile.open(tmp_path / "pax", "w:gz", pax_headers={"comment": "0" * (40 << 20)}) as opened:
        opened.addfile(header)
    with pytest.raises(DataError, match="unpacks to more than"), open_archive(tmp_path / "pax"):
        pass


def test_entries_that_share_their_bytes_do_not_hide_a_bomb(tmp_path: Path) -> None:
    write_zip(tmp_path / "a", files(("a.bin", bytes(1 << 20)), ("b.bin", b"x")))
    data = (tmp_path / "a").read_bytes()
    cut = data.index(b"PK\x01\x02")
    entry = data[cut : data.index(b"PK\x01\x02", cut + 4)]
    copies = b"".join(entry.replace(b"a.bin", b"%c.bin" % letter) for letter in range(ord("b"), ord("z")))
    end = bytearray(data[data.index(b"PK\x05\x06") :])
    end[8:12] = (25).to_bytes(2, "little") * 2
    end[12:16] = (len(entry) + len(copies)).to_bytes(4, "little")
    (tmp_path / "a").write_bytes(data[:cut] + entry + copies + bytes(end))
    with pytest.raises(DataError, match="nothing was unpacked"), open_archive(tmp_path / "a") as opened:
        opened.unpack(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sound_archive_is_unpacked_without_code_modes_and_times(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        write(tmp_path / kind, [*files(("a/b.json", b"{}"), ("a/run.py", b"x")), ("c", b"", "folder", "")])
        with open_archive(tmp_path / kind) as opened:
            assert opened.read("a/run.py") == b"x"
            out = tmp_path / f"{kind}-out"
            assert opened.unpack(out, leave_out=CODE) == {"a/b.json": 2}
        assert [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()] == ["a/b.json"]
        assert not (out / "a/b.json").stat().st_mode & 0o111


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    for kind, write in WRITERS.items():
        path = tmp_path / kind
        write(path, files(("a.bin", bytes(range(256)) * 40)))
        data = path.read_bytes()
        for broken in (
            data[: len(data) // 2],
            data[:60] + b"\xff" * 8 + data[68:],
            b"",
            b"PK\x05\x06",
            data[:4],
        ):
            path.write_bytes(broken)
            with pytest.raises(DataError), open_archive(path) as opened:
                opened.unpack(tmp_path / "out")
            assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"does not exist|cannot be read"), open_archive(tmp_path / "none"):
        pass


odd = ["..", ".", "", "/", "c:", "x\\y", "A", "caf\u00e9", "cafe\u0301", "a.", "\0"]
parts = st.sampled_from([*"abcdefghijkl" * 2, "out", *odd])
names = st.lists(parts, min_size=1, max_size=3).map("/".join)
items = st.tuples(
    st.one_of(names, names, names, st.text(max_size=12)),
    st.binary(max_size=40),
    st.sampled_from(["file"] * 20 + ["folder"] * 2 + ["link", "hard", "device"]),
    st.sampled_from(["/etc", "..", "../out", "a"]),
)
flips = st.none() | st.none() | st.tuples(st.integers(0, 600), st.integers(0, 7))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=1050, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(items, min_size=1, max_size=4), flips)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_generated_archive_never_writes_outside(
    kind: str, found: list[Item], flip: tuple[int, int] | None
) -> None:
    root = Path(tempfile.mkdtemp(prefix="archive-"))
    try:
        path, inside = root / "made", root / "in" / "out"
        try:
            WRITERS[kind](path, found)
        except (ValueError, UnicodeError, tarfile.TarError):
            return  # a name that the writer itself cannot write
        data = bytearray(path.read_bytes())
        if flip is not None:
            data[flip[0] % len(data)] ^= 1 << flip[1]
            path.write_bytes(data)
        try:
            with open_archive(path, SMALL) as opened:
                sizes = opened.unpack(inside)
        except DataError:
            assert not inside.exists()
        else:
            written = {file.relative_to(inside).as_posix() for file in inside.rglob("*") if file.is_file()}
            assert written == set(sizes)
            assert not any(file.is_symlink() for file in inside.rglob("*"))
        assert {file.name for file in root.iterdir()} <= {"made", "in"}
        assert {file.name for file in (root / "in").glob("*")} <= {"out"}
    finally:
        shutil.rmtree(root)
