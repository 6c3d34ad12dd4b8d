"""Reads the evidence: which words of a run a lesson rests on, who said them, and whether they count.

What was recalled or instructed is never a source, nor is a model that merely says it again: a lesson
learnt from another lesson would corroborate itself (one audit of a memory product found 97.8 % junk,
most of it made by such loops).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from agentkd.distill.finding import RejectReason
from agentkd.distill.source import shorten
from agentkd.hf import call_text
from agentkd.schema import Correction, Span, Trajectory, recalled_text, user_turns

__all__ = ["NO_SOURCE", "Words", "correction_words", "find_quote", "repeats_memory", "span_of", "words_of"]

NO_SOURCE = ("memory", "system")
"""Origins that a lesson may never rest on."""

_MAX_QUOTE_CHARS = 240
_MIN_QUOTE_CHARS = 8
_SAME_LESSON = 0.8  # share of a lesson's words that stand in a recalled line, in order
_MIN_BLOCK_WORDS = 3  # shorter matches are words that any two sentences share
_WORD = re.compile(r"\w+")
_LABEL = re.compile(
    r"^(?:(?:step \d+|before the request), [^:]{1,40}|request|final answer|outcome): ", re.IGNORECASE
)
_PLAIN = str.maketrans("\u201c\u201d\u2018\u2019\u2013\u2014", "\"\"''--")  # typographic quotes and dashes


@dataclass(frozen=True)
class Words:
    """A text of a run with its origin."""

    trajectory: str
    origin: str
    step: int
    text: str


def words_of(trajectory: Trajectory, corrections: Iterable[Correction] = ()) -> list[Words]:
    """Return every text of a run with who said it; what counts most stands first."""
    found = [correction_words(correction) for correction in corrections]
    mine = trajectory.id
    found.append(Words(mine, "user", -1, trajectory.task.prompt))
    found.extend(Words(mine, message.origin, -1, message.content) for message in trajectory.earlier)
    found.extend(Words(mine, "user", i, text) for i, said in user_turns(trajectory).items() for text in said)
    for step in trajectory.steps:
        found.extend(Words(mine, "tool", step.index, r.error or r.content) for r in step.results)
    if trajectory.outcome is not None:
        found.append(Words(mine, "grader", -1, trajectory.outcome.feedback))
    for step in trajectory.steps:
        calls = dict.fromkeys(map(call_text, [*step.accepted_calls, *step.reply.tool_calls]))
        found.extend(Words(mine, "model", step.index, text) for text in [step.reply.content, *calls])
    found.append(Words(mine, "model", -1, trajectory.answer))
    found.append(Words(mine, "system", -1, trajectory.task.system))
    found.extend(Words(mine, "system", -1, m.content) for m in trajectory.messages if m.role == "system")
    found.extend(Words(mine, "memory", -1, text) for text in recalled_text(trajectory))
    return [words for words in found if words.text.strip()]


def correction_words(correction: Correction) -> Words:
    """Return what was said and accepted in a correction."""
    accepted = [call_text(call) for call in correction.accepted]
    text = "\n".join([correction.text, *accepted, correction.accepted_answer])
    step = -1 if correction.step is None else correction.step
    return Words(correction.trajectory_id, correction.source, step, text)


def find_quote(quote: str, words: Sequence[Words]) -> Span | RejectReason:
    """Return where the quoted words stand, or why they are no evidence.

    Differences of case, white space and typographic quotes do not matter. A quote counts where a user, tool,
    person, grader or judge said it, or the model of its own accord: not where the model only repeats
    what it was instructed or reminded of.
    """
    wanted = _normal(_LABEL.sub("", quote.strip()).strip(". …"))
    if not wanted:
        return "quote-too-short"
    holders = [w for w in words if wanted in _normal(w.text)]
    if len(wanted) < _MIN_QUOTE_CHARS and not any(wanted == _normal(w.text).strip(". ") for w in holders):
        return "quote-too-short"
    if not holders:
        return "quote-not-found"
    origins = {w.origin for w in holders}
    told = origins & {*NO_SOURCE}
    if told and origins <= {*NO_SOURCE, "model"}:
        return "quote-of-memory" if "memory" in told else "quote-of-system"
    first = next(w for w in holders if w.origin not in NO_SOURCE)
    return span_of(first, quote)


def span_of(words: Words, quote: str = "") -> Span:
    """Return the span of a text, or of a quote from it, shortened."""
    return Span(
        trajectory=words.trajectory,
        origin=words.origin,  # type: ignore[arg-type]  # `words_of` gives only these
        step=words.step,
        quote=shorten(quote or words.text, _MAX_QUOTE_CHARS),
    )


def repeats_memory(lesson: str, trajectories: Iterable[Trajectory]) -> str:
    """Return the recalled line that a lesson says again; empty where it says something of its own."""
    said = _WORD.findall(_normal(lesson))
    for trajectory in trajectories:
        for text in recalled_text(trajectory):
            for line in text.splitlines():
                if said and _shared(said, _WORD.findall(_normal(line))) >= _SAME_LESSON:
                    return line
    return ""


def _shared(said: list[str], line: list[str]) -> float:
    """Return the share of the words of `said` that stand in `line` in order and in runs."""
    blocks = SequenceMatcher(None, said, line, autojunk=False).get_matching_blocks()
    shortest = min(_MIN_BLOCK_WORDS, len(said))
    return sum(block.size for block in blocks if block.size >= shortest) / len(said)


def _normal(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).translate(_PLAIN).casefold()
    return " ".join(plain.replace("< /", "</").split())
