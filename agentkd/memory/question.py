"""Ask a model about memories: a structured answer, one repair, and no question twice.

Answers are kept on disk by the content of the question, so that a refiner that runs again asks nothing
again, also where the answer was no or could not be used. The folder may be deleted at any time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from agentkd.errors import BudgetError, ConfigError, ModelError
from agentkd.files import write_whole
from agentkd.protocols import Kit, Model
from agentkd.schema import Message, content_id

__all__ = ["Asking", "filled"]

A = TypeVar("A", bound=BaseModel)
_SLOT = re.compile(r"\{\{(\w+)\}\}")


class Asking:
    """Asks a model on behalf of one refiner and collects what went wrong."""

    def __init__(
        self, name: str, kit: Kit, prompts: str = "", max_new_tokens: int = 500, *, model: str = "distiller"
    ) -> None:
        """Prepare to ask; raises ConfigError where no model plays the role.

        Args:
            name: Name of the refiner and of its prompt file.
            kit: Gives the model and the folder of the answers.
            prompts: Folder with own prompt files.
            max_new_tokens: Longest answer.
            model: Role or model string of the model that is asked.
        """
        self.name = name
        self.failures: list[str] = []
        self.n_asked = 0
        """Questions that the model was asked; what it had answered before costs nothing."""
        self._model: Model = kit.model(model)
        self._kit = kit
        self._prompts = prompts
        self._max_new_tokens = max_new_tokens
        self._folder = kit.cache_dir / "answers"

    @property
    def model_name(self) -> str:
        """Name of the model that is asked."""
        return self._model.name

    def ask(
        self, about: Sequence[str], slots: Mapping[str, str], shape: type[A], check: Callable[[A], None]
    ) -> A | None:
        """Return the answer, or None for one that could not be used; that is said and kept in `failures`.

        `check` raises ValueError with words that a model can act upon.
        """
        messages = filled(_prompt(self.name, self._prompts), slots)
        place = self._folder / f"{content_id('ans', self._model.name, messages, shape.__name__)}.json"
        known = _read(place)
        self.n_asked += known is None
        try:
            said = known if known is not None else self._fresh(messages, shape, check)
        except BudgetError:
            raise
        except ModelError as error:
            self._fail(about, f"the model failed: {error}")
            return None
        if known is None:
            _keep(place, said)
        if "error" in said:
            self._fail(about, said["error"])
            return None
        return shape.model_validate_json(said["text"])

    def _fresh(
        self, messages: Sequence[Message], shape: type[A], check: Callable[[A], None]
    ) -> dict[str, str]:
        asked, reason = list(messages), ""
        for is_repair in (False, True):
            reply = self._model.reply(
                asked,
                schema=shape.model_json_schema(),
                max_new_tokens=self._max_new_tokens,
                temperature=0.0,
                purpose=f"refine:{self.name}",
            )
            try:
                answer = shape.model_validate_json(_bare(reply.text))
                check(answer)
                return {"text": answer.model_dump_json()}
            except ValueError as error:
                reason = _explain(error)
            if not is_repair:
                complaint = filled(_prompt("repair", self._prompts), {"error": reason})
                asked = [*asked, Message(role="assistant", content=reply.text, origin="model"), *complaint]
        return {"error": reason}

    def _fail(self, about: Sequence[str], reason: str) -> None:
        line = f"{self.name}: {', '.join(about)}: {reason}"
        self.failures.append(line)
        self._kit.progress.say(line)


def filled(prompt: str, slots: Mapping[str, str]) -> list[Message]:
    """Return the messages of a prompt: a system part, a line `---`, a user part; slots hold data only."""
    clean = {name: text.replace("</", "< /") for name, text in slots.items()}
    missing = set(_SLOT.findall(prompt)) - set(clean)
    if missing:
        raise ConfigError(
            f"a prompt has the unknown slot `{min(missing)}`", hint=f"known: {', '.join(sorted(clean))}"
        )
    system, line, user = prompt.partition("\n---\n")
    parts = [("system", system), ("user", user)] if line else [("user", system)]
    return [
        Message(
            role="system" if role == "system" else "user",
            content=_SLOT.sub(lambda match: clean[match[1]], text).strip(),
            origin="system",
        )
        for role, text in parts
    ]


def _prompt(name: str, folder: str) -> str:
    own = Path(folder).expanduser() / f"{name}.md"
    if folder and own.is_file():
        return own.read_text(encoding="utf-8")
    return (resources.files("agentkd.memory") / "prompts" / f"{name}.md").read_text(encoding="utf-8")


def _bare(text: str) -> str:
    """Return what stands in a Markdown fence where the whole answer is one."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text.partition("\n")[2][:-3]
    return text


def _explain(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
    return str(error)


def _read(place: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and ("text" in found or "error" in found) else None


def _keep(place: Path, said: Mapping[str, str]) -> None:
    """Write an answer aside and move it into place; a disk that refuses costs a question, not the run."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, json.dumps(said), lasting=False)
    except OSError:
        return
