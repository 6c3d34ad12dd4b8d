"""Ablation: which tasks are done by the prompt, by memories in the context, by the weights."""

from __future__ import annotations

from collections import Counter

from agentkd.protocols import Comparison, Kit
from agentkd.schema import Diagnosis, Evaluation

__all__ = ["Ablation"]

ARMS = ("base", "base + memory", "student", "student + memory")


class Ablation:
    """Memory, prompt and weights per task: who does it, and what each adds on average (Shapley value)."""

    name = "ablation"

    def evaluate(self, comparison: Comparison, kit: Kit) -> Diagnosis:
        """Compare the four arms task by task; needs all of them in `[evaluate] arms`."""
        done = _done(comparison.evaluation)
        if not done:
            note = f"It needs the arms {', '.join(f'`{arm}`' for arm in ARMS)}."
            return Diagnosis(evaluator=self.name, notes=(note,))
        n, cases = len(done), Counter(_case(pattern) for pattern in done.values())
        mean = [sum(pattern[place] for pattern in done.values()) / n for place in range(len(ARMS))]
        prompt, memory_only, weights_only, both = mean
        memory = ((memory_only - prompt) + (both - weights_only)) / 2
        weights = ((weights_only - prompt) + (both - memory_only)) / 2
        metrics = {"prompt": prompt, "memory": memory, "weights": weights, "n": float(n)}
        return Diagnosis(
            evaluator=self.name,
            metrics={**metrics, **{f"tasks: {case}": float(count) for case, count in sorted(cases.items())}},
            notes=(
                f"Of {n} tasks the bare prompt does {prompt:.3f}; memories in the context add {memory:+.3f} "
                f"and the weights {weights:+.3f} (mean over both orders).",
            ),
            columns=("task", *ARMS, "by"),
            rows=tuple(
                (task, *("yes" if one else "no" for one in pattern), _case(pattern))
                for task, pattern in sorted(done.items())
            ),
        )


def _done(evaluation: Evaluation) -> dict[str, tuple[bool, ...]]:
    """Return per task whether each of the four arms did it; empty where one is missing."""
    arms = {arm.name: {r.task_id: r.success for r in arm.results} for arm in evaluation.arms}
    if not all(name in arms for name in ARMS):
        return {}
    return {task: tuple(arms[name][task] for name in ARMS) for task in arms[ARMS[0]]}


def _case(pattern: tuple[bool, ...]) -> str:
    """Name what it takes to do a task."""
    prompt, memory, weights, both = pattern
    if prompt:
        return "prompt" if weights else "prompt, lost by the weights"
    if memory and weights:
        return "memory or weights"
    if memory or weights:
        return "memory alone" if memory else "weights alone"
    return "only together" if both else "none"
