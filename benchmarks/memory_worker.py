"""One process of `soak_memory.py`: it writes, reads or churns the memories of a shared workspace.

Each line that it prints is an acknowledgement: what it names was done before the line was printed.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from agentkd import Workspace
from agentkd.errors import LockedError
from agentkd.memory import MemoryStore
from agentkd.schema import Memory, MemoryKeys, Scope, memory_id

FOUND_WITHIN_SECONDS = 1.0
BATCH = 10
WORDS = (
    "parcel", "refund", "invoice", "flight", "seat", "hotel", "meal", "ticket", "coupon", "address",
    "account",    "password", "delivery", "exchange", "deposit", "warranty", "voucher", "passport", "receipt",
)  # fmt: skip


def lesson(when: str, content: str, scope: Scope | None = None) -> Memory:
    """Make a candidate."""
    scope = scope or Scope()
    return Memory(
        id=memory_id("insight", when, content, scope),
        kind="insight",
        when_to_use=when,
        content=content,
        keys=MemoryKeys(situation=when),
        scope=scope,
        origin="soak",
    )


def situation(writer: str, number: int) -> str:
    """Return a situation that no other writer makes and that shares few words with others."""
    dice = random.Random(f"{writer} {number}")
    return f"case {writer}{number} about {' '.join(dice.sample(WORDS, 5))} token{dice.getrandbits(64):016x}"


def write(store: MemoryStore, writer: str, n: int) -> Iterator[str]:
    """Admit `n` memories, `BATCH` at a time."""
    for start in range(0, n, BATCH):
        batch = [situation(writer, number) for number in range(start, min(n, start + BATCH))]
        answers = store.admit([lesson(when, f"do {when}") for when in batch])
        for answer, when in zip(answers, batch, strict=True):
            if answer.outcome == "stored":
                yield json.dumps({"id": answer.memory_id, "when": when})


def read(store: MemoryStore) -> Iterator[str]:
    """Recall what stdin names until it is found or a second has passed since it was acknowledged."""
    for line in sys.stdin:
        wanted = json.loads(line)
        begun, tries, found = time.time(), 0, False
        while not found and (not tries or time.time() - begun <= FOUND_WITHIN_SECONDS):
            hits = store.recall(wanted["when"], k=1)
            found, tries = bool(hits) and hits[0].memory.id == wanted["id"], tries + 1
        yield json.dumps({"found": found, "tries": tries, "seconds": time.time() - begun})


def churn(store: MemoryStore, writer: str, seed: int) -> Iterator[str]:
    """Add, merge and prune without end; the other writers add some of the same lessons."""
    dice, mine = random.Random(seed), list[str]()
    while True:
        number = dice.randrange(1_000_000)
        what = dice.choice(("add", "add", "add", "same", "merge", "prune"))
        if what == "add":
            batch = [situation(writer, number + at) for at in range(dice.choice((1, 1, 5)))]
            answers = store.admit([lesson(when, f"do {when}") for when in batch])
            mine += [answer.memory_id for answer in answers]
            for answer, when in zip(answers, batch, strict=True):
                yield json.dumps({"admitted": answer.memory_id, "when": when})
        elif what == "same":
            when = situation("all", number % 300)  # every writer admits these
            [answer] = store.admit([lesson(when, f"do {when}")])
            yield json.dumps({"admitted": answer.memory_id, "when": when})
        elif what == "merge":
            when = situation("all", number % 300)
            [answer] = store.admit([lesson(f"{when} now", f"do {when}")])
            yield json.dumps({"admitted": answer.memory_id, "when": when})
        elif mine:
            pruned = mine.pop(dice.randrange(len(mine)))
            store.set_status(pruned, "quarantined", "soak")
            yield json.dumps({"pruned": pruned})


def main() -> int:
    """Run `MODE FOLDER SETTINGS_JSON WRITER NUMBER`."""
    mode, folder, settings, writer, number = sys.argv[1:]
    with Workspace(Path(folder), settings=json.loads(settings)) as workspace:
        try:
            store = workspace.memory
        except LockedError as error:
            print(json.dumps({"locked": error.message, "hint": error.hint}), flush=True)
            return 0
        print(json.dumps({"open": type(store._index).__name__}), flush=True)
        steps = {
            "write": lambda: write(store, writer, int(number)),
            "read": lambda: read(store),
            "churn": lambda: churn(store, writer, int(number)),
        }[mode]()
        for line in steps:
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
