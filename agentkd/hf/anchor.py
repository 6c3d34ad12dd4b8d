"""The anchor: general texts that no training sees, and how far an adapter has moved its base on them.

An adapter that learnt its tasks at the price of plain language shows here, whatever its tasks say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["REPLIES", "TEXTS", "Anchors", "anchor_rows", "log_probs", "measure_anchors"]

TEXTS = (
    "The river rises in the hills north of the town and runs south for about forty miles before it meets "
    "the sea. In spring, when the snow melts, the water floods the meadows on both banks, and farmers move "
    "their sheep to higher ground.",
    "To make bread, mix flour, water, salt and yeast, knead the dough for ten minutes, and let it rise in a "
    "warm place until it has doubled in size. Then bake it in a hot oven for half an hour.",
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "In 1969, two astronauts walked on the Moon for the first time while a third stayed in orbit. Millions "
    "of people watched the landing on television.",
    "A prime number is a whole number greater than one that has no divisors other than one and itself. There "
    "are infinitely many of them, as Euclid showed more than two thousand years ago.",
    "She closed the door quietly behind her and stood for a moment in the dark hall, listening. Somewhere "
    "upstairs a clock was ticking, and the rain had begun to fall again.",
    "Copper conducts electricity well, which is why it is used for wires. It is also soft, so that it can be "
    "drawn out thin without breaking, and it does not rust as iron does.",
    "The committee met on Tuesday to discuss the budget for the coming year. After two hours the members "
    "agreed to spend less on travel and more on repairs to the old school building.",
)
"""Running text: every token counts."""

REPLIES = (
    ("What is the capital of France?", "The capital of France is Paris."),
    (
        "Give me three tips for better sleep.",
        "1. Go to bed at the same time every night.\n2. Keep your room dark and cool.\n"
        "3. Avoid coffee in the evening.",
    ),
    (
        "Write a short thank-you note to a teacher.",
        "Dear teacher,\n\nThank you for your patience and for everything you taught me this year. I will "
        "remember your lessons for a long time.\n\nBest wishes",
    ),
    ("What is 15 + 27?", "15 + 27 = 42."),
    (
        "How does a refrigerator work?",
        "A refrigerator moves heat from its inside to its outside. A liquid evaporates in pipes inside, "
        "which takes up heat, and is pressed together and cooled again at the back.",
    ),
    ("Who painted the Mona Lisa?", "The Mona Lisa was painted by Leonardo da Vinci."),
    (
        "Can you recommend a book for a long flight?",
        "Of course! If you like adventure, try Treasure Island by Robert Louis Stevenson. It is exciting and "
        "easy to read in one go.",
    ),
    ("Turn this into a question: The shop opens at nine.", "Does the shop open at nine?"),
    (
        "Why do we have leap years?",
        "The Earth needs a little more than 365 days to go around the Sun, so one day is added every four "
        "years to keep the calendar in step with the seasons.",
    ),
    ("Name two programming languages.", "Two programming languages are Python and Java."),
)
"""A person's request and a reply: the reply counts."""


class Anchors(NamedTuple):
    """What base and student say to the anchor texts, in nats per token."""

    base: float
    """Mean cross-entropy of the base."""
    student: float
    """Mean cross-entropy of the base with the adapter."""
    kl: float
    """Mean KL(base || student)."""
    n_tokens: int
    """Tokens that count."""

    @property
    def change(self) -> float:
        """Relative change of the cross-entropy: 0.01 is one per cent worse than the base."""
        return self.student / self.base - 1


def measure_anchors(base: str | Path, adapter: str | Path) -> Anchors:
    """Measure an adapter on the anchor texts: one float32 pass of the base and one with the adapter.

    Raises ModelError or CheckpointError where a folder does not hold what it should.
    """
    import torch

    from agentkd import hf

    rows = anchor_rows(hf.load_tokenizer(base))
    model: Any = hf.attach_adapter(hf.load_model(base, dtype="float32"), adapter)
    sums = torch.zeros(3, dtype=torch.float64)
    n_tokens = 0
    with torch.inference_mode():
        for ids, first in rows:
            tokens = torch.tensor([ids], device=model.device)
            log_q = log_probs(model, tokens, first)
            with model.disable_adapter():
                log_p = log_probs(model, tokens, first)
            said = tokens[0, first:, None]
            kl = (log_p.exp() * (log_p - log_q)).sum(-1)
            parts = (-log_p.gather(-1, said), -log_q.gather(-1, said), kl)
            sums += torch.stack([part.sum().double().cpu() for part in parts])
            n_tokens += len(ids) - first
    of_base, of_student, kl_sum = (sums / n_tokens).tolist()
    return Anchors(of_base, of_student, kl_sum, n_tokens)


def log_probs(model: Any, tokens: Any, first: int) -> Any:
    """Return the log-probabilities `[time - first, vocabulary]` with which a model expects what counts."""
    return model(tokens).logits[0, first - 1 : -1].float().log_softmax(-1)


def anchor_rows(tokenizer: Any) -> list[tuple[list[int], int]]:
    """Return the token ids of every text with the place of the first token that counts."""
    from agentkd.hf.render import render_example
    from agentkd.schema import Message

    rows = [(list(tokenizer(text, add_special_tokens=False).input_ids), 1) for text in TEXTS]
    for request, reply in REPLIES:
        asked = [Message(role="user", content=request)]
        rendered = render_example(tokenizer, asked, Message(role="assistant", content=reply))
        rows.append((list(rendered.ids), next(t for t, weight in enumerate(rendered.weights) if weight)))
    return rows
