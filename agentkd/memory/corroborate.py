"""The refiner `corroborate`: near copies anywhere in the pool become one memory with all their evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from agentkd.memory.lesson import lesson_of
from agentkd.memory.neighbour import Pair, Situations, close_pairs, judged, stars, together
from agentkd.memory.wording import says_the_same, wording_of
from agentkd.protocols import Embedder, Kit
from agentkd.schema import Memory, MemoryEdit, MemoryKeys, Value

__all__ = ["CorroborateRefiner", "CorroborateSettings", "build", "joint_keys"]


class CorroborateSettings(Value):
    """`[refiner.corroborate]`."""

    above: float | None = Field(default=None, ge=-1.0, le=1.0)
    """Similarity of situations, and of lessons, from which two memories are copies; None takes the
    embedder's `merge_above`."""
    max_keys: int = Field(default=8, ge=0)
    """Situations of its copies by which a memory is found, besides its own."""


class CorroborateRefiner:
    """Let the best supported copy of a lesson take in the others: its support counts all their runs.

    Copies have one kind, scope and privacy, close situations, and the same lesson: equal calls, equal
    text, or close text with the same values and as many negations.
    """

    name = "corroborate"

    def __init__(self, settings: CorroborateSettings | None = None) -> None:
        self.settings = settings or CorroborateSettings()

    def refine(self, memories: Sequence[Memory], kit: Kit) -> Iterator[MemoryEdit]:
        """Yield one merge per group of copies."""
        told = self.settings.above
        above = kit.thresholds()["merge_above"] if told is None else told
        for group in together(judged(memories)):
            for keeper, copies in stars(_copies(group, above, kit.embedder())):
                ids = (keeper.id, *(copy.id for copy in copies))
                whole = keeper.model_copy(
                    update={"keys": joint_keys([keeper, *copies], self.settings.max_keys)}
                )
                reason = f"{len(copies)} near copies in its own words (similarity above {above:.2f})"
                yield MemoryEdit(ids=ids, replacement=whole, reason=reason)


def _copies(group: Sequence[Memory], above: float, embedder: Embedder) -> Iterator[Pair]:
    """Yield every pair of copies in both directions."""
    if len(group) < 2:
        return
    situations = Situations(group, embedder)
    lessons = {memory.id: lesson_of(memory) for memory in group}
    by_lesson: dict[str, list[Memory]] = {}
    for memory in group:
        by_lesson.setdefault(lessons[memory.id], []).append(memory)
    for equal in by_lesson.values():
        if len(equal) > 1:
            for first, second in close_pairs(equal, above, situations):
                yield from ((first, second), (second, first))
    if any(memory.calls for memory in group):
        return  # exemplars with other calls are no copies, however close their words
    contents = Situations(group, embedder, lambda memory: memory.content)
    for first, second in close_pairs(group, above, situations, contents):
        same = lessons[first.id] == lessons[second.id]
        if not same and says_the_same(wording_of(first.content), wording_of(second.content)):
            yield from ((first, second), (second, first))


def joint_keys(memories: Sequence[Memory], most: int) -> MemoryKeys:
    """Return the keys of the first memory and, as further ones, the situations of the others."""
    first = memories[0]
    keys = first.keys
    own = {" ".join(text.split()) for text in (first.when_to_use, keys.situation, keys.query, keys.task)}
    found = list(keys.more)
    own.update(" ".join(text.split()) for text in found)
    for memory in memories[1:]:
        other = memory.keys
        for text in (other.situation or memory.when_to_use, other.task, *other.more):
            plain = " ".join(text.split())
            if plain and plain not in own:
                own.add(plain)
                found.append(text)
    return keys.model_copy(update={"more": tuple(found[:most])})


def build(settings: CorroborateSettings, kit: Kit) -> CorroborateRefiner:
    """Make the component `corroborate`."""
    return CorroborateRefiner(settings)
