"""What a chat template adds of its own, and whether it keeps what was said: a poisoned one is refused.

A conversation is rendered with placeholders in place of its texts. What stands between the placeholders is
the template's own; the real rendering must be the same pieces with the real texts between them. So a
template that drops, repeats, re-orders or edits a text, or adds something where a text has a certain
content, is found out, whatever its markers look like.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agentkd import hf
from agentkd.errors import DataError

__all__ = ["Spans", "Template", "TemplateFault"]

Spans = list[tuple[int, int]]
"""Start and end of each turn's text in a rendering, in characters."""

_ROLES = ("system", "user", "assistant", "model", "tool", "developer", "human", "bot", "think")
_WORD = re.compile(r"[^\W\d_]{2,}")
_PREAMBLE_WORDS = 16  # a template may state a date or a cut-off before the first text
_OWN_WORDS = 4  # words such as `Instruction` that it may use as markers elsewhere


class TemplateFault(DataError):
    """A chat template that no row can be rendered with."""


class Template:
    """The chat template of a tokenizer, watched."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._specials = hf.special_tokens(tokenizer)
        self._pieces: dict[tuple[tuple[str, ...], bool], tuple[str, ...]] = {}

    def text(self, turns: Sequence[dict[str, str]], more: bool) -> str:
        """Return turns under the template, with the head of the next reply if `more`."""
        return hf.chat_text(self._tokenizer, turns, more)

    def spans(self, turns: Sequence[dict[str, str]], text: str) -> Spans | None:
        """Return where each turn's text stands in its rendering; None where the template edited one.

        Raises TemplateFault where the template loses, repeats or re-orders any text, or adds words.
        """
        pieces = self.pieces(tuple(turn["role"] for turn in turns))
        if not text.startswith(pieces[0]):
            return None
        at, found = len(pieces[0]), []
        for turn, piece in zip(turns, pieces[1:], strict=True):
            said = turn["content"]
            for kept in (said, said.strip()):  # many templates trim
                if text.startswith(kept + piece, at):
                    break
            else:
                return None
            found.append((at, at + len(kept)))
            at += len(kept) + len(piece)
        return found if at == len(text) else None

    def pieces(self, roles: tuple[str, ...], more: bool = True) -> tuple[str, ...]:
        """Return what the template adds before, between and after the texts of turns with these roles."""
        if (roles, more) not in self._pieces:
            self._pieces[roles, more] = self._find_pieces(roles, more)
        return self._pieces[roles, more]

    def _find_pieces(self, roles: tuple[str, ...], more: bool) -> tuple[str, ...]:
        marks = [f"\ue0a0{number}\ue0a1" for number in range(len(roles))]
        turns = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        text = self.text(turns, more)
        pieces, at = [], 0
        for number, (role, mark) in enumerate(zip(roles, marks, strict=True), 1):
            place = text.find(mark, at)
            if place < 0 or text.count(mark) > 1:
                n = text.count(mark)
                wrong = "leaves out" if not n else "repeats" if n > 1 else "re-orders"
                raise TemplateFault(
                    f"the chat template {wrong} message {number} of {len(roles)} (`{role}`)",
                    hint="take the model's own chat_template.jinja; this one would teach what nobody said",
                )
            pieces.append(text[at:place])
            at = place + len(mark)
        pieces.append(text[at:])
        self._refuse_words(pieces)
        return tuple(pieces)

    def _refuse_words(self, pieces: Sequence[str]) -> None:
        preamble, rest = self._words(pieces[:1]), self._words(pieces[1:])
        for words, most in ((preamble, _PREAMBLE_WORDS), (rest, _OWN_WORDS)):
            if len(words) > most:
                raise TemplateFault(
                    f"the chat template adds words of its own: {' '.join(words)[:120]!r}",
                    hint="take the model's own chat_template.jinja; this one would teach what nobody said",
                )

    def _words(self, pieces: Sequence[str]) -> list[str]:
        text = " ".join(pieces)
        for special in self._specials:
            text = text.replace(special, " ")
        found = dict.fromkeys(word for word in _WORD.findall(text) if word.casefold() not in _ROLES)
        return list(found)
