"""Recall by meaning and by words: evidence, scope, statuses, order, and following the ledger."""

from __future__ import annotations

import random
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from agentkd.config import MemorySettings
from agentkd.embedders import HashingEmbedder
from agentkd.embedders.hashing import HashingSettings
from agentkd.ledger import Ledger
from agentkd.memory import ExactIndex, MemoryStore
from agentkd.memory.fusion import diversify, fuse
from agentkd.memory.status import Statuses
from agentkd.plugins import PluginHost
from agentkd.protocols import SilentProgress
from agentkd.schema import Scope, Utility


class Blind:
    """Every text has a direction of its own: nothing is similar to anything but itself."""

    fingerprint = "emb-blind"
    dimensions = 4096

    def embed(self, texts):
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            vectors[row, random.Random(text).randrange(self.dimensions)] = 1.0
        return vectors


def ids(hits):
    return [hit.memory.id for hit in hits]


def test_a_name_that_no_vector_knows_is_found_by_its_words(make_store, lesson, ledger):
    memory = lesson("the printer shows code E4412", "restart the spooler")
    others = [lesson(f"the printer shows another page {i}") for i in range(8)]
    hybrid = make_store(embedder=Blind())
    hybrid.admit([memory, *others])
    [hit] = hybrid.recall("printer code E4412", k=1)
    assert (hit.memory.id, hit.score, hit.key) == (memory.id, 0.0, "situation")
    assert make_store(embedder=Blind(), hybrid=False).recall("printer code E4412") == []


def test_words_alone_need_their_own_evidence(make_store, lesson):
    store = make_store(embedder=Blind())
    store.admit([lesson("paint the fence white"), lesson("paint the door red")])
    assert store.recall("who wrote the first opera about a fence in seventeenth century Venice") == []
    assert len(make_store(embedder=Blind(), min_words=0.01).recall("who wrote of a fence")) == 1


def test_words_respect_scope_status_exclusion_and_checkpoint(make_store, lesson, ledger):
    store = make_store(embedder=Blind())
    seen, hidden = (
        lesson("code E4412", "a", scope=Scope(user="ann")),
        lesson("code E4412", "b", scope=Scope(user="bob")),
    )
    store.admit([seen, hidden])
    ann = Scope(user="ann")
    assert ids(store.recall("E4412", scope=ann)) == [seen.id]
    assert store.recall("E4412") == []
    assert store.recall("E4412", scope=ann, exclude=[seen.id]) == []
    ledger.memories.set_status(seen.id, "retired", "learnt", checkpoint="student@1")
    assert store.recall("E4412", scope=ann, checkpoint="student@1") == []
    assert ids(store.recall("E4412", scope=ann, checkpoint="student@1", also=["retired"])) == [seen.id]
    ledger.memories.set_status(seen.id, "quarantined", "wrong")
    assert store.recall("E4412", scope=ann) == []


def test_one_allowed_memory_is_found_by_words_among_hundreds_that_are_not(make_store, lesson, ledger):
    store = make_store(embedder=Blind())
    retired = [lesson(f"E4412 on floor {i}") for i in range(300)]
    last = lesson("E4412 on the roof, where the wind is strong and the cables are long", kind="fact")
    store.admit([*retired, last])
    with ledger.transaction():
        for memory in retired:
            ledger.memories.set_status(memory.id, "retired", "learnt", checkpoint="student@1")
    assert ids(store.recall("E4412", k=3, checkpoint="student@1")) == [last.id]


def test_a_store_sees_at_once_what_another_one_admitted(tmp_path, lesson):
    with Ledger.open(tmp_path / "l.db") as ledger:
        hooks = PluginHost(auto=False).hooks
        words = tmp_path / "words"
        first, second = (
            MemoryStore(ledger, ExactIndex(), Blind(), MemorySettings(), hooks, words=words) for _ in range(2)
        )
        memory = lesson("code E4412")
        first.admit([memory])
        assert ids(second.recall("E4412")) == ids(first.recall("E4412")) == [memory.id]
        second.set_status(memory.id, "quarantined", "wrong")
        assert first.recall("E4412") == []
        first.close()
        second.close()


def test_the_words_come_back_from_the_ledger_when_their_folder_is_lost(tmp_path, lesson):
    hooks = PluginHost(auto=False).hooks
    memory = lesson("code E4412")
    for step in ("admit", "again", "lost", "rebuilt"):
        with Ledger.open(tmp_path / "l.db") as ledger:
            store = MemoryStore(
                ledger, ExactIndex(), Blind(), MemorySettings(), hooks, words=tmp_path / "words"
            )
            if step == "admit":
                store.admit([memory])
            if step == "rebuilt":
                store.rebuild()
            assert ids(store.recall("E4412")) == [memory.id], step
            store.close()
        if step == "again":
            shutil.rmtree(tmp_path / "words")


def test_what_was_merged_and_parted_is_found_by_words_by_the_next_process_too(tmp_path, lesson):
    hooks = PluginHost(auto=False).hooks
    one, other = lesson("code E4412", "a"), lesson("code E4412 again", "b")
    union = lesson("codes E4412 and E4413", "c")

    def opened(ledger):
        return MemoryStore(ledger, ExactIndex(), Blind(), MemorySettings(), hooks, words=tmp_path / "words")

    with Ledger.open(tmp_path / "l.db") as ledger, opened(ledger) as store:
        store.admit([one, other])
        ledger.memories.replace([one.id, other.id], union, "one lesson")
        assert ids(store.recall("E4413")) == [union.id]
    for _ in range(2):  # it follows the last events once more
        with Ledger.open(tmp_path / "l.db") as ledger, opened(ledger) as store:
            assert store.check(deep=True).agrees
            assert ids(store.recall("E4413")) == [union.id]
    with Ledger.open(tmp_path / "l.db") as ledger, opened(ledger) as store:
        store.undo(union.id, "they differ")
        assert {*ids(store.recall("E4412"))} == {one.id, other.id}
    with Ledger.open(tmp_path / "l.db") as ledger, opened(ledger) as store:
        assert store.check(deep=True).agrees
        assert {*ids(store.recall("E4412"))} == {one.id, other.id}


class Watched(SilentProgress):
    """Notes which bars were shown."""

    def __init__(self):
        self.bars = []

    @contextmanager
    def bar(self, label, total=None, unit=""):
        self.bars.append((label, total))
        with super().bar(label, total, unit) as bar:
            yield bar


def test_another_embedder_embeds_everything_anew_from_the_ledger(ledger, chroma, tmp_path, lesson):
    hooks = PluginHost(auto=False).hooks
    memories = [lesson(f"book a table number {i}") for i in range(240)]
    for dimensions in (512, 64, 512):
        embedder, progress = HashingEmbedder(HashingSettings(dimensions=dimensions)), Watched()
        index = chroma(tmp_path / "index", embedder.fingerprint)
        store = MemoryStore(ledger, index, embedder, MemorySettings(), hooks, progress)
        if dimensions == 512 and index.count() == 0 and not ledger.memories.last_seq():
            store.admit(memories)
        assert store.recall(memories[7].when_to_use, k=1)[0].memory.id == memories[7].id
        assert index.count() == len(memories)
        assert ("index", 240) in progress.bars
        store.close()


def test_diversity_prefers_what_is_unlike_the_first_hit(make_store, lesson):
    near = [lesson(f"book a table for two people tonight {i}", f"note {i}") for i in range(3)]
    other = lesson("book a table outside")
    plain, diverse = make_store(hybrid=False), make_store(hybrid=False, diversity=0.7)
    plain.admit([*near, other])
    state = "book a table for two people tonight 0"
    assert other.id not in ids(plain.recall(state, k=2))
    assert ids(diverse.recall(state, k=2)) == [near[0].id, other.id]


def test_measured_lift_orders_what_is_about_as_similar_and_unknown_lift_does_nothing(make_store, lesson):
    harmful = lesson("book a table", "a").model_copy(
        update={"utility": Utility(recalls=20, wins=0, held_out=20, held_out_wins=20)}
    )
    helpful = lesson("book a table", "b").model_copy(
        update={"utility": Utility(recalls=20, wins=20, held_out=20, held_out_wins=0)}
    )
    idle = lesson("book a table", "c").model_copy(update={"utility": Utility(recalls=20, wins=0)})
    far = lesson("book a table for my family")
    store = make_store(hybrid=False)
    store.admit([harmful, helpful, idle, far])
    assert ids(store.recall("book a table", k=4)) == [helpful.id, idle.id, harmful.id, far.id]
    unmoved = make_store(hybrid=False, lift_weight=0.0).recall("book a table", k=4)
    assert ids(unmoved) == [*sorted([harmful.id, helpful.id, idle.id]), far.id]


def test_statuses_that_follow_events_are_those_that_are_read_anew(store, lesson, ledger):
    chance = random.Random(3)
    memories = [lesson(f"book table {i}") for i in range(12)]
    followed = Statuses(ledger)
    for step in range(60):
        memory = chance.choice(memories)
        if step % 5 == 0:
            store.admit([memory])
        elif memory.id in ledger.memories.status_for():
            status = chance.choice(["active", "quarantined", "retired", "compiled"])
            ledger.memories.set_status(memory.id, status, "by chance", chance.choice(["base", "student@1"]))
        if step == 40:
            ledger.memories.supersede(next(iter(ledger.memories.status_for())), lesson("a new version"))
        seq = ledger.memories.last_seq()
        for checkpoint in ("base", "student@1"):
            for also in ((), ("retired",)):
                anew = Statuses(ledger)
                assert followed.allowed(checkpoint, also, seq) == anew.allowed(checkpoint, also, seq)
                assert followed.before(checkpoint, also, seq) == anew.before(checkpoint, also, seq)
            assert followed.news(checkpoint, seq) == Statuses(ledger).news(checkpoint, seq)


def test_words_that_thousands_share_are_not_looked_up_without_end(make_store, lesson, monkeypatch):
    monkeypatch.setattr("agentkd.memory.recall._MOST_TIED", 64)
    store = make_store()
    store.admit([lesson(f"cancel order N{n}", f"cancel it {n}") for n in range(300)])
    sizes, search = [], store._words.search
    monkeypatch.setattr(
        store._words, "search", lambda state, size, parts: (sizes.append(size), search(state, size, parts))[1]
    )
    assert len(store.recall("cancel the order")) == 4
    assert max(sizes) <= 64 * 8


def test_equals_are_found_alike_in_whatever_order_they_came(tmp_path, lesson):
    """Requests that differ in one word have equal scores, and more of them than a search looks at."""
    colours = [
        "red",
        "blue",
        "green",
        "black",
        "white",
        "amber",
        "pink",
        "grey",
        "gold",
        "teal",
        "lime",
        "navy",
    ]
    memories = [lesson(f"stamp the {colour} form", f"{colour} {n}") for n in range(3) for colour in colours]
    found = set()
    for seed in range(3):
        random.Random(seed).shuffle(memories)
        with Ledger.open(tmp_path / f"{seed}.db") as ledger:
            hooks, settings = PluginHost(auto=False).hooks, MemorySettings(min_score=0.05, merge_above=0.999)
            words = tmp_path / f"words-{seed}"
            store = MemoryStore(ledger, ExactIndex(), HashingEmbedder(), settings, hooks, words=words)
            for at in range(0, len(memories), 5):
                store.admit(memories[at : at + 5])
            found.add(tuple(tuple(ids(store.recall(f"stamp the {colour} form", 4))) for colour in colours))
    assert len(found) == 1


def test_fusion_keeps_both_orders_and_scales_them():
    assert [id_ for id_, _ in fuse({"a": 0.9, "b": 0.5, "c": 0.1}, {}, weight=0.8)] == ["a", "b", "c"]
    fused = dict(fuse({"a": 0.9, "b": 0.1}, {"b": 3.0, "c": 1.5}, weight=0.8))
    assert fused == {"a": pytest.approx(1.0), "b": pytest.approx(0.8), "c": pytest.approx(0.4)}
    assert fuse({}, {}, weight=0.8) == []


def test_diversify_chooses_each_item_at_most_once():
    vectors = np.asarray([[1, 0], [1, 0], [0, 1]], np.float32)
    assert diversify([1.0, 0.9, 0.2], vectors, 3, weight=0.0) == [0, 1, 2]
    assert diversify([1.0, 0.9, 0.2], vectors, 2, weight=0.6) == [0, 2]
    assert diversify([], vectors[:0], 2, weight=0.6) == []
