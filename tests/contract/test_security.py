"""SECURITY.md covers every threat, and every file that it names is there."""

from __future__ import annotations

import re

from .conftest import ROOT

TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
ROWS = [line.split("|") for line in TEXT.splitlines() if re.match(r"\| \d+ \|", line)]
PATH = re.compile(r"`((?:agentkd|tests|benchmarks)/[\w./]+\.py|requirements\.lock)`")


def test_there_are_twenty_threats_each_with_a_place_and_a_test() -> None:
    assert [int(row[1]) for row in ROWS] == list(range(1, 21))
    for row in ROWS:
        assert PATH.search(row[4]), row[1]
        assert PATH.search(row[5]), row[1]


def test_every_file_that_is_named_exists() -> None:
    named = set(PATH.findall(TEXT))
    assert len(named) > 40
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []
