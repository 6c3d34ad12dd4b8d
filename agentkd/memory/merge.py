"""The refiner `merge`: lessons for like situations become one, and nothing that they say is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agentkd.memory.corroborate import joint_keys
from agentkd.memory.lesson import lesson_of
from agentkd.memory.neighbour import (
    Pair,
    Situations,
    close_pairs,
    judged,
    rank,
    situation_of,
    stars,
    together,
)
from agentkd.memory.question import Asking
from agentkd.memory.wording import contains, contradicts, wording_of
from agentkd.protocols import Embedder, Kit
from agentkd.schema import Memory, MemoryEdit, MemoryKeys, Value, memory_id

__all__ = ["MergeRefiner", "MergeSettings", "build"]


class MergeSettings(Value):
    """`[refiner.merge]`."""

    above: float | None = Field(default=None, ge=-1.0, le=1.0)
    """Similarity of situations from which lessons may be merged; None takes the embedder's
    `related_above`."""
    max_keys: int = Field(default=8, ge=0)
    """Situations of its parts by which a merged memory is found, besides its own."""
    use_model: Literal["auto", "never", "always"] = "auto"
    """Whether the model of the role `distiller` words a common lesson; `auto` asks it where the role is
    filled. Without it, lessons are merged where one holds all that the other says."""
    max_questions: int = Field(default=50, ge=0)
    """Questions to the model in one run of the refiner."""
    max_parts: int = Field(default=4, ge=2)
    """Lessons that the model may merge at one time."""
    prompts: str = ""
    """Folder with own prompt files `merge.md` and `repair.md`."""


class _Merged(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keep_apart: bool
    when_to_use: str = Field(default="", max_length=300)
    lesson: str = Field(default="", max_length=1200)


class MergeRefiner:
    """Merge lessons of like situations: equal calls or text, contained text, or worded by a model.

    The union is found by the situations of all its parts; the parts stay on record as earlier versions.
    """

    name = "merge"

    def __init__(self, settings: MergeSettings | None = None) -> None:
        self.settings = settings or MergeSettings()
        self.failures: list[str] = []
        """What the last run could not use of the model's answers."""

    def refine(self, memories: Sequence[Memory], kit: Kit) -> Iterator[MemoryEdit]:
        """Yield one merge per group of compatible lessons."""
        self.failures = []
        told = self.settings.above
        above = kit.thresholds()["related_above"] if told is None else told
        merged: set[str] = set()
        groups = together(judged(memory for memory in memories if memory.kind != "tool-note"))
        for group in groups:
            for keeper, parts in stars(_compatible(group, above, kit.embedder()), _longest):
                merged.update([keeper.id, *(part.id for part in parts)])
                yield self._union(keeper, parts, above)
        use = self.settings.use_model
        if use == "always" or (use == "auto" and kit.settings.roles.distiller):
            rest = [[memory for memory in group if memory.id not in merged] for group in groups]
            yield from self._worded(rest, above, kit)

    def _union(self, keeper: Memory, parts: Sequence[Memory], above: float) -> MemoryEdit:
        whole = keeper.model_copy(update={"keys": joint_keys([keeper, *parts], self.settings.max_keys)})
        reason = (
            f"it holds all that {len(parts)} others say for like situations (similarity above {above:.2f})"
        )
        return MemoryEdit(ids=(keeper.id, *(part.id for part in parts)), replacement=whole, reason=reason)

    def _worded(self, groups: Sequence[Sequence[Memory]], above: float, kit: Kit) -> Iterator[MemoryEdit]:
        asking = Asking(self.name, kit, self.settings.prompts)
        self.failures = asking.failures
        for group in groups:
            for centre, around in stars(_related(group, above, kit.embedder())):
                for few in _few(around, self.settings.max_parts - 1):
                    if asking.n_asked >= self.settings.max_questions:
                        return
                    parts = [centre, *few]
                    union = self._ask(parts, asking)
                    if union is not None:
                        by = f"worded by {asking.model_name} from {len(parts)} lessons for like situations"
                        yield MemoryEdit(ids=tuple(p.id for p in parts), replacement=union, reason=by)
                        break  # the others meet the union next time

    def _ask(self, parts: Sequence[Memory], asking: Asking) -> Memory | None:
        """Return the union in the model's words; None where it keeps them apart or loses something."""
        shown = "\n".join(
            f"{number}. When: {situation_of(part)}\n   Lesson: {part.content}"
            for number, part in enumerate(parts, 1)
        )
        answer = asking.ask(
            [part.id for part in parts], {"lessons": shown}, _Merged, lambda merged: _check(merged, parts)
        )
        if answer is None or answer.keep_apart:
            return None
        when, lesson = " ".join(answer.when_to_use.split()), answer.lesson.strip()
        first = parts[0]
        own = MemoryKeys(situation=when, query=first.keys.query, tools=first.keys.tools)
        named = first.model_copy(update={"when_to_use": when, "keys": own})
        return first.model_copy(
            update={
                "id": memory_id(first.kind, when, lesson, first.scope),
                "when_to_use": when,
                "content": lesson,
                "keys": joint_keys([named, *parts], self.settings.max_keys),
                "confidence": min(part.confidence for part in parts),
                "origin": self.name,
                "extras": {"merged_by": asking.model_name},
            }
        )


def _few(memories: Sequence[Memory], n: int) -> Iterator[Sequence[Memory]]:
    return (memories[at : at + n] for at in range(0, len(memories), n))


def _longest(memory: Memory) -> tuple[object, ...]:
    return (-len(wording_of(memory.content).words), *rank(memory))


def _compatible(group: Sequence[Memory], above: float, embedder: Embedder) -> Iterator[Pair]:
    """Yield (keeper, part) where the keeper says all that the part says, for a like situation."""
    if len(group) < 2:
        return
    situations = Situations(group, embedder)
    by_lesson: dict[str, list[Memory]] = {}
    for memory in group:
        by_lesson.setdefault(lesson_of(memory), []).append(memory)
    for equal in by_lesson.values():
        for first, second in close_pairs(equal, above, situations) if len(equal) > 1 else ():
            yield from ((first, second), (second, first))
    if any(memory.calls for memory in group):
        return  # exemplars with other calls stay apart
    for keeper, part in _holders(group):
        if situations.score(keeper, part) > above:
            yield keeper, part


def _holders(group: Sequence[Memory]) -> Iterator[Pair]:
    """Yield (longer, shorter) where the longer text holds the shorter; found by the shorter's rarest word.

    Lessons of the same words, such as those that a template made, are looked up together.
    """
    by_words: dict[frozenset[str], list[Memory]] = {}
    for memory in group:
        by_words.setdefault(frozenset(wording_of(memory.content).words), []).append(memory)
    holding: dict[str, list[frozenset[str]]] = {}
    for words in by_words:
        for word in words:
            holding.setdefault(word, []).append(words)
    for own, parts in by_words.items():
        if not own:
            continue
        rarest = min(own, key=lambda word: (len(holding[word]), word))
        wholes = [whole for words in holding[rarest] if own < words for whole in by_words[words]]
        for whole in wholes:
            for part in parts:
                if contains(wording_of(whole.content), wording_of(part.content)):
                    yield whole, part


def _related(group: Sequence[Memory], above: float, embedder: Embedder) -> Iterator[Pair]:
    """Yield pairs for a model: like situations, other lessons, no open contradiction; no exemplars."""
    if len(group) < 2 or any(memory.kind == "case" or memory.calls for memory in group):
        return
    for first, second in close_pairs(group, above, Situations(group, embedder)):
        if not contradicts(wording_of(first.content), wording_of(second.content)):
            yield from ((first, second), (second, first))


def _check(merged: _Merged, parts: Sequence[Memory]) -> None:
    """Raise ValueError where a merged lesson lost or invented something."""
    if merged.keep_apart:
        return
    if len(merged.when_to_use.strip()) < 8 or len(merged.lesson.strip()) < 8:
        raise ValueError("when_to_use and lesson: both are needed unless keep_apart is true")
    told = [wording_of(part.content) for part in parts]
    new = wording_of(merged.lesson)
    wanted = frozenset[str]().union(*(wording.values for wording in told))
    lost = sorted(wanted - new.values)
    if lost:
        raise ValueError(f"lesson: it lost the value {lost[0]!r}; keep every value, or keep them apart")
    invented = sorted(new.values - wanted)
    if invented:
        raise ValueError(f"lesson: {invented[0]!r} stands in none of the given lessons")
    if new.negations < max(wording.negations for wording in told):
        raise ValueError("lesson: a prohibition was lost; keep every `not`, `never` and `avoid`")


def build(settings: MergeSettings, kit: Kit) -> MergeRefiner:
    """Make the component `merge`."""
    return MergeRefiner(settings)
