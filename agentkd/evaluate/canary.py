"""Canaries: secrets that stand in training rows all the same, and whether the student can say them.

Secrets are redacted before anything is stored, so rows hold none. Where they do (an older ledger, a dataset
from elsewhere, a detector that was added since) what a student may have learnt by heart must not serve.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentkd.protocols import Comparison, Kit
from agentkd.schema import Diagnosis, Example

__all__ = ["Canary", "secrets_in"]


class Canary:
    """Secrets in the rows that a candidate was trained on."""

    name = "canary"

    def evaluate(self, comparison: Comparison, kit: Kit) -> Diagnosis:
        """Flag a candidate whose training rows hold a secret; no model is asked."""
        found = list(secrets_in(comparison.rows("train")))
        rows = dict.fromkeys(row for row, _ in found)
        kinds = ", ".join(sorted({kind for _, kind in found}))
        told = (
            f"{len(rows)} training rows hold secrets ({kinds}), such as `{next(iter(rows))}`." if rows else ""
        )
        return Diagnosis(
            evaluator=self.name,
            metrics={"secret_rows": float(len(rows))},
            flags=("secret_rows",) if rows else (),
            notes=(told or "No training row holds a secret.",),
        )


def secrets_in(rows: Iterable[Example]) -> Iterator[tuple[str, str]]:
    """Yield (id of the row, kind of the secret) for every secret in what rows say."""
    from agentkd.ledger.secret import find_secrets, may_hold

    for row in rows:
        told = [*row.student_view, *row.teacher_view, row.target, *([row.rejected] if row.rejected else [])]
        for text in dict.fromkeys(message.content for message in told):
            if may_hold(text):
                yield from ((row.id, kind) for _, _, kind in find_secrets(text))
