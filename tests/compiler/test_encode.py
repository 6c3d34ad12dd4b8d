"""Tokens looked up word by word are the tokens of the whole text, under every cut that models use."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from agentkd.compiler.encode import Encoder

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")
TWO_WORDS = r"\w+ \w+|\s+|\S"
CORPUS = [
    'it\'s {"name": "find", "arguments": {"query": "the 12 cafés of Zürich, 東京 and Oslo"}} and that\'s all',
    "  two  spaces,\n\nthree\tlines \r\n and 1234567 numbers; the end. The end! (the end)",
] * 3


def bytes_by(pattern):
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


CUTS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm2": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-3": bytes_by(LLAMA_3),
    "qwen-2": bytes_by(QWEN_2),
    "reaches over spaces": bytes_by(TWO_WORDS),
    "no cut at all": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
}


def tokenizer_with(cut):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = cut
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


BACKENDS = {name: tokenizer_with(cut) for name, cut in CUTS.items()}
ENCODERS = {name: Encoder(SimpleNamespace(backend_tokenizer=backend)) for name, backend in BACKENDS.items()}
PIECES = st.sampled_from(
    [" ", "  ", "\n", "\t", "'s", "the", "end", "12", ".", "é", "e\u0301", "\u180e", "東", '"', "<|end|>"]
)


@pytest.mark.parametrize("name", CUTS)
@settings(max_examples=60)
@given(text=st.lists(PIECES | st.text(max_size=4), max_size=24).map("".join))
def test_words_give_the_ids_of_the_whole_text(name, text):
    wanted = BACKENDS[name].encode(text, add_special_tokens=False).ids
    assert ENCODERS[name].ids(text) == wanted
    assert ENCODERS[name].ids(text) == wanted, "once more, from memory"


def test_words_that_come_again_are_not_encoded_again():
    asked = []

    class Counted:
        to_str = BACKENDS["smollm2"].to_str

        def encode(self, text, **options):
            asked.append(text)
            return BACKENDS["smollm2"].encode(text, **options)

    encoder = Encoder(SimpleNamespace(backend_tokenizer=Counted()))
    encoder.ids("the end of the line")
    encoder.ids("the line of the end")
    assert sorted(asked) == [" end", " line", " of", " the", "the"]
