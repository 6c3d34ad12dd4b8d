"""How memories and hits look as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentkd.cli.render import print_facts, print_table, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.schema import Hit, Memory

__all__ = ["print_hits", "print_memories", "print_memory", "sources_text"]


def print_memories(
    memories: list[Memory], console: Console, replaced: Mapping[str, str] | None = None
) -> None:
    """Print one row per memory; `replaced` says by id what took the place of those that are not current."""
    rows = [(m.id, m.kind, _status(m, replaced or {}), m.support, f"{m.utility.wins}/{m.utility.recalls}",
             shortened(f"{m.when_to_use} -> {m.content}")) for m in memories]  # fmt: skip
    print_table(console, ["id", "kind", "status", "support", "wins", "lesson"], rows, empty="no memories yet")


def print_hits(hits: list[Hit], console: Console) -> None:
    """Print what was recalled, best first."""
    rows = [(f"{h.score:.3f}", h.key, h.memory.id, h.memory.kind, shortened(h.memory.content)) for h in hits]
    print_table(
        console, ["score", "key", "id", "kind", "lesson"], rows, empty="nothing is similar enough to recall"
    )


def sources_text(memory: Memory) -> str:
    """Return who is behind the words that a memory rests on, such as `tainted user:ann via fetch`."""
    told = {
        f"{span.trust} {span.principal}" + (f" via {span.tool}" if span.tool else "")
        for span in memory.evidence.spans
        if span.trust
    }
    return "; ".join(sorted(told))


def _status(memory: Memory, replaced: Mapping[str, str]) -> str:
    return f"replaced by {replaced[memory.id]}" if memory.id in replaced else memory.status


def print_memory(memory: Memory, console: Console, replaced: Mapping[str, str]) -> None:
    """Print one memory with its evidence and its use; `replaced` says what took its place."""
    print_facts(
        console,
        [
            ("id", memory.id),
            ("kind", memory.kind),
            ("status", f"{_status(memory, replaced)}, version {memory.version}"),
            ("when to use", memory.when_to_use),
            ("content", memory.content),
            ("also when", "; ".join(memory.keys.more)),
            ("calls", "; ".join(f"{c.name} {c.arguments}" for c in memory.calls)),
            ("scope", ", ".join(f"{k}={v}" for k, v in memory.scope.model_dump().items() if v)),
            ("trust", memory.trust),
            ("sources", sources_text(memory)),
            ("support", memory.support),
            ("utility", f"{memory.utility.wins} wins in {memory.utility.recalls} recalls"),
            ("confidence", f"{memory.confidence:.2f} ({memory.origin})"),
            ("trajectories", ", ".join(memory.evidence.trajectories)),
            ("corrections", ", ".join(memory.evidence.corrections)),
            ("parent", memory.parent),
            ("created", f"{memory.created_at:%Y-%m-%d %H:%M} UTC"),
        ],
    )
