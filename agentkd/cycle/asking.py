"""What the phases of a cycle ask models, such as a distiller's: an answer is on disk before it is used.

A ceiling, or somebody who asks to stop, is heard before each question: what was answered is kept, and the
same command goes on without paying for it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from agentkd.cycle.parts import ROUTED, Parts
from agentkd.ledger.call import CYCLE
from agentkd.protocols import Kit, Model
from agentkd.schema import Reply, content_id

if TYPE_CHECKING:
    from agentkd.models.remembered import Remembered

__all__ = ["asking_kit", "clean_reply", "drop_kept", "kept_folder"]

_ACTING = ("actor", "student", "base", ROUTED)  # what they do is a run, and a run is an item as a whole


def asking_kit(parts: Parts) -> Kit:
    """Return the kit of components that ask models; outside a cycle the parts as they are."""
    return cast(Kit, _Asking(parts)) if parts.meter.occasion.startswith(CYCLE) else parts


def kept_folder(parts: Parts, cycle_id: str) -> Path:
    """Return the folder of a cycle, where its phases keep what they have before they are done."""
    from agentkd.cycle.report import report_folder

    folder = report_folder(parts.root, int(cycle_id.removeprefix(CYCLE)))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def drop_kept(parts: Parts, cycle_id: str) -> None:
    """Remove what the phases of a cycle kept, once all of them are on record as done."""
    folder = kept_folder(parts, cycle_id)
    for file in (*folder.glob("ask-*.jsonl"), *folder.glob("dia-*.json")):
        file.unlink(missing_ok=True)


def clean_reply(parts: Parts) -> Callable[[Reply], Reply]:
    """Return what takes secrets out of a reply before it is on disk."""
    from agentkd.ledger.redact import redact_json

    def clean(reply: Reply) -> Reply:
        said, has_changed = redact_json(reply.model_dump(mode="json"), parts.redact)
        return Reply.model_validate({**said, "tokens": None}) if has_changed else reply

    return clean


class _Asking:
    """The parts, but for models: each remembers what this cycle asked it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._models: dict[str, Remembered] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parts, name)

    def model(self, role: str) -> Model:
        from agentkd.models.remembered import Remembered

        if role in _ACTING or role.startswith("agentkd/"):
            return self._parts.model(role)
        with self._lock:
            if role not in self._models:
                parts, model = self._parts, self._parts.model(role)
                file = kept_folder(parts, parts.meter.occasion) / f"{content_id('ask', role)}.jsonl"
                self._models[role] = Remembered(
                    model, file, check=parts.ceiling.begin, clean=clean_reply(parts)
                )
            return self._models[role]
