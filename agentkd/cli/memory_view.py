"""How memories and hits look as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agentkd.cli.render import print_facts, print_table, shortened

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from agentkd.ledger import Tally
    from agentkd.schema import Hit, Memory, Scope

__all__ = ["print_hits", "print_memories", "print_memory", "sources_text", "why_none", "why_nothing"]


def print_memories(
    memories: list[Memory],
    console: Console,
    replaced: Mapping[str, str] | None = None,
    *,
    empty: str = "no memories yet",
) -> None:
    """Print one row per memory; `replaced` says by id what took the place of those that are not current."""
    columns = ["id", "kind", "status", "support", "wins", "lesson"]
    rows = [[m.id, m.kind, _status(m, replaced or {}), m.support, f"{m.utility.wins}/{m.utility.recalls}",
             shortened(f"{m.when_to_use} -> {m.content}")] for m in memories]  # fmt: skip
    scopes = [scope_text(memory.scope) for memory in memories]
    if any(scopes):
        columns.insert(3, "scope")
        for row, scope in zip(rows, scopes, strict=True):
            row.insert(3, scope)
    print_table(console, columns, rows, empty=empty)


def why_none(tally: Sequence[Tally], kind: str | None, at: datetime | None) -> str:
    """Say why a list of memories is empty, given what there is."""
    when = "yet" if at is None else f"at {at:%Y-%m-%d %H:%M} UTC"
    if not tally:
        return f"no memories {when}"
    kinds = {each.kind for each in tally}
    if kind is not None and kind not in kinds:
        return f"no memory is of kind `{kind}`; there are {', '.join(f'`{name}`' for name in sorted(kinds))}"
    return "no memory fits these options"


def print_hits(hits: list[Hit], console: Console, *, empty: str) -> None:
    """Print what was recalled, best first by meaning and words, with the cosine of meaning alone."""
    rows = [(f"{h.score:.3f}", h.key, h.memory.id, h.memory.kind, shortened(h.memory.content)) for h in hits]
    print_table(console, ["cosine", "key", "id", "kind", "lesson"], rows, empty=empty)


def why_nothing(asker: Scope, tally: Sequence[Tally]) -> str:
    """Say why a recall is empty: nothing is near, or this scope does not see what is there."""
    from agentkd.memory.scope import sees
    from agentkd.memory.status import RECALLED

    n = Counter[bool]()
    for each in tally:
        if each.status in RECALLED:
            n[sees(asker, each.scope)] += each.n
    if not n:
        return "there is nothing to recall yet"
    who = f"the scope `{scope_text(asker)}`" if scope_text(asker) else "the empty scope"
    if n[True]:
        said = f"nothing is similar enough to recall among the memories that {who} sees ({n[True]})"
    else:
        said = f"{who} sees no memory"
    others = f"; {n[False]} more in other scopes: --user, --agent, --app and --tenant name them"
    return said + (others if n[False] else "")


def scope_text(scope: Scope) -> str:
    """Return a scope as `app=shop, user=ann`; empty for that of all."""
    return ", ".join(f"{name}={value}" for name, value in scope.model_dump().items() if value)


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
            ("scope", scope_text(memory.scope)),
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
