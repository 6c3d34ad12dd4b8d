"""The error tree: one class per thing a caller can do about it.

::

    AgentkdError                 anything agentkd raises on purpose            exit 1
    ├── ConfigError              a setting or argument is wrong (ValueError)   exit 2
    ├── DataError                input data is malformed (ValueError)          exit 3
    ├── PluginError              a plugin failed, named (RuntimeError)         exit 4
    ├── StoreError               ledger, index or disk trouble (OSError)       exit 5
    │   └── LockedError          another process owns the resource             exit 5
    ├── NotFoundError            an id or name is unknown (LookupError)        exit 6
    ├── ModelError               a model could not be loaded or reached        exit 7
    │   └── BudgetError          a ceiling on tokens, calls or money was met   exit 7
    ├── MissingExtraError        an optional package is absent (ImportError)   exit 8
    ├── CheckpointError          an adapter is corrupt or not safe (ValueError) exit 9
    ├── TrainError               training cannot start or diverged             exit 10
    └── CeilingError             a cycle met its ceiling; what is done is kept exit 11

Every message says what happened (identifiers in backticks), and ``hint`` says what to do next.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any, ClassVar

__all__ = [
    "AgentkdError",
    "BudgetError",
    "CeilingError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "LockedError",
    "MissingExtraError",
    "ModelError",
    "NotFoundError",
    "PluginError",
    "StoreError",
    "TrainError",
    "of_the_disk",
    "of_the_system",
    "system_code",
]

_IN_TEXT = re.compile(r"\(os error (\d+)\)")


class AgentkdError(Exception):
    """Carry what happened, what to do next (`hint`) and machine-readable `context`."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(AgentkdError, ValueError):
    """A setting, argument or component name is wrong."""

    exit_code = 2


class DataError(AgentkdError, ValueError):
    """Input data is malformed; `context` holds `path` and `line` where known."""

    exit_code = 3


class PluginError(AgentkdError, RuntimeError):
    """A plugin or one of its components failed; `context["plugin"]` names it."""

    exit_code = 4


class StoreError(AgentkdError, OSError):
    """The ledger, the index or the disk refused; nothing was half-written."""

    exit_code = 5


def system_code(error: BaseException) -> int | None:
    """Return the system's number of an error (`errno`); libraries in Rust have it in their text alone."""
    if isinstance(error, OSError):
        return error.errno
    code = _IN_TEXT.search(str(error))
    return int(code[1]) if code else None


def of_the_disk(error: BaseException) -> StoreError | None:
    """Return what a full or failing disk is called, with the file where it is known; None for all else."""
    code = system_code(error)
    if code not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return None
    file = getattr(error, "filename", None)
    where = f" while writing `{file}`" if file else ""
    if code == errno.EIO:
        return StoreError(
            f"the disk failed{where}: {os.strerror(code)}", hint="see to it and run the same command again"
        )
    return StoreError(f"disk full{where}", hint="free some space and run the same command again")


def of_the_system(error: BaseException) -> StoreError | None:
    """Return what the system refused: a disk by its trouble, all else in its words; None for other errors."""
    return of_the_disk(error) or (StoreError(str(error)) if isinstance(error, OSError) else None)


class LockedError(StoreError):
    """Another live process owns the resource; `context["owner"]` says which."""


class NotFoundError(AgentkdError, LookupError):
    """No such id, name, suite or checkpoint."""

    exit_code = 6


class ModelError(AgentkdError, RuntimeError):
    """A model could not be loaded, reached or understood."""

    exit_code = 7


class BudgetError(ModelError):
    """A ceiling on tokens, calls or money would be passed; checked before the call."""


class MissingExtraError(AgentkdError, ImportError):
    """An optional package is not installed; the hint gives the pip command."""

    exit_code = 8

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingExtraError:
        """Say that `purpose` needs `package`, which the extra `extra` brings."""
        return cls(
            f"{purpose} needs the package `{package}`, which is not installed",
            hint=f"pip install 'agentkd[{extra}]'",
            package=package,
            extra=extra,
        )


class CheckpointError(AgentkdError, ValueError):
    """An adapter is corrupt, tampered with, unsafe, or does not fit its base."""

    exit_code = 9


class TrainError(AgentkdError, RuntimeError):
    """Training cannot start (nothing to learn from) or produced a non-finite loss."""

    exit_code = 10


class CeilingError(AgentkdError, RuntimeError):
    """A ceiling of a cycle was met, or somebody asked it to stop: it goes on later from what is done."""

    exit_code = 11
