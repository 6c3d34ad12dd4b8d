"""Token ids of many texts: what comes again, down to single words, is encoded once and remembered.

A tokenizer spends most of its time on a text's bookkeeping; words of one workspace repeat, so that looking
them up is many times faster than encoding them.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from itertools import chain
from typing import Any

__all__ = ["Encoder"]

_REMEMBERED = 4096  # texts between special tokens: system prompts, requests and earlier turns come again
_WORDS = 1 << 16  # words that are remembered: some 20 MB

_LOCAL = {"ByteLevel", "Digits", "Split"}
_NORMALIZERS = {"NFC", "NFKC", "Lowercase"}
_WORD = re.compile(r"(?<=[!-~\w])(?= )")
"""Where every pattern of `_WORDWISE` cuts: before a space that follows anything but white space."""
_WORDWISE = frozenset({
    # Llama 3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Qwen 2
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
})  # fmt: skip
"""Patterns of `Split` in which no token holds a space after another character than white space."""


class Encoder:
    """The tokenizer of a base model, for whole renderings."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._specials = self._cuts(tokenizer)
        found = sorted(self._specials, key=lambda token: (-len(token), token))
        self._cut = re.compile("(" + "|".join(map(re.escape, found)) + ")") if found else None
        self._word = lru_cache(maxsize=_WORDS)(self._encode)
        self._piece = lru_cache(maxsize=_REMEMBERED)(self._words if self._is_wordwise() else self._encode)

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, `[time]`; raises UnicodeEncodeError or TypeError for lone surrogates."""
        if self._cut is None:
            return list(self._encode(text))
        found: list[int] = []
        for piece in self._cut.split(text):
            special = self._specials.get(piece)
            if special is not None:
                found.append(special)
            elif piece:
                found.extend(self._piece(piece))
        return found

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return where each token stands in a text, in characters."""
        return list(self._backend.encode(text, add_special_tokens=False).offsets)

    def _words(self, text: str) -> tuple[int, ...]:
        return tuple(chain.from_iterable(map(self._word, _WORD.split(text))))

    def _is_wordwise(self) -> bool:
        """Whether a text may be cut at `_WORD` without changing an id."""
        if not self._specials:
            return False
        parts = json.loads(self._backend.to_str())
        steps = _steps(parts["pre_tokenizer"], "pretokenizers")
        cuts = [_cuts_at_words(step) for step in steps if step["type"] != "Digits"]
        return any(cuts) and all(cuts[: cuts.index(True) + 1])

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)

    def _cuts(self, tokenizer: Any) -> dict[str, int]:
        """Return the tokens at which a text may be cut without changing an id; none for an unknown kind.

        A tokenizer takes special tokens out first and treats what is between them as texts of their own,
        unless it strips around them or marks the beginning of the whole text.
        """
        parts = json.loads(self._backend.to_str())
        steps = _steps(parts["pre_tokenizer"], "pretokenizers")
        normalizers = _steps(parts["normalizer"], "normalizers")
        added = parts["added_tokens"]
        is_local = (
            parts["model"]["type"] == "BPE"
            and bool(steps)
            and all(s["type"] in _LOCAL and not s.get("add_prefix_space") for s in steps)
            and all(s["type"] in _NORMALIZERS for s in normalizers)
            and not any(t["lstrip"] or t["rstrip"] or t["single_word"] or t["normalized"] for t in added)
        )
        return {token["content"]: token["id"] for token in added} if is_local else {}


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[name]) if part["type"] == "Sequence" else [part]


def _cuts_at_words(step: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer cuts at every `_WORD`; what comes after it only cuts further."""
    if step["type"] == "Split":
        return step["pattern"].get("Regex") in _WORDWISE and step["behavior"] == "Isolated"
    return step["type"] == "ByteLevel" and bool(step.get("use_regex", True))
