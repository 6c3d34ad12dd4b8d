"""Move finished folders of skills in, all of them or none; what they replace goes when all are in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from agentkd.files import left_behind, own_name, put_in_place, sync_folder

__all__ = ["REPLACED", "move_in", "put_back"]

REPLACED = ".replaced-"
"""Begin of the name of the folder that holds what is being replaced. No sweep removes it: where its process
was killed, the next writer puts back what it holds."""


def move_in(scratch: Path, names: Sequence[str], folder: Path) -> None:
    """Move the folders of these names from `scratch` to `folder`; after an error all is as it was before."""
    before = folder / own_name(REPLACED)
    before.mkdir()
    try:
        for name in names:
            if (folder / name).exists():
                put_in_place(folder / name, before / name)
            put_in_place(scratch / name, folder / name)
        os.replace(before, scratch / before.name)
    except BaseException:
        if before.exists():  # else all are in place
            for name in names:
                if not (scratch / name).exists() and (folder / name).exists():
                    os.replace(folder / name, scratch / name)
            _put_back(before, folder)
        raise
    sync_folder(folder)


def put_back(folder: Path) -> None:
    """Put back what a killed writer had moved away; what has another in its place was replaced."""
    for before in left_behind(folder, REPLACED):
        _put_back(before, folder)


def _put_back(before: Path, folder: Path) -> None:
    for old in list(before.glob("*")):
        if not (folder / old.name).exists():
            put_in_place(old, folder / old.name)
    shutil.rmtree(before, ignore_errors=True)
