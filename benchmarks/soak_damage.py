"""Bits flip and files go: a damaged index is made anew and answers the same, a damaged ledger is named.

    python benchmarks/soak_damage.py            # 100 damages of index files, 200 flipped bits in a ledger
    python benchmarks/soak_damage.py --small    # 10 and 20

Index: files of Chroma and of the index of words are deleted, cut off, emptied, overwritten, or have bits
flipped; `agentkd doctor --repair` follows, and then all searches must answer as before. Ledger: one bit of
the file is flipped at a time; opening and checking it says so, or every stored value is as before. Times,
counters and reasons in columns of their own have no checksum: how many of those stay unseen is told too.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import forked
from measure import WORK, Cells, Row, at_least, at_most, children_cpu_seconds, publish
from memory_worker import lesson, situation

from agentkd import Workspace
from agentkd.errors import AgentkdError
from agentkd.ledger import Ledger

N_MEMORIES, N_QUERIES, TOP_K = 300, 40, 5
SETTINGS = (
    '[memory]\nembedder = "hashing"\nmin_score = 0.1\n\n[index.chroma]\nwaiting = 0\nsync_threshold = 50\n'
)
BODIES = ("body", "provenance")
"""Columns with a checksum."""
HOWS = (
    "delete",
    "empty",
    "cut off",
    "flip a bit",
    "flip 64 bits",
    "overwrite a page",
    "delete all of one sort",
)


def fill(folder: Path) -> int:
    """Make a workspace with memories, more than are searched in memory, and some runs."""
    folder.mkdir(parents=True)
    (folder / "agentkd.toml").write_text(SETTINGS, encoding="utf-8")
    with Workspace(folder) as workspace:
        texts = [situation("a", number) for number in range(N_MEMORIES)]
        workspace.memory.admit([lesson(text, f"do {text}") for text in texts])
        workspace.memory.settle()
    return 0


def answers(folder: Path) -> list[list[list[Any]]]:
    """Return ids and scores of the best memories for fixed questions."""
    with Workspace(folder) as workspace:
        found = [workspace.memory.recall(situation("a", 7 * number), k=TOP_K) for number in range(N_QUERIES)]
    return [[[hit.memory.id, round(hit.score, 4)] for hit in hits] for hits in found]


def damage(folder: Path, number: int, seed: int) -> str:
    """Damage the files of the index in one way; return what was done."""
    dice = random.Random(f"{seed} {number}")
    files = sorted(
        path
        for path in folder.glob("index/**/*")
        if path.is_file() and path.stat().st_size and path.name != ".lock"
    )
    file, how = dice.choice(files), HOWS[number % len(HOWS)]
    if how == "delete all of one sort":
        for other in files:
            if other.suffix == file.suffix:
                other.unlink()
    elif how == "delete":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        if how == "empty":
            data.clear()
        elif how == "cut off":
            del data[dice.randrange(len(data)) :]
        elif how == "overwrite a page":
            at = dice.randrange(len(data))
            data[at : at + 4096] = dice.randbytes(len(data[at : at + 4096]))
        else:
            for _ in range(64 if how.startswith("flip 64") else 1):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        file.write_bytes(data)
    return f"{how}: {file.relative_to(folder / 'index')}"


def repaired(world: Path, number: int, seed: int, expected: Any) -> dict[str, Any]:
    """Damage a copy of the index, repair it, and ask; a process that Chroma takes down is a failure."""
    folder, log = world / f"index-{number:03d}", world / "index.log"
    shutil.copytree(world / "calm", folder)
    done = damage(folder, number, seed)
    process = forked.start(forked.command("--json", "-C", str(folder), "doctor", "--repair"), log)
    process.wait(300.0)
    if process.kill():
        return {"damage": done, "code": process.code, "is_same": False, "said": process.said()[-1000:]}
    checks = {check["name"]: check["detail"] for check in _json(process.said())}
    found = forked.ask(lambda: answers(folder), log)
    is_same = found == expected
    if is_same:
        shutil.rmtree(folder)
    return {
        "damage": done,
        "code": 0,
        "is_same": is_same,
        "said": checks.get("index files", checks.get("index")),
    }


def _json(said: str) -> Any:
    """Return the list among what a process said (Chroma and numpy write lines of their own)."""
    lines = said.splitlines()
    return json.loads("\n".join(lines[lines.index("[") : len(lines) - lines[::-1].index("]")]))


def values(path: Path) -> dict[str, int]:
    """Return a hash of every table's bodies, and of its other columns, as plain SQLite reads them."""
    found: dict[str, int] = {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for table in (str(name, "utf-8") for (name,) in tables):
            columns = [str(row[1], "utf-8") for row in connection.execute(f"PRAGMA table_info({table})")]
            for kind, names in (
                ("body", [name for name in columns if name in BODIES]),
                ("column", [name for name in columns if name not in BODIES]),
            ):
                if names:
                    query = f"SELECT {', '.join(map(repr_of, names))} FROM {table} ORDER BY rowid"
                    found[f"{kind} of {table}"] = hash(tuple(connection.execute(query)))
    return found


def repr_of(name: str) -> str:
    """Return a column's name as SQL wants it."""
    return f'"{name}"'


def flipped(world: Path, source: Path, number: int, seed: int) -> str:
    """Flip one bit of a copy of a ledger; return `detected`, `unaffected`, or what is wrong unseen."""
    path = world / "flipped.db"
    data, dice = bytearray(source.read_bytes()), random.Random(f"{seed} {number}")
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    for left in world.glob("flipped.db*"):
        left.unlink()
    path.write_bytes(data)
    try:
        with Ledger.open(path) as ledger:
            ledger.check()
    except AgentkdError:
        return "detected"
    try:
        now = values(path)
    except sqlite3.Error:
        return "wrong unseen: it cannot be read"
    wrong = [name for name, before in values(source).items() if now.get(name) != before]
    return f"wrong unseen: {', '.join(wrong)}" if wrong else "unaffected"


def all_flipped(world: Path, n: int, seed: int) -> Callable[[], dict[str, int]]:
    """Return the question how `n` flipped bits in a ledger end."""

    def ask() -> dict[str, int]:
        return dict(Counter(flipped(world, world / "ledger.db", number, seed) for number in range(n)))

    return ask


def main() -> int:
    """Damage, repair and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a tenth of the damages")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damages")
    options = parser.parse_args()
    n, n_bits, name = (10, 20, "damage-small") if options.small else (100, 200, "damage")
    cells, world = Cells(name, seed=options.seed), WORK / name
    shutil.rmtree(world, ignore_errors=True)
    world.mkdir(parents=True)
    calm = world / "calm"
    forked.warm(lambda: fill(calm), world / "calm.log")
    expected = forked.ask(lambda: answers(calm), world / "calm.log")
    results = []
    for number in range(n):
        done = cells.do(str(number), lambda number=number: repaired(world, number, options.seed, expected))
        results.append(done)
        print(f"{done['damage']}: {'the same' if done['is_same'] else 'DIFFERS'}; {done['said']}", flush=True)
    with Ledger.open(calm / "ledger.db") as ledger:
        ledger.copy_to(world / "ledger.db")
    bits = cells.do("bits", lambda: forked.ask(all_flipped(world, n_bits, options.seed), world / "bits.log"))
    print(bits)
    unseen = {what: times for what, times in bits.items() if what.startswith("wrong")}
    n_body = sum(times for what, times in unseen.items() if "body" in what or "read" in what)
    n_beside = sum(unseen.values()) - n_body
    same = sum(done["is_same"] for done in results)
    code = publish(name, [
        at_least("share of damaged indexes that answer the same after a repair", same / n, 1.0, n=n),
        Row("flipped bits of a ledger: detected", bits.get("detected", 0), n=n_bits),
        Row("flipped bits of a ledger: no value affected", bits.get("unaffected", 0), n=n_bits),
        at_most("flipped bits in a stored value that a check takes as fine", n_body, 0, n=n_bits),
        Row("flipped bits beside the values that a check takes as fine", n_beside, n=n_bits),
        Row("CPU seconds of this run", children_cpu_seconds()),
    ], {"seeds": {"damages": options.seed}, "index": results, "ledger": bits})  # fmt: skip
    cells.clear()
    return code


if __name__ == "__main__":
    sys.exit(main())
