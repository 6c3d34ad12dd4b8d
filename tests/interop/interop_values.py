"""Strategies for memories, as Hypothesis draws them for round trips."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st

from agentkd.interop.candidate import KINDS
from agentkd.schema import Evidence, Memory, MemoryKeys, Scope, Span, ToolCall, Utility, memory_id

plain = st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp"), include_characters="\n\t")
texts = st.text(plain, min_size=1, max_size=60).filter(str.strip)
lines = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp", "Zs"), include_characters=" "),
                min_size=1, max_size=40).map(lambda text: " ".join(text.split())).filter(bool)  # fmt: skip
maybe = st.just("") | lines
moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
shares = st.floats(0, 1, allow_nan=False)
names = st.text("abcdefghij-0123456789", min_size=1, max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | shares | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def utilities(draw: st.DrawFn) -> Utility:
    recalls, held_out = draw(st.integers(0, 50)), draw(st.integers(0, 50))
    return Utility(
        recalls=recalls,
        wins=draw(st.integers(0, recalls)),
        held_out=held_out,
        held_out_wins=draw(st.integers(0, held_out)),
    )


evidences = st.builds(
    Evidence,
    trajectories=st.lists(names, max_size=2).map(tuple),
    corrections=st.lists(names, max_size=2).map(tuple),
    steps=st.lists(names, max_size=2).map(tuple),
    spans=st.lists(st.builds(Span, trajectory=names, origin=st.just("tool"), quote=texts), max_size=2).map(
        tuple
    ),
)
calls = st.builds(ToolCall, name=names, arguments=st.dictionaries(names, json_values, max_size=2))


@st.composite
def memories(draw: st.DrawFn, text: st.SearchStrategy[str] = texts, scope: Scope | None = None) -> Memory:
    kind, when, content = draw(st.sampled_from(KINDS)), draw(text), draw(text)
    where = scope or draw(st.builds(Scope, tenant=maybe, app=maybe, agent=maybe, user=maybe))
    return Memory(
        id=memory_id(kind, when, content, where),
        kind=kind,
        when_to_use=when,
        content=content,
        keys=draw(st.builds(MemoryKeys, situation=st.just(when), query=maybe, task=maybe, tools=maybe)),
        scope=where,
        evidence=draw(evidences),
        calls=tuple(draw(st.lists(calls, max_size=2))),
        support=draw(st.integers(0, 9)),
        utility=draw(utilities()),
        confidence=draw(shares),
        origin=draw(maybe),
        privacy=draw(st.sampled_from(["shared", "shared", "private"])) if scope is None else "shared",
        status=draw(st.sampled_from(["active", "quarantined", "retired"])),
        created_at=draw(moments),
        extras=draw(st.dictionaries(names, json_values, max_size=2)),
    )
