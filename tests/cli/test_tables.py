"""Tables fit the terminal: ids and words stay whole, and nothing is left out in a narrow one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from agentkd.cli.render import print_facts, print_table

ID = "mem-374f2d2de44c5ae48844"
LESSON = "When a user requests stock information and a watchlist: add the symbol after its price is known"
MEMORIES = (
    ["id", "kind", "status", "support", "wins", "lesson"],
    [(ID, "contrast", "quarantined", 0, "0/0", LESSON), (ID[::-1], "case", "active", 1_200, "3/4", LESSON)],
)
EVENTS = (
    ["event", "when (UTC)", "id", "what", "checkpoint", "why"],
    [(4, "2026-12-02 23:37:39", ID, "quarantined", "", "person: this was wrong because of the policy")],
)
RUNS = (
    ["run", "suite", "finished", "succeeded", "corrections per task", "started (UTC)"],
    [("run-6c1cd4c6f722dec4a55a", "tau-airline", "100/100", 43, "0.00", "2026-12-02 23:54")],
)


def printed(width: int, columns: list[str], rows: list[tuple[object, ...]], *, is_terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=is_terminal, color_system=None, highlight=False)
    print_table(console, columns, rows)
    return file.getvalue()


@pytest.mark.parametrize("width", [120, 100, 80, 72, 60, 40])
@pytest.mark.parametrize("table", [MEMORIES, EVENTS, RUNS], ids=["memories", "events", "runs"])
def test_no_terminal_is_too_narrow_for_whole_words(
    table: tuple[list[str], list[tuple[object, ...]]], width: int
) -> None:
    text = printed(width, *table, is_terminal=True)
    words = text.split()
    for row in table[1]:
        for cell in row:
            shown = f"{cell:,}" if isinstance(cell, int) else str(cell)
            assert set(shown.split()) <= set(words)
    assert max(map(len, text.splitlines())) <= width


def test_a_free_text_is_never_a_column_of_syllables() -> None:
    lines = printed(80, *EVENTS, is_terminal=True).splitlines()
    assert len(lines) <= 5
    assert lines[0].split() == ["event", "when", "(UTC)", "id", "what", "why"]  # no event names a checkpoint


def test_a_very_narrow_terminal_shows_a_field_per_line() -> None:
    lines = printed(40, *MEMORIES, is_terminal=True).splitlines()
    assert lines[0].split() == ["id", ID]
    assert lines[1].split() == ["kind", "contrast"]
    assert ["support", "1,200"] in [line.split() for line in lines]


def test_a_long_word_of_a_text_folds_before_the_table_is_given_up() -> None:
    columns = ["kind", "plugin", "status", "options"]
    names = "a_very_long_name_of_an_option, and_another_one_of_it"
    lines = printed(50, columns, [("embedder", "builtins", "loaded", names)], is_terminal=True).splitlines()
    assert lines[0].split() == columns
    lines = printed(
        50, columns, [("embedder", "builtins", "loaded", f"see `{ID}`, please")], is_terminal=True
    ).splitlines()
    assert ID in "\n".join(lines)


def test_a_pipe_gets_a_line_per_row_whatever_its_width() -> None:
    lines = printed(200, *MEMORIES, is_terminal=False).splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:5] == [ID, "contrast", "quarantined", "0", "0/0"]
    assert len(printed(200, *EVENTS, is_terminal=False).splitlines()) == 2


def test_long_names_of_facts_fold_before_an_id_does() -> None:
    file = io.StringIO()
    console = Console(file=file, width=40, force_terminal=True, color_system=None)
    print_facts(console, [("left of the same runs", ID), ("empty", "")])
    assert ID in file.getvalue()
    assert "empty" not in file.getvalue()
