"""Render a chat template in a process with little time and memory: run by path, with nothing of ours.

`python template_probe.py` reads the template from standard input. It ends with 0 where short conversations
are rendered, or refused by the template, in time; with 3 where a rendering grows without bound. The system
ends it where it takes more processor time or memory than it is given.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ["main"]

SECONDS = 2
"""Processor time for all conversations; an honest template takes milliseconds."""

BYTES = 1 << 30
"""Memory of the process."""

CHARACTERS = 200_000
"""Longest rendering of a conversation of some hundred characters."""

TOO_LONG = 3
"""Exit status for a rendering that grows without bound."""


def main() -> int:
    """Render the probe's conversations; return the exit status."""
    _limit()
    import jinja2

    try:
        template = _environment().from_string(sys.stdin.read())
        for messages, more in _conversations():
            n = 0
            for piece in template.generate(messages=messages, add_generation_prompt=more, **_TOKENS):
                n += len(piece)
                if n > CHARACTERS:
                    return TOO_LONG
    except MemoryError:
        return TOO_LONG
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError):
        return 0  # the real rendering says the same, with the conversation at hand
    return 0


_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "", "unk_token": ""}


def _limit() -> None:
    try:
        import resource
    except ImportError:  # not a Unix: the caller's clock is all there is
        return
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))


def _environment() -> Any:
    """Return an environment like that of transformers."""
    from datetime import datetime

    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}`: what is inside stands as it is."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            """Return the block's body."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _conversations() -> Iterator[tuple[list[dict[str, str]], bool]]:
    user, system = {"role": "user", "content": "Where is it?"}, {"role": "system", "content": "Be brief."}
    said = {"role": "assistant", "content": "On its way."}
    for messages in ([user], [user, said, user], [system, user], [user, said] * 4):
        yield messages, True
        yield messages, False


if __name__ == "__main__":
    sys.exit(main())
