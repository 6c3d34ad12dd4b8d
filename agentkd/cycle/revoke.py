"""Revoke: take a memory, a trajectory or a user's data back, with everything that was made from it.

What rests on it is tainted: rows, datasets, checkpoints and what went on from those. While a tainted student
serves, the base acts near what was revoked, and counter-memories speak against it; `[revoke] serving` says
whether it serves on at all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from agentkd import hookspecs
from agentkd.cycle.parts import Parts
from agentkd.errors import ConfigError, NotFoundError
from agentkd.ledger.standing import REVOCATION
from agentkd.schema import Checkpoint, Memory, Scope, Value
from agentkd.skills import SkillLibrary

__all__ = ["Revocation", "mask_checkpoint", "revoke"]


class Revocation(Value):
    """What a revocation changed."""

    reason: str
    """Why."""
    memories: tuple[str, ...] = ()
    """Ids of the memories that are revoked by it."""
    quarantined: tuple[str, ...] = ()
    """Ids of memories that rest on a revoked trajectory among others: not recalled until a person says so."""
    trajectories: tuple[str, ...] = ()
    """Ids of the trajectories that are revoked by it."""
    counters: tuple[str, ...] = ()
    """Ids of the counter-memories."""
    rows: int = 0
    """Tainted rows of all datasets, earlier revocations included."""
    datasets: tuple[str, ...] = ()
    """Ids of the datasets that hold tainted rows."""
    checkpoints: tuple[str, ...] = ()
    """Names of the tainted checkpoints."""
    reached: dict[str, int] = Field(default_factory=dict)
    """What was made from it, by kind: see `agentkd lineage`."""
    to_look_at: tuple[str, ...] = ()
    """Ids of memories that were learnt from runs that were shown a revoked one; they stay as they are."""
    siblings: tuple[str, ...] = ()
    """Ids of memories that rest on the runs of the revoked ones alone: they may teach the same in other
    words, and stay as they are."""
    alike: tuple[str, ...] = ()
    """Users who have the revoked one among the labels of their name, as `users.ann` has `ann`: a store makes
    them of its namespaces, and their data stays."""
    skills: tuple[str, ...] = ()
    """Names of the skills that are closed to agents, for they teach what was revoked."""
    serving_before: str = "base"
    """What served."""
    serving: str = "base"
    """What serves now."""
    said: str = ""
    """What serves and why, and which skills are closed, in a sentence."""


def revoke(
    parts: Parts,
    *,
    memories: Iterable[str] = (),
    trajectories: Iterable[str] = (),
    scope: Scope | None = None,
    reason: str,
    instead: str = "",
) -> Revocation:
    """Take things back for good.

    Args:
        parts: The workspace.
        memories: Ids of memories.
        trajectories: Ids of trajectories: memories that rest on nothing else are revoked with them, others
            that rest on them too are quarantined.
        scope: A user's data: all memories and trajectories whose scope has what this one sets.
        reason: Why; kept in the ledger.
        instead: What is to be done in the place of the lessons, for the counter-memories.

    What a counter-memory says of a revoked trajectory or of a user's data holds none of its words.

    Raises NotFoundError for an unknown id and for a scope that nothing has, ConfigError where nothing is
    named. All of it is one transaction.
    """
    if scope is not None and scope == Scope():
        raise ConfigError(
            "the scope is empty: it would revoke everything", hint="name a user, agent or tenant"
        )
    named = tuple(dict.fromkeys(memories))
    runs = tuple(dict.fromkeys(trajectories))
    if not named and not runs and scope is None:
        raise ConfigError("nothing is named to be revoked", hint="give ids, or a scope such as `--user ann`")
    ledger, library = parts.ledger, parts.skills()  # a broken skill is told before anything is taken back
    before = ledger.checkpoints.serving()
    with ledger.transaction():
        of_scope, runs_of = ((), ()) if scope is None else _owned(parts, scope)
        runs = tuple(dict.fromkeys((*runs, *runs_of)))
        reach = ledger.revocations.reach(runs)
        silent = set(of_scope) | set(reach.alone)
        held = _held(parts, [*named, *silent, *reach.beside])
        taken = ledger.revocations.revoke_trajectories(runs, reason)
        revoked = tuple(
            id_
            for id_ in dict.fromkeys((*named, *sorted(silent)))
            if ledger.memories.set_status(id_, "revoked", reason)
        )
        left = [id_ for id_ in reach.beside if id_ not in revoked]
        doubtful = tuple(id_ for id_ in left if _quarantine(parts, id_, reason))
        counters = [
            _mask(parts, memory, held[memory.id], is_quoted=memory.id in named, instead=instead)
            for memory in ledger.memories.get_many([*revoked, *doubtful])
            if held.get(memory.id)
        ]
        serving = _switched(parts, reason)
    parts.memory.sync()
    if before is not None and serving != before.name:
        parts.hooks.ask(hookspecs.after_promote, checkpoint=serving, previous=before.name)
    alike = () if scope is None else _alike(parts, scope)
    return _told(parts, library, reason, revoked, doubtful, taken, counters, before, alike)


def mask_checkpoint(parts: Parts, checkpoint: str) -> int:
    """Let all counter-memories speak where a tainted checkpoint is made to serve; returns how many do."""
    counters = [memory for memory in parts.ledger.memories.list() if memory.counters]
    for memory in counters:
        why = f"`{memory.counters}` was revoked"
        parts.ledger.memories.set_status(memory.id, "active", why, checkpoint=checkpoint)
    return len(counters)


def _owned(parts: Parts, scope: Scope) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids of a scope's memories and trajectories; raises NotFoundError where there are none."""
    memories = parts.ledger.revocations.memories_of(scope)
    runs = parts.ledger.revocations.trajectories_of(scope)
    if not memories and not runs:
        raise _unknown(parts, scope)
    return memories, runs


def _alike(parts: Parts, scope: Scope) -> tuple[str, ...]:
    """Return the users who have a user's name among the labels of theirs, as a store makes them."""
    owners = parts.ledger.revocations.owners("user", scope) if scope.user else ()
    return tuple(each for each in owners if each != scope.user and f".{scope.user}." in f".{each}.")


def _unknown(parts: Parts, scope: Scope) -> NotFoundError:
    fields = _fields(scope)
    close = [
        f"--{field} {each}"
        for field, wanted in fields.items()
        for each in difflib.get_close_matches(wanted, parts.ledger.revocations.owners(field, scope), n=1)
    ]
    alike = _alike(parts, scope)
    if alike:
        hint = f"a store joins the labels of a namespace: there is {', '.join(f'`{each}`' for each in alike)}"
    elif close:
        hint = f"did you mean `{' '.join(close)}`?"
    else:
        hint = "`agentkd memory list` shows the scopes of memories"
    named = ", ".join(f"{field} `{wanted}`" for field, wanted in fields.items())
    return NotFoundError(f"no memory and no trajectory is of {named}: nothing was revoked", hint=hint)


def _fields(scope: Scope) -> dict[str, str]:
    return {field: value for field, value in scope.model_dump().items() if value}


def _held(parts: Parts, ids: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Return the checkpoints that were made from each memory, read before a merge is undone."""
    return {id_: parts.ledger.lineage.up(id_).ids("checkpoint") for id_ in dict.fromkeys(ids)}


def _quarantine(parts: Parts, memory_id: str, reason: str) -> bool:
    if parts.ledger.memories.get(memory_id).status == "revoked":
        return False
    why = f"a run that it rests on was revoked ({reason}); `agentkd memory activate` where it may stay"
    details = {REVOCATION: reason}
    return parts.ledger.memories.set_status(memory_id, "quarantined", why, details=details)


def _mask(parts: Parts, revoked: Memory, checkpoints: Sequence[str], *, is_quoted: bool, instead: str) -> str:
    """Store the counter-memory of a revoked one, and let it be recalled where these checkpoints serve."""
    from agentkd.memory.counter import counter_memory

    counter = counter_memory(revoked, is_quoted=is_quoted, instead=instead)
    parts.ledger.memories.admit([counter])
    for checkpoint in checkpoints:
        why = f"`{revoked.id}` was revoked"
        parts.ledger.memories.set_status(counter.id, "active", why, checkpoint=checkpoint)
    return counter.id


def _switched(parts: Parts, reason: str) -> str:
    """Roll back where the policy wants it; returns what serves."""
    serving = parts.ledger.checkpoints.serving()
    if serving is None:
        return "base"
    if serving.status != "tainted" or parts.settings.revoke.serving != "rollback":
        return serving.name
    return parts.ledger.checkpoints.rollback(f"tainted: {reason}")[1]


def _told(
    parts: Parts,
    library: SkillLibrary,
    reason: str,
    revoked: tuple[str, ...],
    doubtful: tuple[str, ...],
    taken: tuple[str, ...],
    counters: Sequence[str],
    before: Checkpoint | None,
    alike: tuple[str, ...],
) -> Revocation:
    revocations, checkpoints = parts.ledger.revocations, parts.ledger.checkpoints
    tainted = revocations.datasets()
    serving = checkpoints.serving()
    then, now = (each.name if each else "base" for each in (before, serving))
    is_tainted = serving is not None and serving.status == "tainted"
    closed = tuple(library.closed)
    return Revocation(
        reason=reason,
        memories=revoked,
        quarantined=doubtful,
        trajectories=taken,
        counters=tuple(counters),
        rows=sum(tainted.values()),
        datasets=tuple(sorted(tainted)),
        checkpoints=tuple(c.name for c in checkpoints.list("tainted")),
        to_look_at=revocations.learnt_beside(revoked),
        siblings=revocations.siblings(revoked),
        alike=alike,
        skills=closed,
        serving_before=then,
        serving=now,
        said=_policy_said(then, now, is_tainted, parts.settings.revoke.serving) + _skills_said(closed),
    )


def _policy_said(before: str, now: str, is_tainted: bool, policy: str) -> str:
    if is_tainted:
        near = (
            "the base acts near what was revoked"
            if policy == "aside"
            else "masked by counter-memories where it recalls"
        )
        return (
            f"`{now}` is tainted and serves on, {near} "
            f'([revoke] serving = "{policy}"); `agentkd cycle --recompile` trains a clean one, '
            "`agentkd checkpoints rollback` takes it back at once"
        )
    if now != before:
        return f'`{before}` was tainted and taken back ([revoke] serving = "rollback"); `{now}` serves now'
    return f"`{now}` serves on: it was not made from what was revoked"


def _skills_said(closed: Sequence[str]) -> str:
    if not closed:
        return ""
    named = ", ".join(f"`{name}`" for name in closed)
    return f"; closed to agents: {named} (`agentkd skills export --prune` writes what is left anew)"
