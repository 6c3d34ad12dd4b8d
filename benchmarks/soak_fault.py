"""A disk that fails at one write call of a cycle: the second run ends as if nothing had happened.

    python benchmarks/soak_fault.py            # 50 calls of a cycle, and 10 sizes of a real small disk
    python benchmarks/soak_fault.py --small    # 5 and 2

An undisturbed cycle is watched first: which sorts of write calls it makes (by what is written and the system
call), and how many of each. Of every sort some calls are chosen; there the call fails, in turn with EIO once
and with ENOSPC from then on. The cycle must survive that, or end with an error that names the trouble and end
well when it is run again on a sound disk. The facts must be those of the undisturbed cycle, and no file may
be left over. Where mounting is permitted the same is done on small real disks that fill up.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
from fault import Call, Fault, supervised
from measure import Cells, Row, at_least, children_cpu_seconds, publish
from soak_world import LIMIT_SECONDS, World, cycle

SHARES = (0.0, 1.0, 0.5, 0.25, 0.75, 0.1, 0.9, 0.4, 0.6)
NAMED = (0, 5, 7, 9, 10)
"""Exit codes of a cycle that survived a fault, or ended with an error of the store, a model, an adapter or a
training."""


def chosen(seen: Mapping[Call, int], n: int, seed: int = 0) -> list[tuple[Call, int]]:
    """Choose `n` calls: one of each sort, in mixed order, early, late or between; then further ones."""
    sorts = sorted(seen)
    random.Random(seed).shuffle(sorts)
    found: dict[tuple[Call, int], None] = {}
    for turn in range(len(SHARES)):
        for at, sort in enumerate(sorts):
            share = SHARES[(at + turn) % len(SHARES)]
            found[sort, 1 + round(share * (seen[sort] - 1))] = None
    return list(found)[:n]


def struck(world: World, number: int, call: Call, n: int) -> dict[str, Any]:
    """Let one call fail, then run the cycle again; return what came of it."""
    stays = number % 2 == 1
    code = errno.ENOSPC if stays else errno.EIO
    folder = world.workspace(f"fault-{number:02d}")
    fault = Fault(folder, call, n, code, stays)
    process = supervised(cycle(folder), world.log(folder), fault, LIMIT_SECONDS)
    return {"call": f"{call.family}: {call.name} {n}", "error": errno.errorcode[code], "failed": fault.failed,
            **_second_run(world, folder, process)}  # fmt: skip


def _second_run(world: World, folder: Path, process: forked.Forked) -> dict[str, Any]:
    said = [line for line in process.said().splitlines() if line.strip()]
    is_named = process.code in NAMED and not any(
        line.startswith(("Traceback", "error: unforeseen")) for line in said
    )
    first = {
        "code": process.code,
        "said": said[-1][:300] if process.code and said else "",
        "is_named": is_named,
    }
    if not process.code:  # it survived: another run would be another cycle
        return {**first, "differs": world.differs(folder)}
    second = forked.start(cycle(folder), world.log(folder))
    second.wait(LIMIT_SECONDS)
    if second.kill():
        return {
            **first,
            "differs": [f"the second run ended with {second.code}"],
            "trace": second.said()[-2000:],
        }
    return {**first, "differs": world.differs(folder)}


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Callable[[], None]]:
    """Mount a disk of some KiB; gives a function that makes it large enough."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], check=True)
    try:
        yield lambda: _resize(folder, 256 * 1024)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _resize(folder: Path, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(folder)], check=True)


def filled_up(world: World, share: float, total_kib: int) -> dict[str, Any]:
    """Run a cycle on a real disk that is full after a share of what a cycle writes; then make room."""
    disk = world.folder / "disk"
    with small_disk(disk, max(8, int(share * total_kib))) as make_room:
        folder = disk / "workspace"
        shutil.copytree(world.workspace("template"), folder)
        process = forked.start(cycle(folder), world.folder / "disk.log")
        process.wait(LIMIT_SECONDS)
        process.kill()
        make_room()
        return {"share": share, **_second_run(world, folder, process)}


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a disk."""
    try:
        with small_disk(folder, 64):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def main() -> int:
    """Soak and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tenth of the faults")
    options = parser.parse_args()
    n, n_disks, name = (5, 2, "fault-small") if options.small else (50, 10, "fault")
    cells, world = Cells(name), World(name)
    counted = Fault(world.workspace("watched"))
    process = supervised(cycle(counted.root), world.folder / "watched.log", counted, LIMIT_SECONDS)
    if process.code or (different := world.differs(counted.root)):
        raise SystemExit(f"the watched cycle ended with {process.code}, {different}:\n{process.said()}")
    sorts = {f"{call.family}: {call.name}": number for call, number in sorted(counted.seen.items())}
    print(f"a cycle: {world.cpu_seconds:.1f} CPU-s, {sum(sorts.values())} write calls of {len(sorts)} sorts")
    results = []
    for number, (call, at) in enumerate(chosen(counted.seen, n)):
        done = cells.do(str(number), lambda number=number, call=call, at=at: struck(world, number, call, at))
        results.append(done)
        differs = f" DIFFERS in {', '.join(done['differs'])}" if done["differs"] else ""
        print(f"{done['error']} at {done['call']}: {done['code']} {done['said'][:110]}{differs}", flush=True)
    disks = []
    if can_mount(world.folder / "disk"):
        total = _size_kib(world.folder / "calm")
        for number in range(n_disks):
            share = (number + 0.5) / n_disks
            disks.append(cells.do(f"disk {share}", lambda share=share: filled_up(world, share, total)))
            print(
                f"disk of {share:.0%}: ended with {disks[-1]['code']} {disks[-1]['said'][:110]}", flush=True
            )
    code = publish(name, _rows(results, disks, n, world), {
        "model": "tiny", "reference": world.expected, "calls": sorts, "faults": results, "disks": disks,
    })  # fmt: skip
    cells.clear()
    return code


def _rows(results: list[dict[str, Any]], disks: list[dict[str, Any]], n: int, world: World) -> list[Row]:
    both = [*results, *disks]
    codes = Counter(done["code"] for done in both)
    return [
        at_least("write calls that were made to fail", sum(done["failed"] > 0 for done in results), n),
        at_least(
            "share of runs after a failed call that end the same",
            sum(not done["differs"] for done in results) / len(results), 1.0, n=len(results),
        ),
        *([at_least(
            "share of runs after a full disk that end the same",
            sum(not done["differs"] for done in disks) / len(disks), 1.0, n=len(disks),
        )] if disks else []),
        at_least(
            "share of faults that are survived or named", sum(done["is_named"] for done in both) / len(both),
            1.0, n=len(both),
        ),
        *(Row(f"cycles that ended with {code}", count, n=len(both)) for code, count in sorted(codes.items())),
        Row("CPU seconds of a cycle", world.cpu_seconds),
        Row("CPU seconds of this run", children_cpu_seconds()),
    ]  # fmt: skip


def _size_kib(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("**/*") if path.is_file()) // 1024


if __name__ == "__main__":
    os.environ.setdefault("TMPDIR", "/tmp")
    sys.exit(main())
