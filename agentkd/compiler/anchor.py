"""Anchor rows: what the base answers to everyday requests, so that learning costs no plain language.

The base's own answers are the target, and where an objective asks for a teacher the base itself is that
teacher, on the same prompt: nothing is taught that the base would not say, and only drift costs anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources

from agentkd.compiler.render import RowRefused, RowRenderer
from agentkd.schema import Example, Message, Provenance

__all__ = ["anchor_requests", "anchor_rows"]


def anchor_requests(n: int) -> list[str]:
    """Return the first `n` of the everyday requests, or all where there are fewer."""
    text = resources.files("agentkd.compiler").joinpath("anchors.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line][:n]


def anchor_rows(
    answers: Sequence[tuple[str, str]], renderer: RowRenderer, *, need_teacher: bool, base_id: str
) -> Iterator[Example]:
    """Yield a row for each (request, answer of the base); their ids are left empty.

    Empty answers and rows that are refused are left out: an anchor is no loss.
    """
    for number, (request, answer) in enumerate(answers):
        view, target = (Message(role="user", content=request),), Message(role="assistant", content=answer)
        try:
            rendered = renderer.render(view, target)
        except RowRefused:
            continue
        yield Example(
            id="",
            kind="anchor",
            task_id=f"anchor/{number}",
            group=f"anchor-{number}",
            student_view=view,
            teacher_view=view if need_teacher else (),
            target=target,
            student=rendered,
            teacher=rendered if need_teacher else None,
            provenance=Provenance(teacher="base", base=base_id),
        )
