"""A real ledger and store; the hashing embedder, so that similarity is word overlap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentkd.config import MemorySettings
from agentkd.embedders import HashingEmbedder
from agentkd.ledger import Ledger
from agentkd.memory import ExactIndex, MemoryStore
from agentkd.plugins import PluginHost
from agentkd.schema import Scope


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.db") as opened:
        yield opened


@pytest.fixture
def store(ledger: Ledger) -> Iterator[MemoryStore]:
    settings = MemorySettings(min_score=0.05, merge_above=0.92, scope=Scope(tenant="acme"))
    with MemoryStore(
        ledger, ExactIndex(), HashingEmbedder(), settings, PluginHost(auto=False).hooks
    ) as opened:
        yield opened
