"""The kill switch: while a file `STOP` lies in a workspace, nothing in it asks a model or runs a tool."""

from __future__ import annotations

from pathlib import Path

from agentkd.errors import CeilingError, StoreError
from agentkd.files import write_whole

__all__ = ["STOP", "StopFile"]

STOP = "STOP"
"""Name of the file; its text is the reason. Any program may make it."""

_MAX_CHARS = 200


class StopFile:
    """The file that stops a workspace; looked for before every call, so that all its processes see it."""

    def __init__(self, root: Path) -> None:
        self.path = root / STOP

    def reason(self) -> str:
        """Return why the workspace is stopped; empty where it is not."""
        try:
            text = self.path.read_bytes()[: 4 * _MAX_CHARS].decode("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError:  # a folder, or a file that may not be read: somebody put it there
            text = ""
        return " ".join(text.split())[:_MAX_CHARS] or f"`{self.path}` exists"

    def asked(self) -> str:
        """Return the reason with the way out, for a message that says who asked; empty where nobody did."""
        reason = self.reason()
        return reason and f"{reason}, until `agentkd stop --off`"

    def check(self) -> None:
        """Raise CeilingError while the workspace is stopped."""
        if reason := self.reason():
            raise CeilingError(
                f"stopped: {reason}",
                hint="what is done is kept; `agentkd stop --off` lets it go on",
                path=str(self.path),
            )

    def set(self, reason: str) -> None:
        """Stop the workspace."""
        try:
            write_whole(self.path, f"{reason or 'somebody asked for it'}\n")
        except OSError as error:
            raise StoreError(f"`{self.path}` cannot be written: {error.strerror}") from error

    def lift(self) -> bool:
        """Let the workspace go on; False where it was not stopped."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"`{self.path}` cannot be removed: {error.strerror}") from error
        return True
