"""What the base answers to everyday requests: asked once per base, kept in the workspace."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentkd.cycle.parts import Parts
from agentkd.schema import Message

__all__ = ["anchor_answers"]

_MAX_NEW_TOKENS = 64


def anchor_answers(parts: Parts) -> list[tuple[str, str]]:
    """Return `[compile] anchors` everyday requests with the base's greedy answers; none for 0.

    Raises ModelError where the base does not answer.
    """
    from agentkd.compiler import anchor_requests
    from agentkd.cycle.report import write_whole  # which knows the stages

    requests = anchor_requests(parts.settings.compile.anchors)
    if not requests:
        return []
    file = parts.root / "anchors" / f"{parts.student_files.base_id.rpartition(':')[2][:16]}.json"
    known = _read(file)
    missing = [request for request in requests if request not in known]
    if missing:
        known |= _ask(parts, missing)
        file.parent.mkdir(exist_ok=True)
        write_whole(file, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    return [(request, known[request]) for request in requests]


def _read(file: Path) -> dict[str, str]:
    try:
        return {str(k): str(v) for k, v in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _ask(parts: Parts, requests: list[str]) -> dict[str, str]:
    model = parts.model("base")

    def answer(request: str) -> str:
        said = [Message(role="user", content=request)]
        reply = model.reply(said, max_new_tokens=_MAX_NEW_TOKENS, temperature=0.0, purpose="anchors")
        bar.advance()
        return reply.text.strip()

    with parts.progress.bar("the base answers everyday requests", len(requests), "requests") as bar:
        with ThreadPoolExecutor(parts.settings.models.batch_size) as pool:
            return dict(zip(requests, pool.map(answer, requests), strict=True))
