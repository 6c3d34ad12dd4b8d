"""Does a distiller keep its promise? Candidates that rest on what it was given, and none without evidence."""

from __future__ import annotations

from agentkd.protocols import Distiller, Kit
from agentkd.schema import Memory, memory_id
from agentkd.testing.checks.claim import claim
from agentkd.testing.trajectory import example_correction, example_trajectory

__all__ = ["check_distiller"]


def check_distiller(distiller: Distiller, kit: Kit | None = None, *, min_memories: int = 1) -> None:
    """Check that `distiller` keeps `protocols.Distiller` on a success and a corrected failure.

    Args:
        distiller: The distiller.
        kit: What it may use; give one with a `distiller` model where it needs a model.
        min_memories: Candidates that it must at least find.
    """
    from agentkd.testing.kit import FakeKit

    kit = kit or FakeKit()
    claim(isinstance(distiller.name, str) and distiller.name, "`name` is empty")
    claim(not list(distiller.distill([], [], kit)), "nothing was given, and yet a memory came out")
    good = example_trajectory()
    bad = example_trajectory("Book a table for our family of four at seven.", success=False)
    correction = example_correction(bad)
    found = list(distiller.distill([good, bad], [correction], kit))
    claim(len(found) >= min_memories, f"expected {min_memories} candidates at least, got {len(found)}")
    for memory in found:
        _check_candidate(memory, {good.id, bad.id}, {correction.id})


def _check_candidate(memory: Memory, trajectories: set[str], corrections: set[str]) -> None:
    claim(isinstance(memory, Memory), f"`distill` must yield Memory values, not {type(memory).__name__}")
    expected = memory_id(memory.kind, memory.when_to_use, memory.content, memory.scope)
    claim(memory.id == expected, f"memory `{memory.id}` does not have its content id; use `memory_id`")
    claim(memory.when_to_use.strip(), "`when_to_use` is empty")
    claim(memory.content.strip(), "`content` is empty")
    claim(memory.keys.texts(), "no key is set: recall could never find it")
    claim(memory.status == "candidate", f"a distiller gives candidates, not `{memory.status}` memories")
    claim(0.0 <= memory.confidence <= 1.0, f"confidence {memory.confidence} is not in [0, 1]")
    claim(memory.evidence.trajectories, "the memory rests on no trajectory")
    strangers = {*memory.evidence.trajectories} - trajectories | {*memory.evidence.corrections} - corrections
    claim(not strangers, f"the evidence names what was not given: {sorted(strangers)}")
