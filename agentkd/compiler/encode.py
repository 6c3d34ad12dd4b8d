"""Token ids of texts that begin alike: what stands between special tokens is encoded once and remembered."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

__all__ = ["Encoder"]

_REMEMBERED = 4096  # texts between special tokens: system prompts, requests and earlier turns come again

_LOCAL = {"ByteLevel", "Digits", "Split"}
_NORMALIZERS = {"NFC", "NFKC", "Lowercase"}


class Encoder:
    """The tokenizer of a base model, for whole renderings."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        self._specials = self._cuts(tokenizer)
        found = sorted(self._specials, key=lambda token: (-len(token), token))
        self._cut = re.compile("(" + "|".join(map(re.escape, found)) + ")") if found else None
        self._piece = lru_cache(maxsize=_REMEMBERED)(self._encode)

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
