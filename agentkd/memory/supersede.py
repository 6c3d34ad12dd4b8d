"""The refiner `supersede`: of two lessons that contradict each other, one stays current."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from pydantic import Field

from agentkd.memory.lesson import lesson_of, normalise
from agentkd.memory.neighbour import Pair, Situations, close_pairs, judged, situation_of, together
from agentkd.memory.wording import contradicts, wording_of
from agentkd.protocols import Embedder, Kit
from agentkd.schema import Memory, MemoryEdit, Task, Value

__all__ = ["SupersedeRefiner", "SupersedeSettings", "build"]

Said = Mapping[str, datetime]
"""When a person or a grader last gave a correction that a memory rests on, by id."""

_CODE = re.compile(r"`([^`]+)`")


class SupersedeSettings(Value):
    """`[refiner.supersede]`."""

    above: float | None = Field(default=None, ge=-1.0, le=1.0)
    """Similarity of situations from which a contradiction counts; None takes the embedder's
    `merge_above`."""


class SupersedeRefiner:
    """Let one of two contradicting lessons take the other's place; the other stays on record.

    Lessons for the same situation contradict each other where they give one parameter of one tool other
    values, or differ in nothing but a value or a `not`. What a person or a grader corrected last goes first,
    then the better supported, then the newer one; of a tool's notes the newest, which counts all runs anew.
    Exemplars of one and the same task contradict each other only where a newer correction accepted other
    calls; a request with another id that comes with other tools is another task.
    """

    name = "supersede"

    def __init__(self, settings: SupersedeSettings | None = None) -> None:
        self.settings = settings or SupersedeSettings()

    def refine(self, memories: Sequence[Memory], kit: Kit) -> Iterator[MemoryEdit]:
        """Yield one edit per memory that another one replaces."""
        told = self.settings.above
        above = kit.thresholds()["merge_above"] if told is None else told
        gone: set[str] = set()
        standings = kit.standings(memory.id for memory in memories if memory.evidence.corrections)
        said = {id_: each.corrected_at for id_, each in standings.items() if each.corrected_at is not None}
        for group in together(judged(memories)):
            if any(memory.kind == "case" or memory.calls for memory in group):
                conflicts = [
                    (*pair, "a newer correction accepted other calls")
                    for pair in _recalled(group, said)
                    if _are_one_task(*pair, kit)
                ]
            else:
                conflicts = [
                    (*_winner_first(first, second, said), why)
                    for first, second, why in _conflicts(group, above, kit.embedder())
                ]
            conflicts.sort(key=lambda conflict: _age(conflict[0], said), reverse=True)
            for winner, loser, why in conflicts:
                if winner.id not in gone and loser.id not in gone:
                    gone.add(loser.id)
                    yield MemoryEdit(
                        ids=(loser.id,), replacement=winner, reason=f"{why}: {_figures(winner, loser, said)}"
                    )


def _age(memory: Memory, said: Said) -> tuple[datetime, str]:
    """Order memories by when somebody last said them: a value that a person came back to is the newest."""
    return max(memory.created_at, said.get(memory.id, memory.created_at)), memory.id


def _recalled(group: Sequence[Memory], said: Said) -> Iterator[Pair]:
    """Yield (newer correction, older case) of one state of one task with other calls."""
    states: dict[tuple[str, str], list[Memory]] = {}
    for memory in group:
        if memory.keys.task:
            state = (normalise(memory.keys.task), normalise(situation_of(memory)))
            states.setdefault(state, []).append(memory)
    for same in states.values():
        same.sort(key=lambda memory: _age(memory, said))
        for at, newer in enumerate(same):
            if newer.id in said:
                yield from ((newer, older) for older in same[:at] if lesson_of(older) != lesson_of(newer))


def _are_one_task(first: Memory, second: Memory, kit: Kit) -> bool:
    """Whether two cases of one request are of one task: by its id, else by the tools that it came with."""
    one, other = (_task_behind(memory, kit) for memory in (first, second))
    return (one.suite, one.id) == (other.suite, other.id) or one.tools == other.tools


def _task_behind(memory: Memory, kit: Kit) -> Task:
    """Return the task that a case was learnt from; one without tools where its run is not kept."""
    runs = kit.trajectories(memory.evidence.trajectories[:1])
    return runs[0].task if runs else Task(id=memory.id, prompt=memory.keys.task)


def _conflicts(
    group: Sequence[Memory], above: float, embedder: Embedder
) -> Iterator[tuple[Memory, Memory, str]]:
    """Yield pairs of lessons for the same situation that cannot both be right."""
    if len(group) < 2:
        return
    slots = {memory.id: _slot(memory) for memory in group}
    for first, second in close_pairs(group, above, Situations(group, embedder)):
        slot = slots[first.id]
        same_text = normalise(first.content) == normalise(second.content)
        if slot is not None and slot == slots[second.id] and not same_text:
            what = f"another value for `{slot[1]}`" if slot[1] else "another note"
            yield first, second, f"{what} of `{slot[0]}`"
        elif contradicts(wording_of(first.content), wording_of(second.content)):
            yield first, second, "the opposite for the same situation"


def _slot(memory: Memory) -> tuple[str, str] | None:
    """Return what only one memory can say: of a tool, its note, and the value of each parameter.

    Tool and parameter of a `parameter` memory are its first two code words.
    """
    if memory.kind == "tool-note" and "tool" in memory.extras:
        return str(memory.extras["tool"]), ""
    if memory.kind != "parameter":
        return None
    found = _CODE.findall(memory.content)
    return (found[0], found[1]) if len(found) > 1 else None


def _winner_first(first: Memory, second: Memory, said: Said) -> Pair:
    def claim(memory: Memory) -> tuple[object, ...]:
        """Order two contradicting lessons: of those that people corrected the newest is right."""
        newest = _age(memory, said)
        if memory.id in said:
            return (True, 0, *newest)
        support = 0 if memory.kind == "tool-note" else memory.support  # counted anew, over all runs
        return (False, support, *newest)

    ordered = sorted((first, second), key=claim, reverse=True)
    return ordered[0], ordered[1]


def _figures(winner: Memory, loser: Memory, said: Said) -> str:
    def of(memory: Memory) -> str:
        by = "corrected" if memory.id in said else f"support {memory.support}"
        return f"{_age(memory, said)[0]:%Y-%m-%d}, {by}"

    return f"{of(winner)} against {of(loser)}"


def build(settings: SupersedeSettings, kit: Kit) -> SupersedeRefiner:
    """Make the component `supersede`."""
    return SupersedeRefiner(settings)
