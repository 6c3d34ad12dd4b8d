"""Counter-memories: they speak against a revoked memory while a student that still holds it serves.

A counter-memory is indexed under the keys of the memory that it masks. For the base it is `retired`, so that
no recall finds it; it is `active` for tainted checkpoints alone, comes before all other hits there, and is
gone from the next recall when another one serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from agentkd.schema import COUNTER_ORIGIN, COUNTERS, Hit, Memory, memory_id

__all__ = ["counter_memory", "with_counters_first"]


def counter_memory(revoked: Memory, *, is_quoted: bool, instead: str = "") -> Memory:
    """Return the memory that masks a revoked one.

    Args:
        revoked: What was taken back.
        is_quoted: Whether it may say what was taken back; not where a person's data was.
        instead: What is to be done in its place.
    """
    lesson = " ".join(revoked.content.split())
    said = _text("counter").format(lesson=lesson) if is_quoted else _text("counter-silent")
    content = f"{said} {instead.strip()}".strip()
    return Memory(
        id=memory_id("constraint", revoked.when_to_use, content, revoked.scope),
        kind="constraint",
        when_to_use=revoked.when_to_use,
        content=content,
        keys=revoked.keys,
        scope=revoked.scope,
        confidence=1.0,
        origin=COUNTER_ORIGIN,
        privacy="private",  # never compiled into weights, never exported
        status="retired",
        extras={COUNTERS: revoked.id},
    )


def with_counters_first(hits: Sequence[Hit], k: int) -> list[Hit]:
    """Return at most `k` hits, counter-memories first; they take half of the places at most, but one."""
    against = [hit for hit in hits if hit.memory.counters][: max(1, k // 2)]
    return [*against, *(hit for hit in hits if not hit.memory.counters)][:k]


@cache
def _text(name: str) -> str:
    return (files("agentkd.memory") / "prompts" / f"{name}.md").read_text(encoding="utf-8").strip()
