"""How like the student an exported model answers: the same prompts, position by position.

The student (base and adapter in float32) is asked once; of every position its most likely tokens are kept
with their logits and the normaliser, so that a reader that gives logits and one that gives log-probabilities
are compared with the same record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentkd.schema import Rendered, Value

if TYPE_CHECKING:
    import torch

__all__ = ["PROMPTS", "Answers", "Parity", "answers_of", "compare", "prompts_of"]

N_TOKENS = 256
"""Longest prompt that is compared; of longer ones the end, where the completion is."""

_TOP = 64

PROMPTS: tuple[str, ...] = (
    "The parcel left the warehouse on Tuesday and should arrive before the weekend.",
    "To reset the password, open the settings, choose the account and follow the link in the mail.",
    '{"name": "find_order", "arguments": {"email": "ann@example.com", "limit": 3}}',
    "def mean(values):\n    return sum(values) / len(values)\n",
    "SELECT name, price FROM products WHERE price < 20 ORDER BY price DESC LIMIT 5;",
    "Water boils at 100 degrees Celsius at sea level, and at less than that on a mountain.",
    "User: Which bus goes to the station?\nAssistant: Line 12, every ten minutes until midnight.",
    "The function returns the largest element of a list, or nothing when the list is empty.",
)
"""Texts that an export is compared on where neither a dataset nor a suite is at hand."""


class Parity(Value):
    """How like the student an export answers."""

    reader: str
    """What read the export: `transformers`, `peft`, `llama.cpp`, or `llama.cpp's tokenizer` (the share of
    tokens of the prompts' texts that it has in the same place)."""
    n_prompts: int
    """Prompts that were compared."""
    n_tokens: int
    """Positions that were compared."""
    agreement: float
    """Share of them with the same most likely token."""
    largest: float = 0.0
    """Largest difference of a logit among the student's 64 most likely tokens of a position; of
    log-probabilities, and among its 20, where the reader is llama.cpp."""
    bar: float
    """Least agreement that lets an export through."""
    furthest: float | None = None
    """Largest difference that lets it through; None where only tokens are compared."""

    @property
    def holds(self) -> bool:
        """Whether both bars are reached: logits that are all too large agree on every token."""
        return self.agreement >= self.bar and (self.furthest is None or self.largest <= self.furthest)


@dataclass(frozen=True)
class Answers:
    """What a model said at every position of one prompt."""

    ids: tuple[int, ...]
    """The prompt."""
    top: torch.Tensor
    """Most likely tokens, best first, `[time, k]`."""
    logits: torch.Tensor
    """Their logits, float32 `[time, k]`."""
    norm: torch.Tensor
    """Log of the sum of the exponentials of all logits, `[time]`."""


def prompts_of(rows: Sequence[Rendered], n: int = 32) -> list[tuple[int, ...]]:
    """Return the token ids of the first `n` different rows, the end of those that are too long."""
    found = dict.fromkeys(row.ids[-N_TOKENS:] for row in rows if row.ids)
    return list(found)[:n]


def answers_of(model: Any, prompts: Sequence[tuple[int, ...]]) -> list[Answers]:
    """Ask a model of transformers or peft at every position of the prompts."""
    import torch

    found = []
    with torch.inference_mode():
        for ids in prompts:
            logits = model(input_ids=torch.tensor([ids])).logits[0].float()
            values, top = logits.topk(min(_TOP, logits.shape[-1]), dim=-1)
            found.append(Answers(ids, top, values, logits.logsumexp(-1)))
    return found


def compare(
    wanted: Sequence[Answers], model: Any, *, reader: str, bar: float, furthest: float | None = None
) -> Parity:
    """Ask `model` the same prompts; count where its most likely token is the student's, and how far it is."""
    import torch

    same = n = 0
    largest = 0.0
    with torch.inference_mode():
        for answers in wanted:
            logits = model(input_ids=torch.tensor([answers.ids])).logits[0].float()
            same += int((logits.argmax(-1) == answers.top[:, 0]).sum())
            n += len(logits)
            found = logits.gather(-1, answers.top)
            largest = max(largest, float((found - answers.logits).abs().nan_to_num(float("inf")).max()))
    return Parity(
        reader=reader, n_prompts=len(wanted), n_tokens=n, agreement=same / n, largest=largest, bar=bar,
        furthest=furthest,
    )  # fmt: skip
