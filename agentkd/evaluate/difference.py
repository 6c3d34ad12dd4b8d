"""Model difference: where the candidate says something else on general texts than its base would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from agentkd.protocols import Comparison, Kit
from agentkd.schema import Diagnosis, Value

if TYPE_CHECKING:
    from agentkd.hf import ReplyScorer

__all__ = ["Difference", "DifferenceSettings"]


class DifferenceSettings(Value):
    """Options of the evaluator `difference`."""

    shown: int = Field(default=10, ge=0)
    """Texts that the table shows: those that moved most."""
    min_agreement: float = Field(default=0.0, ge=0.0, le=1.0)
    """Least share of positions with the base's most likely token; 0 flags nothing."""


class Difference:
    """KL and agreement on every anchor text, against the base and against what serves."""

    name = "difference"

    def __init__(self, settings: DifferenceSettings | None = None) -> None:
        self._settings = settings or DifferenceSettings()

    def evaluate(self, comparison: Comparison, kit: Kit) -> Diagnosis:
        """Compare next-token distributions on the anchor texts, text by text."""
        from agentkd.hf import ReplyScorer, anchor_rows

        scorer = ReplyScorer(comparison.base, {"before": comparison.before, "after": comparison.after})
        texts = [_Text(scorer, ids, first) for ids, first in anchor_rows(scorer.tokenizer)]
        n = sum(text.n for text in texts)
        kl, kl_before = sum(t.kl for t in texts) / n, sum(t.kl_before for t in texts) / n
        agreement = sum(text.same for text in texts) / n
        moved = sorted(texts, key=lambda text: -text.kl / text.n)[: self._settings.shown]
        return Diagnosis(
            evaluator=self.name,
            metrics={"kl_to_base": kl, "kl_to_serving": kl_before, "agreement": agreement, "n": float(n)},
            flags=("unlike_base",) if agreement < self._settings.min_agreement else (),
            notes=(
                f"On {n} tokens of general text its most likely token is the base's at {agreement:.1%}; KL "
                f"from the base {kl:.3f} nats a token, from what serves {kl_before:.3f}.",
            ),
            columns=("text", "tokens", "KL to base", "KL to serving", "agreement", "base said", "it says"),
            rows=tuple(text.row() for text in moved),
        )


class _Text:
    """One anchor text under the three models."""

    def __init__(self, scorer: ReplyScorer, ids: list[int], first: int) -> None:
        base, before, after = (scorer.log_probs(ids, first, by) for by in ("", "before", "after"))
        self.n = len(ids) - first
        kl_each = (base.exp() * (base - after)).sum(-1)
        self.kl = float(kl_each.sum())
        self.kl_before = float((before.exp() * (before - after)).sum())
        ours, theirs = after.argmax(-1), base.argmax(-1)
        self.same = int((ours == theirs).sum())
        self._head = scorer.tokenizer.decode(ids[:12])
        place = int(kl_each.argmax())
        self._said = tuple(scorer.tokenizer.decode([int(row[place])]) for row in (theirs, ours))

    def row(self) -> tuple[str, ...]:
        """Return the text as a row of the table; the tokens are those where the two differ most."""
        figures = (f"{self.kl / self.n:.3f}", f"{self.kl_before / self.n:.3f}", f"{self.same / self.n:.1%}")
        return (" ".join(self._head.split()), str(self.n), *figures, *map(repr, self._said))
