"""Write a file as a whole: aside, flushed, then in place."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from agentkd.errors import ConfigError, StoreError

__all__ = ["write_file"]


def write_file(path: Path, data: bytes, *, replace: bool = False) -> Path:
    """Write `data` to `path` and return it; ConfigError where the file exists and `replace` is False."""
    if path.exists() and not replace:
        hint = "choose another name, or replace it with `--force`"
        raise ConfigError(f"`{path}` exists already", hint=hint, path=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".export-", dir=path.parent, delete=False) as file:
            aside = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(aside, path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(f"`{path}` cannot be written: {error.strerror}", path=str(path)) from error
    return path
