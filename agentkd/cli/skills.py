"""`agentkd skills`: the skills that agents may open, skills from archives, and skills made of memories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_table, shortened
from agentkd.cli.shared import Group

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.interop import Topic
    from agentkd.skills import Skill
    from agentkd.workspace import Workspace

__all__ = ["command"]

_TAKEN_BACK = ("quarantined", "tombstone", "revoked")


@click.group("skills", cls=Group)
def command() -> None:
    """List skills, add skills from archives, and make skills of strong memories."""


@command.command("list")
@pass_invocation
def list_(invocation: Invocation) -> int:
    """List the skills that agents of this workspace may open.

    Exit code 1 where a skill teaches a memory that was taken back since: export the skills anew. What
    teaches a revoked memory is listed too, but no agent opens it.
    """
    with invocation.workspace() as workspace:
        rows = [_row(skill, workspace) for skill in workspace.parts.skills().skills]
    invocation.show(rows, _print_rows)
    stale = [row["name"] for row in rows if row["taken_back"]]
    if stale:
        invocation.note(
            f"{', '.join(stale)}: teaches what was taken back; run `agentkd skills export --prune`"
        )
    return int(bool(stale))


@command.command("add")
@click.argument("archive", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--sha256", default="", help="Hash that the file must have.")
@click.option("--replace", is_flag=True, help="Take the place of skills with the same names.")
@pass_invocation
def add(invocation: Invocation, archive: Path, sha256: str, replace: bool) -> None:
    """Take skills from a zip or tar ARCHIVE into the workspace's `skills`.

    Every entry is checked before one is written: no links, no paths that lead elsewhere, limits on number,
    size and depth. A skill is text that agents may read: nothing of it is run, and it grants no tools.
    """
    from agentkd.skills import install_skills

    with invocation.workspace() as workspace:
        folder = workspace.root / "skills"
    digest, skills = install_skills(archive, folder, sha256=sha256, replace=replace)
    rows = [{"name": s.name, "description": s.description, "n_memories": 0, "taken_back": []} for s in skills]
    invocation.show(rows, _print_rows)
    invocation.note(f"sha256 {digest}")


@command.command("export")
@click.argument("out", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--topic-min", type=click.IntRange(min=1), default=3, show_default=True,
              help="Fewest memories of a topic.")  # fmt: skip
@click.option("--alike", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="Average similarity of situations that makes them one topic.")  # fmt: skip
@click.option("--min-support", type=click.IntRange(min=0), default=2, show_default=True,
              help="Fewest trajectories behind a memory, unless its lift is credibly positive.")  # fmt: skip
@click.option("--min-confidence", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.option(
    "--kind", "kinds", multiple=True, help="Kinds to take; repeatable [default: all that are general]."
)
@click.option("--prune", is_flag=True, help="Remove skills exported before whose topic is gone.")
@click.option("--dry-run", is_flag=True, help="Show the topics, write nothing.")
@pass_invocation
def export(
    invocation: Invocation, out: Path | None, topic_min: int, alike: float, min_support: int,
    min_confidence: float, kinds: tuple[str, ...], prune: bool, dry_run: bool,
) -> int:  # fmt: skip
    """Write a skill for every topic of strong memories below OUT.

    OUT defaults to the workspace's `skills`, where its agents find them. A skill that was exported before
    is replaced; one that was written by hand, or made elsewhere, never is. Private memories, those of other
    tenants and agents than `[memory] scope` names, facts and cases stay out. Exit code 1 where no topic has
    enough strong memories.
    """
    from agentkd.interop import Strength, export_skills, strong_memories, topics_of

    chosen = {"kinds": kinds} if kinds else {}
    strength = Strength(min_support=min_support, min_confidence=min_confidence, **chosen)
    with invocation.workspace() as workspace:
        own = workspace.settings.memory.scope
        strong = strong_memories(workspace.ledger.memories.list(), strength, scope=own)
        topics = topics_of(strong, workspace.parts.embedder(), alike=alike, at_least=topic_min)
        place = out or workspace.root / "skills"
        folders = [] if dry_run else export_skills(topics, place, workspace.ledger, prune=prune)
    invocation.show(topics, _print_topics)
    if folders:
        invocation.note(f"{len(folders)} skills written to {folders[0].parent}")
    if not topics:
        invocation.note(f"of {len(strong)} strong memories no {topic_min} are about one topic")
    return int(not topics)


def _row(skill: Skill, workspace: Workspace) -> dict[str, Any]:
    from agentkd.skills import memory_ids_of

    ids = memory_ids_of(skill)
    found = workspace.ledger.memories.get_many(ids)
    taken_back = [memory.id for memory in found if memory.status in _TAKEN_BACK]
    row = {"name": skill.name, "description": skill.description, "n_memories": len(ids)}
    return {**row, "taken_back": taken_back}


def _print_rows(rows: list[dict[str, Any]], console: Console) -> None:
    cells = [
        (
            row["name"],
            row["n_memories"] or "",
            len(row["taken_back"]) or "",
            shortened(row["description"], 100),
        )
        for row in rows
    ]
    print_table(console, ["skill", "memories", "taken back", "when to use it"], cells, empty="no skills yet")


def _print_topics(topics: list[Topic], console: Console) -> None:
    rows = [(t.name, len(t.memories), shortened(t.description, 90)) for t in topics]
    print_table(console, ["skill", "memories", "description"], rows, empty="no topic")
