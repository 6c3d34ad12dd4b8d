"""The real data of the suite, fetched once and kept in the cache."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that a copied tree is tested without installation

from agentkd_bfcl.settings import BfclLiveSettings
from agentkd_bfcl.suite import BfclLive

from agentkd.models.source import default_cache_dir, fetch


class Kit:
    """The parts of a kit that the suite asks for."""

    def __init__(self, embedder=None):
        self._embedder = embedder

    def fetch(self, source, sha256=None):
        return fetch(source, cache_dir=default_cache_dir(), sha256=sha256)

    def embedder(self):
        return self._embedder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    settings = BfclLiveSettings()
    return Kit().fetch(settings.source, settings.sha256)


@pytest.fixture(scope="session")
def suite(data_folder) -> BfclLive:
    return BfclLive(data_folder)


@pytest.fixture(scope="session")
def make_kit():
    return Kit
