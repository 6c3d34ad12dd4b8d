"""Two tokenisations of one text are aligned by bytes, whatever the tokenizers are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkd import hf
from agentkd.schema import Message
from agentkd.train.alignment import TokenBytes, align, label_bytes

TEXTS = [
    "Paris, France",
    "the user with a naïve café — 東京 🙂",
    '{"name": "find_order", "arguments": {"n": 3}}',
]


def stretches(sizes: list[int]) -> list[tuple[int, int]]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def test_spans_are_the_smallest_that_both_end() -> None:
    student = stretches([2, 3, 1, 4])  # ends 2, 5, 6, 10
    found = align(student, [1, 2, 6, 8, 10])
    assert found.spans == ((0, 1, 0, 2), (1, 3, 2, 3), (3, 4, 3, 5))
    assert found.starts == ((0, 0), (1, 2), (3, 3))


def test_labels_outside_the_text_and_behind_a_gap_are_never_aligned() -> None:
    found = align([(-1, -1), (0, 2), (4, 6), (6, 8)], [2, 3, 6, 8])
    assert found.spans == ((1, 2, 0, 1), (3, 4, 3, 4))
    assert found.starts == ((1, 0), (3, 3))


sizes = st.lists(st.integers(1, 4), min_size=1, max_size=12)


@given(sizes, sizes)
def test_spans_cover_the_text_once_where_both_spell_it(first: list[int], second: list[int]) -> None:
    n = min(sum(first), sum(second))
    first, second = cut(first, n), cut(second, n)
    teacher = [end for _, end in stretches(second)]
    spans = align(stretches(first), teacher).spans
    assert [s[0] for s in spans] == [0, *(s[1] for s in spans[:-1])]
    assert [s[2] for s in spans] == [0, *(s[3] for s in spans[:-1])]
    assert spans[-1][1::2] == (len(first), len(second))
    both = {end for _, end in stretches(first)} & set(teacher)
    assert len(spans) == len(both), "a stretch that could be cut is not the smallest"


def cut(sizes: list[int], n: int) -> list[int]:
    kept: list[int] = []
    for size in sizes:
        if sum(kept) < n:
            kept.append(min(size, n - sum(kept)))
    return kept


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folders = [hf.tiny_model(tmp_path_factory.mktemp(str(n)), n_vocabulary=n) for n in (1024, 270)]
    return [hf.load_tokenizer(folder) for folder in folders]


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_of_a_row_spell_its_target(tokenizers: list[object], text: str) -> None:
    prompt, target = [Message(role="user", content="Where?")], Message(role="assistant", content=text)
    ends = []
    for tokenizer in tokenizers:
        rendered = hf.render_example(tokenizer, prompt, target)  # type: ignore[arg-type]
        labels = [t for t, weight in enumerate(rendered.weights) if weight]
        found = label_bytes(
            rendered.ids,
            labels,
            text.encode(),
            TokenBytes.of(tokenizer),
            hf.end_ids(tokenizer),  # type: ignore[arg-type]
        )
        assert found is not None
        assert found[0][0] == 0
        assert found[-1] == (len(text.encode()), len(text.encode()) + 1)
        ends.append(found)
    assert len(ends[0]) != len(ends[1]), "the two tokenizers must differ for this test to say anything"
    assert align(ends[0], [end for _, end in ends[1]]).spans[-1][1] == len(ends[0])


def test_tokens_that_say_something_else_are_not_aligned(tokenizers: list[object]) -> None:
    tokenizer = tokenizers[0]
    rendered = hf.render_example(  # type: ignore[arg-type]
        tokenizer, [Message(role="user", content="x")], Message(role="assistant", content="Paris")
    )
    labels = [t for t, weight in enumerate(rendered.weights) if weight]
    spelt = label_bytes(rendered.ids, labels, b"Rome", TokenBytes.of(tokenizer), hf.end_ids(tokenizer))  # type: ignore[arg-type]
    assert spelt is None


class _Pieces:
    """The pieces of a tokenizer that writes spaces as `▁` and rare bytes as `<0x..>`."""

    pieces = ("▁Paris", ",", "▁", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>")

    @property
    def backend_tokenizer(self) -> _Pieces:
        return self

    def to_str(self) -> str:
        return '{"decoder": {"type": "Sequence"}, "added_tokens": [{"id": 7, "content": "<end>"}]}'

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.pieces[token]


def test_pieces_with_a_leading_space_and_byte_fallback_are_spelt() -> None:
    token_bytes = TokenBytes(_Pieces())  # type: ignore[arg-type]
    text = "Paris, 🙂".encode()
    found = label_bytes(list(range(8)), list(range(8)), text, token_bytes, {7})
    assert found == ((0, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 10), (10, 11), (11, 12))
