"""What the contract tests share: the source files of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def sources() -> dict[str, str]:
    """Return the text of every module of the package and of the first-party plugins, by path."""
    folders = [ROOT / "agentkd", *sorted(ROOT.glob("plugins/*/agentkd_*"))]
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
    }
