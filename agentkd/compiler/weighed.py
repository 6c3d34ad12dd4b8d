"""Finds what of a history may be learnt from: targets of other rows, and what trusted tools answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agentkd.compiler.source import Trace
from agentkd.compiler.turn import Turn
from agentkd.config import TrustSettings
from agentkd.schema import REDACTED, Message
from agentkd.trust import trust_of_run

__all__ = ["places_in", "with_weighed"]


def with_weighed(turns: Sequence[Turn], traces: Iterable[Trace], trust: TrustSettings) -> list[Turn]:
    """Return the turns of one task, each with the places of its history that may have a weight.

    An earlier turn of the assistant may where it is the target of one of `turns`: a call that failed, what
    was put right later and what the trust gate held back are not. A tool result may where its source is
    trusted; nothing that was redacted may.
    """
    taught = {(_said(turn.history), turn.target.content) for turn in turns if not turn.is_negative}
    untrusted = _untrusted(traces, trust) if trust.gate else {}
    return [replace(turn, weighed=_weighed(turn, taught, untrusted)) for turn in turns]


def places_in(view: Sequence[Message], turn: Turn) -> frozenset[int]:
    """Return the places that may have a weight in a prompt that ends with the turn's history, else none."""
    start = len(view) - len(turn.history)
    is_tail = start >= 0 and all(seen is said for seen, said in zip(view[start:], turn.history, strict=True))
    return frozenset(start + place for place in turn.weighed) if is_tail else frozenset()


_Key = tuple[tuple[str, str], ...]


def _said(history: Iterable[Message]) -> _Key:
    return tuple((message.role, message.content) for message in history)


def _untrusted(traces: Iterable[Trace], trust: TrustSettings) -> Mapping[str, frozenset[str] | None]:
    """Return the untrusted tool results of each run as a history shows them; None for all of an import's."""
    found: dict[str, frozenset[str] | None] = {}
    for trace in traces:
        run = trace.trajectory
        texts = (outside.text for outside in trust_of_run(run, trust).outside)
        shown = frozenset(form for text in texts for form in (text, f"error: {text}"))
        found[run.id] = None if run.imported_from else shown
    return found


def _weighed(
    turn: Turn, taught: set[tuple[_Key, str]], untrusted: Mapping[str, frozenset[str] | None]
) -> frozenset[int]:
    said = _said(turn.history)
    outside = [untrusted.get(id_, frozenset()) for id_ in turn.trajectories]
    places = set()
    for place, (role, content) in enumerate(said):
        if REDACTED in content:
            continue
        if role == "tool":
            is_sound = all(texts is not None and content not in texts for texts in outside)
        else:
            is_sound = role == "assistant" and (said[:place], content) in taught
        if is_sound:
            places.add(place)
    return frozenset(places)
