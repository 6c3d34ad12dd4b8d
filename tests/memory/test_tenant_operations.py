"""Ten thousand operations of tenants with hostile names: nothing foreign is ever seen, found or changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentkd.ledger import Ledger
from agentkd.memory import ExactIndex, MemoryStore
from agentkd.memory.scope import partition_of, sees
from agentkd.protocols import Index
from agentkd.schema import Memory, Scope

NAMES = (
    "a", "ab", "a%", "a_", "A", "aB", "\u00e4", "a\u0308", "\u0430", "\uff41", "a ", " a", "a\x00b", "a\x00",
    "../a", "a/../b", "a\\b", "%", "_", "*", "?", "[a]", "a'--", 'a"', "a;DROP TABLE memories", "$ne",
    '{"$ne": ""}', "a\nb", "\u202ea", "\u200b", "\U0001f600", "p-" + "0" * 24, "x" * 5_000, "NULL", "None",
    "base", "",
)  # fmt: skip
TOPICS = ("parcels", "refunds", "tables", "weather")


def name(dice: random.Random) -> str:
    """Draw a hostile name, or one that a hostile tenant makes of another's."""
    one = dice.choice(NAMES)
    return one if dice.random() < 0.8 else one[:9] + "".join(dice.choices("ab%_/\x00'\u0430", k=2))


def scope(dice: random.Random) -> Scope:
    return Scope(tenant=name(dice), user=name(dice) if dice.random() < 0.3 else "")


class Leaky(ExactIndex):
    """An index that answers for every partition at once: a bug below the recall."""

    def query(self, vectors: Any, k: int, partition: str) -> Any:
        found = [super(Leaky, self).query(vectors, k, each) for each in self.partitions()]
        return [[hit for hits in found for hit in hits[at]] for at in range(len(vectors))]


class World:
    """A store beside a plain model of what each tenant owns."""

    def __init__(
        self, store: MemoryStore, index: Index, ledger: Ledger, make: Callable[..., Memory], seed: str
    ) -> None:
        self.store, self.index, self.ledger, self.make = store, index, ledger, make
        self.dice = random.Random(seed)
        self.owned: dict[str, Scope] = {}
        self.gone: set[str] = set()
        self.n_seen = 0

    def step(self) -> None:
        doors = (self.admit, self.recall, self.listed, self.indexed, self.revoke)
        n_admissions = 60 if len(self.owned) < 250 else 5  # what is read grows with what is there
        self.dice.choices(doors, (n_admissions, 45, 8, 8, 2))[0]()

    def visible(self, asker: Scope) -> set[str]:
        return {id_ for id_, own in self.owned.items() if sees(asker, own)}

    def asker(self) -> Scope:
        known = list(self.owned.values())
        return self.dice.choice(known) if known and self.dice.random() < 0.6 else scope(self.dice)

    def admit(self) -> None:
        own = scope(self.dice)
        said = f"says {self.dice.randrange(40)}"
        memory = self.make(f"asks for {self.dice.choice(TOPICS)} {said}", said, scope=own)
        [answer] = self.store.admit([memory])
        if answer.outcome == "stored":
            self.owned[memory.id] = own
        elif answer.outcome == "merged":  # only ever into what is the same owner's
            assert self.owned[answer.memory_id] == own
        else:
            assert memory.id in self.gone

    def recall(self) -> None:
        asker = self.asker()
        topic = f"asks for {self.dice.choice((*TOPICS, *NAMES))} says {self.dice.randrange(40)}"
        found = {hit.memory.id for hit in self.store.recall(topic, k=30, scope=asker)}
        visible = self.visible(asker) - self.gone
        assert found <= visible
        assert len(found) == min(30, len(visible))
        self.n_seen += len(found)

    def listed(self) -> None:
        asker = self.asker()
        found = {memory.id for memory in self.ledger.memories.list("active", scope=asker)}
        assert found == self.visible(asker) - self.gone

    def indexed(self) -> None:
        """Below the API: a partition holds what its scope owns and nothing else."""
        own = self.asker()
        vector = self.store.embedder.embed([f"asks for {self.dice.choice(TOPICS)}"])
        hits = self.index.query(vector, 50, partition_of(own))[0]
        assert {self.owned[hit.memory_id] for hit in hits} <= {own}

    def revoke(self) -> None:
        wanted = Scope(tenant=name(self.dice))
        if wanted == Scope():
            return
        ids = set(self.ledger.revocations.memories_of(wanted))
        assert ids == {id_ for id_, own in self.owned.items() if own.tenant == wanted.tenant}
        for id_ in sorted(ids - self.gone)[:3]:
            self.store.revoke(id_, "the tenant left")
            self.gone.add(id_)


@pytest.mark.parametrize(("kind", "n"), [("exact", 7_000), ("chroma", 3_000)])
def test_ten_thousand_operations_show_nobody_what_is_not_theirs(
    make_store: Any, chroma: Any, tmp_path: Path, ledger: Ledger, lesson: Any, kind: str, n: int
) -> None:
    index = chroma(tmp_path / "index") if kind == "chroma" else ExactIndex()
    world = World(make_store(index, min_score=-1.0, hybrid=False), index, ledger, lesson, kind)
    for _ in range(n):
        world.step()
    assert world.n_seen > n
    assert len({own.tenant for own in world.owned.values()}) > len(NAMES)


def test_an_index_that_leaks_shows_nobody_anything_foreign(
    make_store: Any, ledger: Ledger, lesson: Any
) -> None:
    index = Leaky()
    world = World(make_store(index, min_score=-1.0), index, ledger, lesson, "leaky")
    for _ in range(150):
        world.admit()
        asker = world.asker()
        found = world.store.recall("asks for parcels", k=30, scope=asker)
        assert {hit.memory.id for hit in found} <= world.visible(asker)


def test_names_that_differ_share_neither_a_partition_nor_an_id(lesson: Any) -> None:
    scopes: Sequence[Scope] = [Scope(tenant=one) for one in NAMES] + [Scope(user=one) for one in NAMES if one]
    assert len({partition_of(one) for one in scopes}) == len(scopes)
    assert len({lesson("asks", "say", scope=one).id for one in scopes}) == len(scopes)
    assert all(len(partition_of(one)) < 40 for one in scopes)
