"""Parts of a workspace per test; see `graph_parts`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # test files share `graph_parts`

from graph_parts import Parts, open_parts


@pytest.fixture
def make_parts(tmp_path: Path) -> Iterator[Callable[..., Parts]]:
    opened: list[Parts] = []

    def make(*plugins: object, **memory: object) -> Parts:
        opened.append(open_parts(tmp_path / "ledger.db", *plugins, **memory))
        return opened[-1]

    yield make
    for parts in opened:
        parts.memory.close()
        parts.ledger.close()


@pytest.fixture
def parts(make_parts: Callable[..., Parts]) -> Parts:
    return make_parts()
