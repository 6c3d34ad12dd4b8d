"""What a lesson says in detail: its words, the values that it names, and what it forbids.

Two lessons are compared without a model: by containment, and by what differs where the frame is equal.
Everything here is cautious: a value or a `not` that differs makes two lessons different.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from agentkd.memory.lesson import normalise

__all__ = ["Wording", "contains", "contradicts", "says_the_same", "wording_of"]

_VALUE = re.compile(
    r"""
    `[^`]+` | "[^"]+" | “[^”]+” | (?<!\w)'[^']+'(?!\w)     # quoted or code
    | \b\S+@\S+\.\w+\b | \bhttps?://\S+                    # addresses
    | [-+$€£]?\b\d[\d.,:/-]*\b%?                           # numbers, dates, times
    | \b(?:true|false|none|null)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NEGATIVE = frozenset(
    {"not", "no", "never", "without", "avoid", "cannot", "none", "neither", "nor"}
    | {f"{verb}n't" for verb in ("do", "does", "did", "ca", "wo", "must", "should", "is", "are")}
)
_EMPTY = frozenset({"a", "an", "the", "to", "of", "in", "on", "at", "is", "are", "be"}
                   | {"please", "always", "do", "does"})  # fmt: skip
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_WORD = re.compile(r"[\w'-]+")
_APOSTROPHE = "\u2019"
_LIKE_LENGTH = 0.75  # a text that is shorter by more leaves something out
_SHORTEST = 3  # words without which a text is too short to be contained in another


class Sentence(NamedTuple):
    """One sentence of a lesson, taken apart."""

    words: tuple[str, ...]
    """Words that carry meaning, values left out, in order."""
    values: frozenset[str]
    """Numbers, quoted text and addresses."""
    names: frozenset[str]
    """Code words: names of tools, parameters, files."""
    negations: int
    """Words such as `not`, `never`, `avoid`."""


class Wording(NamedTuple):
    """A lesson, taken apart."""

    text: str
    """The whole text, normalised."""
    sentences: tuple[Sentence, ...]
    """Its sentences."""

    @property
    def values(self) -> frozenset[str]:
        """All values and names."""
        return frozenset[str]().union(*(part.values | part.names for part in self.sentences))

    @property
    def negations(self) -> int:
        """All negations."""
        return sum(sentence.negations for sentence in self.sentences)

    @property
    def words(self) -> tuple[str, ...]:
        """All words, in order."""
        return tuple(word for sentence in self.sentences for word in sentence.words)


@lru_cache(maxsize=65_536)
def wording_of(text: str) -> Wording:
    """Take a lesson apart."""
    found = tuple(_sentence(part) for part in _SENTENCE.split(text.strip()) if part.strip())
    return Wording(normalise(text), tuple(s for s in found if s.words or s.values or s.names))


def _sentence(text: str) -> Sentence:
    found = _VALUE.findall(text)
    names = frozenset(value.strip("`").casefold() for value in found if value.startswith("`"))
    values = frozenset(v.casefold().strip("\"'“”.,") for v in found if not v.startswith("`"))
    words = _WORD.findall(normalise(_VALUE.sub(" ", text)).replace(_APOSTROPHE, "'"))
    kept = tuple(word for word in words if word not in _EMPTY and word not in _NEGATIVE)
    return Sentence(kept, values, names, sum(word in _NEGATIVE for word in words))


def contains(longer: Wording, shorter: Wording) -> bool:
    """Whether all that the shorter lesson says stands in the longer one, sentence by sentence."""
    if len(shorter.words) < _SHORTEST or shorter.text == longer.text:
        return shorter.text == longer.text
    return all(any(_holds(whole, part) for whole in longer.sentences) for part in shorter.sentences)


def _holds(whole: Sentence, part: Sentence) -> bool:
    if part.negations != whole.negations or not (part.values <= whole.values and part.names <= whole.names):
        return False
    rest = iter(whole.words)
    return all(word in rest for word in part.words)  # in the same order


def says_the_same(first: Wording, second: Wording) -> bool:
    """Whether nothing but the choice of words may differ: same values, as many negations, like lengths."""
    lengths = sorted((len(first.words), len(second.words)))
    is_like = lengths[0] >= _LIKE_LENGTH * lengths[1]
    return is_like and first.values == second.values and first.negations == second.negations


def contradicts(first: Wording, second: Wording) -> bool:
    """Whether two lessons differ in nothing but a value, or in nothing but a `not`."""
    names = [[sentence.names for sentence in wording.sentences] for wording in (first, second)]
    if len(first.words) < _SHORTEST - 1 or first.words != second.words or names[0] != names[1]:
        return False
    if first.negations != second.negations:
        return first.values == second.values
    return _other_value(first.sentences, second.sentences)


def _other_value(first: Sequence[Sentence], second: Sequence[Sentence]) -> bool:
    """Whether values were exchanged: as many of them, and not the same."""
    pairs = list(zip(first, second, strict=False))
    same_number = len(first) == len(second) and all(len(a.values) == len(b.values) for a, b in pairs)
    return same_number and any(a.values != b.values for a, b in pairs)
