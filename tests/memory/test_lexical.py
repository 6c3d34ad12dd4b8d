"""Search by words: what it finds, for whom, and what outlives the process."""

from __future__ import annotations

import math
import shutil
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkd.errors import StoreError
from agentkd.memory import lexical
from agentkd.memory.lexical import LexicalIndex


@pytest.fixture
def index():
    opened = LexicalIndex()
    yield opened
    opened.close()


def ids(hits):
    return [hit.memory_id for hit in hits]


def test_a_rare_word_weighs_more_than_a_common_one(index):
    index.change(
        [(f"m{i}", "p", "the order of the customer") for i in range(9)] + [("rare", "p", "error E4412")]
    )
    assert ids(index.search("the customer saw error E4412", 3, ["p"]))[0] == "rare"
    assert index.search("nothing alike", 3, ["p"]) == []


def test_inflections_and_parts_of_names_are_one_word(index):
    index.change([("m", "p", "booking tables with getOrderDetails and list_orders")])
    for query in ("book", "table", "order details", "list order", "BOOKED"):
        assert ids(index.search(query, 1, ["p"])) == ["m"], query


def test_the_last_text_of_a_memory_counts_and_a_removed_one_is_gone(index):
    index.change([("a", "p", "red apples"), ("b", "p", "green pears")])
    index.change([("a", "p", "yellow plums")], gone=["b"])
    assert index.count() == 1
    assert index.search("red apples green pears", 5, ["p"]) == []
    assert ids(index.search("plums", 5, ["p"])) == ["a"]


def test_what_is_to_leave_first_and_comes_again_as_it_was_stays(index):
    rows = [("a", "p", "red apples"), ("b", "p", "green pears")]
    index.change(rows)
    for _ in range(2):
        index.change(rows[:1], gone=["a", "b"])
        assert index.stored() == {"a"}
        assert ids(index.search("red apples green pears", 5, ["p"])) == ["a"]


def test_what_is_stored_again_as_it_was_moves_no_score(index):
    rows = [("a", "p", "stamp the gold form"), ("b", "p", "stamp the form again and again, in navy blue")]
    index.change(rows)
    before = index.search("stamp the pink form", 2, ["p"])
    for _ in range(5):
        index.change(rows[1:])
    assert index.search("stamp the pink form", 2, ["p"]) == before
    index.change([("a", "q", "stamp the gold form")])  # elsewhere it is another document
    assert ids(index.search("stamp", 2, ["q"])) == ["a"]


def test_scores_do_not_tell_what_else_was_there_once(index):
    rows = [(f"m{i}", "p" if i % 2 else "q", "stamp the form " + "again " * i) for i in range(8)]
    index.change(rows)
    fresh = index.search("stamp the form", 8, ["p", "q"])
    index.change([(f"x{i}", "p", "stamp " * 30) for i in range(5)])
    index.change([("m3", "p", "something else")], gone=[f"x{i}" for i in range(5)])
    index.change([rows[3]])
    assert index.search("stamp the form", 8, ["p", "q"]) == fresh
    assert index.count() == 8


def test_no_query_reaches_into_another_partition(index):
    index.change([("mine", "p1", "secret plan"), ("other", "p2", "secret plan p1:secret")])
    assert ids(index.search("secret plan", 9, ["p1"])) == ["mine"]
    for hostile in (
        "p2:secret",
        "words:p2:secret",
        '" OR p2:secret',
        "p2:",
        "*",
        "memory:other",
        "p2:* secret",
    ):
        assert set(ids(index.search(hostile, 9, ["p1"]))) <= {"mine"}
    assert ids(index.search("secret plan", 9, [])) == []


def test_what_others_store_does_not_move_the_order_that_an_asker_sees(index):
    own = [("a", "p", "cheap flights"), ("b", "p", "cheap hotels"), ("c", "p", "cheap hotels by the sea")]
    index.change(own)
    before = index.search("cheap flights hotels", 9, ["p"])
    index.change([(f"x{i}", "q", "flights flights") for i in range(200)])
    assert ids(index.search("cheap flights hotels", 9, ["p"])) == ids(before)


words = st.lists(st.sampled_from(["ant", "bee", "cat", "dog", "elk", "fox"]), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(words, min_size=1, max_size=8), query=words)
def test_the_score_is_bm25_over_the_summed_rarity(index, documents, query):
    index.clear()
    index.change([(str(i), "p", " ".join(document)) for i, document in enumerate(documents)])
    n = len(documents)
    held = Counter(word for document in documents for word in set(document))
    rarity = {word: math.log(1 + (n - held[word] + 0.5) / (held[word] + 0.5)) for word in set(query)}
    mean = sum(len(document) + 1 for document in documents) / n  # the mark of the partition is one word
    wanted = {}
    for i, document in enumerate(documents):
        counts = Counter(document)
        score = sum(
            rarity[w] * counts[w] * 2.2 / (counts[w] + 1.2 * (0.25 + 0.75 * (len(document) + 1) / mean))
            for w in rarity
        ) / sum(rarity.values())
        if score:
            wanted[str(i)] = pytest.approx(score, abs=1e-3)
    assert {hit.memory_id: hit.score for hit in index.search(" ".join(query), 9, ["p"])} == wanted


def test_a_folder_is_opened_again_as_it_was_left(tmp_path):
    first = LexicalIndex(tmp_path / "words")
    first.change([("m", "p", "one two")])
    identity = first.identity
    first.close()
    again = LexicalIndex(tmp_path / "words")
    assert (again.identity, again.count(), ids(again.search("two", 1, ["p"]))) == (identity, 1, ["m"])
    again.close()
    with pytest.raises(StoreError, match="closed"):
        again.count()


def test_a_folder_in_use_is_left_alone_and_a_copy_begun(tmp_path):
    owner, other = LexicalIndex(tmp_path / "words"), LexicalIndex(tmp_path / "words")
    owner.change([("m", "p", "one two")])
    assert (other.identity, other.count()) == ("", 0)
    other.change([("n", "p", "three")])
    assert (owner.count(), ids(owner.search("three", 1, ["p"]))) == (1, [])
    owner.close()
    other.close()


@pytest.mark.parametrize("damage", ["meta.json", "identity", "all"])
def test_a_damaged_folder_is_begun_anew_under_another_identity(tmp_path, damage):
    first = LexicalIndex(tmp_path / "words")
    first.change([("m", "p", "one two")])
    identity = first.identity
    first.close()
    folder = tmp_path / "words" / "tantivy"
    if damage == "all":
        shutil.rmtree(folder)
    else:
        (folder / damage).write_text("nonsense")
    again = LexicalIndex(tmp_path / "words")
    assert again.identity not in ("", identity)
    assert again.count() == 0
    again.change([("m", "p", "one two")])
    assert ids(again.search("two", 1, ["p"])) == ["m"]
    again.close()


def test_clearing_renews_the_identity(tmp_path):
    index = LexicalIndex(tmp_path / "words")
    index.change([("m", "p", "one")])
    before = index.identity
    index.clear()
    assert index.identity != before
    assert index.count() == 0
    index.close()


def test_a_long_query_in_a_large_index_is_answered_by_its_rarest_words(index, monkeypatch):
    index.change(
        [(f"m{i}", "p", "the order of the customer") for i in range(40)] + [("rare", "p", "error E4412")]
    )
    query = "the customer saw error E4412"
    everything = ids(index.search(query, 50, ["p"]))
    assert len(everything) == 41
    monkeypatch.setattr(lexical, "_MOST_POSTINGS", 10)
    assert ids(index.search(query, 50, ["p"])) == ["rare"]
    assert len(ids(index.search("customer", 50, ["p"]))) == 40  # the rarest word is read, however common


def test_words_too_common_to_be_looked_up_still_order_what_the_rare_ones_found(index, monkeypatch):
    plain = [(f"m{i}", "p", f"the order of the customer {i}") for i in range(40)]
    index.change([*plain, ("a", "p", "error E4412 in stock"), ("b", "p", "error E4412 of an order")])
    query = "an error E4412 of the order"
    everything = index.search(query, 2, ["p"])
    assert [hit.memory_id for hit in everything] == ["b", "a"]
    monkeypatch.setattr(lexical, "_MOST_POSTINGS", 3)
    looked_up = index.search(query, 2, ["p"])
    assert [hit.memory_id for hit in looked_up] == ["b", "a"]
    assert looked_up[0].score == pytest.approx(everything[0].score, rel=0.05)


def test_words_are_parted_alike_in_every_script():
    assert lexical._parted("getOrderDetails HTTPServer x") == "get Order Details HTTPServer x"
    assert lexical._parted("getÖrderDetails HTTPServer x") == "get Örder Details HTTPServer x"


def test_a_panic_of_the_index_of_words_is_an_error_of_the_store() -> None:
    from agentkd.errors import StoreError
    from agentkd.memory.lexical import _translated

    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(StoreError, match="index of words refused: index out of bounds"), _translated():
        raise panic("index out of bounds: the len is 300 but the index is 300")
    with pytest.raises(KeyboardInterrupt), _translated():
        raise KeyboardInterrupt


def test_after_a_full_disk_the_next_change_is_made_and_closing_says_nothing(tmp_path, files_of_at_most):
    index = LexicalIndex(tmp_path / "words")
    index.change([("a", "p", "red apples")])
    with files_of_at_most(0), pytest.raises(StoreError, match="the index of words refused"):
        index.change([(f"m{at}", "p", "green pears") for at in range(50)])
    assert index.stored() == {"a"}
    index.change([("b", "p", "green pears")])
    assert ids(index.search("green pears", 5, ["p"])) == ["b"]
    with files_of_at_most(0):
        with pytest.raises(StoreError, match="the index of words refused"):
            index.change([("c", "p", "blue plums")])
        index.close()
    again = LexicalIndex(tmp_path / "words")
    assert again.stored() == {"a", "b"}
    again.close()


def test_a_change_that_failed_once_it_was_written_is_not_written_twice(tmp_path):
    class Failing:
        def __init__(self, of):
            self.of, self.left = of, 1

        def __getattr__(self, name):
            return getattr(self.of, name)

        def reload(self):
            self.left -= 1
            if self.left == 0:
                raise OSError("too many open files")
            self.of.reload()

    rows = [("a", "p", "red apples"), ("b", "p", "green pears")]
    index = LexicalIndex(tmp_path)
    index.change(rows[:1])
    opened = index._open()
    opened.index = Failing(opened.index)
    with pytest.raises(StoreError):
        index.change(rows)
    index.change(rows)
    assert index.count() == 2
    assert ids(index.search("green pears", 5, ["p"])) == ["b"]
    index.close()


def test_of_two_texts_of_one_memory_in_a_change_the_last_one_counts(index):
    index.change([("a", "p", "red apples"), ("a", "p", "green pears")])
    assert index.count() == 1
    assert index.search("apples", 5, ["p"]) == []
