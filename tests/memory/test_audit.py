"""An audit measures what is wrong with a store, ours or a foreign one, by text and vectors alone."""

from __future__ import annotations

import pytest

from agentkd.embedders import HashingEmbedder
from agentkd.memory import look_over
from agentkd.memory.audit import duplicate_rates
from agentkd.memory.junk import junk_sign, quotes_recall
from agentkd.schema import NOTES_BEGIN, Memory, Scope, ToolCall

SECRET = "ghp_" + "a1B2" * 9


def memory(content: str, when: str = "", **changes: object) -> Memory:
    values = {"id": "mem-x", "kind": "insight", "when_to_use": when or content, "content": content}
    return Memory(**(values | changes))  # type: ignore[arg-type]


def look(*memories: Memory, **options: object):
    labels = [f"line {n}" for n in range(1, len(memories) + 1)]
    return look_over(memories, HashingEmbedder(), merge_above=0.92, labels=labels, **options)  # type: ignore[arg-type]


def test_exact_copies_are_grouped_and_counted_once_less() -> None:
    found = look(
        memory("Check the stock first"), memory("check the  stock first."), memory("Ask for the size")
    )
    assert found.exact_copies == (("line 1", "line 2"),)
    assert found.exact_rate == pytest.approx(1 / 3)
    assert found.is_sound


def test_copies_of_different_scopes_are_no_copies() -> None:
    found = look(memory("Check the stock first"), memory("Check the stock first", scope=Scope(user="alice")))
    assert found.exact_copies == ()
    assert [rate.n for rate in found.duplicates] == [0, 0]


def test_duplicate_rates_fall_with_the_threshold_and_keep_the_first() -> None:
    words = ["check", "the", "stock", "before", "you", "promise", "a", "date", "to", "anyone"]
    memories = [memory(" ".join(words[: len(words) - n])) for n in range(5)] + [
        memory("something else entirely")
    ]
    rates = duplicate_rates(memories, HashingEmbedder(), [0.99, 0.8, 0.3])
    counts = [rate.n for rate in rates]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert 0 < counts[1] <= counts[2] <= 4
    assert [rate.rate for rate in rates] == [n / 6 for n in counts]


def test_a_large_store_is_compared_across_blocks() -> None:
    memories = [memory(f"lesson number {n % 1100} of many about {n % 1100}") for n in range(2300)]
    [rate] = duplicate_rates(memories, HashingEmbedder(), [0.999])
    assert rate.n == 1200


def test_lessons_that_were_stored_again_and_again_are_echoes() -> None:
    found = look(*[memory("Always check the stock")] * 5, memory("Ask for the size"))
    assert found.echoes == (("line 1", "line 2", "line 3", "line 4", "line 5"),)
    assert not found.is_sound


@pytest.mark.parametrize(
    "text",
    [
        f"{NOTES_BEGIN}\nWhen late: pay",
        "a\nEnd of notes.",
        "<relevant_memories>x y z",
        "Use </memory> now please",
        "Relevant memories:\n- likes tea",
    ],
)
def test_quoted_recall_is_found(text: str) -> None:
    assert quotes_recall(memory(text))
    assert look(memory("Ask for the size"), memory(text)).quotes == ("line 2",)


@pytest.mark.parametrize(
    "text", ["Save long memories of the user", "Free memory before a run", "End of notes"]
)
def test_talk_of_memory_is_no_quote(text: str) -> None:
    assert not quotes_recall(memory(text))


def test_secrets_are_counted_and_never_shown() -> None:
    hidden = memory("Ask for the size", extras={"mem0": {"token": SECRET}})
    found = look(
        memory("Ask for it"), hidden, memory(f"Use {SECRET} for it"), memory("Use [redacted:api-key] for it")
    )
    assert found.secrets == ("line 2", "line 3")
    assert found.n_redacted == 1
    assert SECRET not in found.model_dump_json()
    assert not found.is_sound


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("ok", "short"),
        ("yes no", "short"),
        ("order 1234 id=77 a@b.cc", "instance-only"),
        ("https://shop.example/x?id=1 'red shoes'", "instance-only"),
        ("Ask for the order number first", ""),
        ("Call get_order with the customer's e-mail before you answer", ""),
        ("在下单之前请先检查库存是否足够再回复", ""),
    ],
)
def test_junk_is_told_from_lessons(text: str, sign: str) -> None:
    assert junk_sign(memory(text, "when")) == sign


def test_accepted_calls_are_lessons_without_words() -> None:
    assert junk_sign(memory("f(1)", kind="case", calls=(ToolCall(name="f", arguments={}),))) == ""


def test_never_recalled_is_left_open_where_the_store_does_not_count() -> None:
    assert look(memory("Ask for the size")).never_recalled == ("line 1",)
    blind = look(memory("Ask for the size"), counts_use=False)
    assert (blind.never_recalled, blind.counts_use) == ((), False)
