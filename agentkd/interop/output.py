"""Write a file as a whole: aside, flushed, then in place."""

from __future__ import annotations

from pathlib import Path

from agentkd.errors import ConfigError, StoreError
from agentkd.files import write_whole

__all__ = ["write_file"]


def write_file(path: Path, data: bytes, *, replace: bool = False) -> Path:
    """Write `data` to `path` and return it; ConfigError where the file exists and `replace` is False."""
    if path.exists() and not replace:
        hint = "choose another name, or replace it with `--force`"
        raise ConfigError(f"`{path}` exists already", hint=hint, path=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise StoreError(f"`{path}` cannot be written: {error.strerror}", path=str(path)) from error
    return path
