"""Does a synthesizer keep its promise? Items that rest on its seeds, within the budget, always the same."""

from __future__ import annotations

from collections.abc import Sequence

from agentkd.evaluate import make_student_report
from agentkd.protocols import Model, Synthesizer
from agentkd.schema import Budget, Outcome, StudentReport, Synthetic, ToolCall, Trajectory, Unusable
from agentkd.testing.checks.claim import claim
from agentkd.testing.trajectory import example_trajectory

__all__ = ["check_synthesizer"]

_REQUESTS = ("Book a table for two at eight.", "Book a table for six at noon.", "Is there a table for four?")


def check_synthesizer(synthesizer: Synthesizer, teacher: Model, *, min_items: int = 1) -> None:
    """Check that `synthesizer` keeps `protocols.Synthesizer` on three runs, of which two went wrong.

    Args:
        synthesizer: The synthesizer.
        teacher: Who answers; it must answer the same question in the same way.
        min_items: Items that it must at least give for a budget of four.
    """
    seeds = [_seed(request, success=number == 0) for number, request in enumerate(_REQUESTS)]
    report = make_student_report(seeds, suite="fake", split="train")
    claim(isinstance(synthesizer.name, str) and synthesizer.name, "`name` is empty")
    claim(not _written(synthesizer, teacher, [], report, 4), "there was no seed, and yet an item came out")
    claim(
        not _written(synthesizer, teacher, seeds, report, 0), "the budget was 0 items, and yet one came out"
    )
    items = _written(synthesizer, teacher, seeds, report, 4)
    claim(min_items <= len(items) <= 4, f"expected {min_items} to 4 items, got {len(items)}")
    for item in items:
        claim(item.synthesizer == synthesizer.name, f"an item names the synthesizer `{item.synthesizer}`")
        claim(item.teacher == teacher.name, f"an item names the teacher `{item.teacher}`")
        claim(item.seed in {seed.id for seed in seeds}, f"an item names the seed `{item.seed}`: not given")
        claim(item.report in ("", report.id), f"an item names the report `{item.report}`: not given")
        claim(bool(item.calls or item.answer.strip()), "an item has neither a call nor an answer")
    again = _written(synthesizer, teacher, seeds, report, 4)
    claim([i.id for i in again] == [i.id for i in items], "the same arguments gave other items")


def _seed(request: str, *, success: bool) -> Trajectory:
    run = example_trajectory(request, success=success)
    expected = ToolCall(name="book_table", arguments={"people": len(request)})
    return run.model_copy(update={"outcome": Outcome(success=success, expected=(expected,))})


def _written(
    synthesizer: Synthesizer, teacher: Model, seeds: Sequence[Trajectory], report: StudentReport, n: int
) -> list[Synthetic]:
    found = list(synthesizer.synthesize(seeds, teacher, report, {}, Budget(items=n)))
    strangers = [type(one).__name__ for one in found if not isinstance(one, (Synthetic, Unusable))]
    claim(not strangers, f"`synthesize` must yield Synthetic or Unusable values, not {strangers}")
    return [one for one in found if isinstance(one, Synthetic)]
