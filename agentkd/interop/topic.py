"""Strong memories by topic, and a skill per topic: what proved itself, for agents that open skills.

Topics are found by average-link clustering of the situations' vectors within one application, in an order
that depends on the memories alone: the same memories give the same skills.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd.errors import ConfigError
from agentkd.interop.skill import memories_as_skill
from agentkd.memory.cluster import clusters
from agentkd.memory.lift import lifts_of, rank_of
from agentkd.protocols import Embedder
from agentkd.schema import Memory, Scope, Value, content_id
from agentkd.skills import Skill, find_skills, memory_ids_of, read_skill_file, write_skill

if TYPE_CHECKING:
    from agentkd.ledger import Ledger

__all__ = ["Strength", "Topic", "export_skills", "strong_memories", "topics_of"]

_STATUSES = ("active", "compiled", "retired")
_OPEN_KINDS = ("insight", "pitfall", "contrast", "constraint", "parameter", "strategy", "tool-note")
_MOST = 2_000  # memories of one application: clustering holds a matrix of all pairs
_MAX_NAME, _MAX_DESCRIPTION = 48, 1000
_WORD = re.compile(r"[a-z]{3,}")
_STOP = frozenset({
    "about", "after", "all", "always", "and", "any", "are", "before", "but", "can", "does", "ensure",
    "for", "from", "has", "have", "into", "its", "more", "multiple", "need", "needs", "not", "one",
    "only", "other", "should", "specific", "task", "tasks", "that", "the", "their", "them", "then",
    "there", "they", "this", "use", "used", "user", "users", "using", "was", "what", "when", "where",
    "which", "while", "who", "will", "with", "you", "your",
})  # fmt: skip


class Strength(Value):
    """What a memory must have shown before it goes into a skill."""

    min_support: int = 2
    """Distinct trajectories that support it; a lift that trials show to be positive counts as well."""
    min_confidence: float = 0.5
    """Least confidence of its distiller."""
    kinds: tuple[str, ...] = _OPEN_KINDS
    """Kinds that are taken; facts, cases and preferences belong to somebody or to one instance."""


class Topic(Value):
    """Memories of one application about one thing, the best first."""

    name: str
    """Name of its skill."""
    description: str
    """When to open the skill."""
    memories: tuple[Memory, ...]
    """What it teaches."""


def strong_memories(
    memories: Iterable[Memory], strength: Strength | None = None, *, scope: Scope | None = None
) -> list[Memory]:
    """Return the memories that proved themselves and may be shared, the best first.

    Private memories, those of one user, of another tenant or agent than `scope` names, and those whose lift
    is credibly negative are never among them.
    """
    wanted, own = strength or Strength(), scope or Scope()
    open_ = [
        memory
        for memory in memories
        if memory.status in _STATUSES
        and memory.kind in wanted.kinds
        and memory.privacy == "shared"
        and not memory.scope.user
        and own.may_teach(memory.scope)
        and memory.scope.agent in ("", own.agent)
        and memory.confidence >= wanted.min_confidence
    ]
    lifts = lifts_of(open_)
    strong = [
        m
        for m in open_
        if lifts[m.id].high >= 0
        and (m.support >= wanted.min_support or (lifts[m.id].low > 0 and lifts[m.id].n_without > 0))
    ]
    return sorted(strong, key=lambda memory: rank_of(memory, lifts[memory.id]))


def topics_of(
    memories: Sequence[Memory], embedder: Embedder, *, alike: float = 0.5, at_least: int = 3
) -> list[Topic]:
    """Group memories by application and topic; groups of fewer than `at_least` are left out.

    Args:
        memories: Strong memories, the best first; that order is kept within a topic.
        embedder: What similarity is measured with.
        alike: Average cosine similarity of situations from which two groups are one topic.
        at_least: Fewest memories of a topic.
    """
    groups: dict[tuple[str, str, str], list[Memory]] = {}
    for memory in memories:
        scope = memory.scope
        groups.setdefault((scope.tenant, scope.app, scope.agent), []).append(memory)
    found: list[Topic] = []
    taken: set[str] = set()
    for key in sorted(groups):
        group = groups[key][:_MOST]
        vectors = embedder.embed([memory.when_to_use for memory in group])
        large = (rows for rows in clusters(vectors, alike) if len(rows) >= at_least)
        found += [_topic([group[row] for row in rows], group, taken) for rows in large]
    return found


def export_skills(
    topics: Sequence[Topic], folder: Path, ledger: Ledger, *, prune: bool = False
) -> list[Path]:
    """Write one skill per topic below `folder` and return their folders.

    A skill of the same name is replaced where it was exported from this ledger before; ConfigError, before
    anything is written, where it is anything else, such as one of another workspace that was installed.
    `prune` removes skills that were exported before and are not among the new ones.
    """
    skills: list[Skill] = []
    for topic in topics:
        place = folder.absolute() / topic.name
        if place.exists() and not _is_own(read_skill_file(place), ledger):
            raise ConfigError(
                f"`{place}` exists and was not made of memories of this workspace",
                hint="choose another folder, or move that skill away",
                path=str(place),
            )
        title = topic.name.replace("-", " ").capitalize()
        skills.append(memories_as_skill(topic.memories, place, topic.description, title))
    written = [write_skill(skill, replace=True) for skill in skills]
    if prune:
        for old in find_skills([folder]):
            is_gone = old.path.absolute() not in written and _is_own(old, ledger)
            if is_gone and not old.path.is_symlink():
                shutil.rmtree(old.path)
    return written


def _is_own(skill: Skill, ledger: Ledger) -> bool:
    """Whether a skill was made of memories, all of which this ledger knows."""
    ids = memory_ids_of(skill)
    return bool(ids) and len(ledger.memories.get_many(ids)) == len({*ids})


def _topic(memories: Sequence[Memory], others: Sequence[Memory], taken: set[str]) -> Topic:
    words = _subject(memories, others)
    mark = content_id("", *(memory.id for memory in memories))[1:7]
    app = "-".join(re.findall(r"[a-z0-9]+", memories[0].scope.app.lower()))
    name = "-".join([*([app] if app else []), *words])[:_MAX_NAME].strip("-") or f"topic-{mark}"
    name = f"{name}-{mark}" if name in taken else name
    taken.add(name)
    return Topic(name=name, description=_description(memories, words), memories=tuple(memories))


def _subject(memories: Sequence[Memory], others: Sequence[Memory]) -> list[str]:
    """Return the words that the situations of a topic share and others lack, at most three."""
    own = Counter(word for memory in memories for word in _words(memory))
    everywhere = Counter(word for memory in others for word in _words(memory))
    weight = {word: n * n / everywhere[word] for word, n in own.items()}
    return sorted(weight, key=lambda word: (-weight[word], word))[:3]


def _words(memory: Memory) -> Collection[str]:
    return {word for word in _WORD.findall(memory.when_to_use.lower()) if word not in _STOP}


def _description(memories: Sequence[Memory], words: Sequence[str]) -> str:
    """Return when to open the skill: subject and one situation first, for a prompt shows no more."""
    app = " ".join(memories[0].scope.app.split())[:40]
    subject = ", ".join(words) or "one topic"
    situations = [" ".join(memory.when_to_use.split()).rstrip(".;") for memory in memories]
    text = f"Lessons about {subject}{f' ({app})' if app else ''}, for example: {situations[0][:90].rstrip()}."
    text += f" {len(memories)} situations: "
    for situation in situations:
        if len(text) + len(situation[:200]) > _MAX_DESCRIPTION:
            break
        text += f"{situation[:200].rstrip()}; "
    return text.rstrip("; :") + "."
