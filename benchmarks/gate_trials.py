"""What `gate.py` simulates: noisy twins and weaker students before the gate, and planted leaks."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from agentkd.config import EvaluateSettings, GateSettings
from agentkd.evaluate import Evidence, find_leaks, gate, make_evaluation
from agentkd.evaluate.statistics import wilson
from agentkd.plugins import PluginHost
from agentkd.schema import ArmResult, Evaluation, TaskResult

__all__ = [
    "NOT_BETTER",
    "arm_of",
    "disguises",
    "leaks_found",
    "minhash_found",
    "paired_flags",
    "patient_share",
    "promoted_share",
]

N_TRIALS, N_LOOKS = 200, 10
NOT_BETTER = "not_better_than:"


def promoted_share(
    skill: Sequence[float], gain: float, settings: GateSettings, seed: int, n: int = N_TRIALS
) -> float:
    """Return how often a student is promoted over what serves, both drawn anew in each of `n` trials.

    Args:
        skill: Probability with which what serves does each task.
        gain: Added to it for the student, on average over the tasks; 0 is a noisy twin.
        settings: Of the gate.
        seed: Seed of the draws.
        n: Trials.
    """
    dice = np.random.default_rng(seed)
    host = PluginHost(auto=False)
    promoted = 0
    for _ in range(n):
        evaluation = _trial(dice, np.asarray(skill), gain)
        promoted += gate(evaluation, settings, "student@0-twin", host.hooks, Evidence()).promote
    return promoted / n


def patient_share(skill: Sequence[float], settings: GateSettings, seed: int, n: int = N_TRIALS) -> float:
    """Return how often one of ten noisy twins in a row is promoted."""
    dice = np.random.default_rng(seed)
    host = PluginHost(auto=False)
    promoted = 0
    for _ in range(n):
        looks = (
            gate(
                _trial(dice, np.asarray(skill), 0.0), settings, "student@0-twin", host.hooks, Evidence(look=k)
            )
            for k in range(1, N_LOOKS + 1)
        )
        promoted += any(verdict.promote for verdict in looks)
    return promoted / n


def _trial(dice: np.random.Generator, skill: Any, gain: float) -> Evaluation:
    """Draw one evaluation: base and memory do a fifth as well, student and what serves are independent."""
    shifted = _shifted(skill, gain)
    arms = [
        arm_of(name, dice.random(len(p)) < p)
        for name, p in (
            ("base", skill / 5), ("base + memory", skill / 5), ("serving", skill), ("student", shifted),
        )
    ]  # fmt: skip
    return make_evaluation(
        suite="s", split="holdout", arms=arms, checkpoint="student@1-new",
        settings=EvaluateSettings(bootstrap=2000),
    )  # fmt: skip


def _shifted(skill: Any, gain: float) -> Any:
    """Return probabilities whose mean is higher by `gain`, each moved by as much as it has room for."""
    room = (1 - skill) if gain > 0 else skill
    return np.clip(skill + gain * room / room.mean(), 0, 1)


def arm_of(name: str, right: Sequence[bool]) -> ArmResult:
    """Return an arm with these successes."""
    results = tuple(TaskResult(task_id=str(n), success=bool(one)) for n, one in enumerate(right))
    return ArmResult(name=name, n=len(right), success=wilson(int(sum(right)), len(right)), results=results)


def paired_flags(numbers: Mapping[str, float], rival: str, **changes: float) -> list[str]:
    """Return the gate's flags of the paired test against a rival, by the counts of a verdict."""
    n, wins, losses = (int(numbers[name]) for name in ("n", f"wins:{rival}", f"losses:{rival}"))
    ours = [True] * wins + [False] * (n - wins)
    theirs = [False] * (n - losses) + [True] * losses
    evaluation = make_evaluation(
        suite="s", split="holdout", arms=[arm_of(rival, theirs), arm_of("student", ours)], checkpoint="x",
        settings=EvaluateSettings(),
    )  # fmt: skip
    settings = GateSettings(against=(rival,), **changes)
    verdict = gate(evaluation, settings, "base", PluginHost(auto=False).hooks, Evidence())
    return [flag for flag in verdict.flags if flag == f"{NOT_BETTER}{rival}"]


def disguises() -> dict[str, Callable[[str, random.Random], str]]:
    """Return the ways in which a planted task is disguised."""
    return {
        "politeness": lambda text, dice: f"Hello there! {text} Thanks a lot in advance, I appreciate it.",
        "halves swapped": _swapped,
        "typing errors": _mistyped,
        "words dropped and added": _reworded,
        "inside a longer text": lambda text, dice: (
            "The weather was fine and we talked for a while about this and that before anything else. "
            f"Then came the question: {text} After that we went on with other things for the rest of the day."
        ),
    }


def _swapped(text: str, dice: random.Random) -> str:
    words = text.split()
    cut = len(words) // 2
    return " ".join([*words[cut:], *words[:cut]]).upper()


def _mistyped(text: str, dice: random.Random) -> str:
    letters = list(text)
    for _ in range(max(1, len(letters) // 40)):
        at = dice.randrange(len(letters) - 1)
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def _reworded(text: str, dice: random.Random) -> str:
    kept = [word for word in text.split() if dice.random() > 0.05]
    return " ".join(word + " please" if dice.random() < 0.08 else word for word in kept)


def leaks_found(
    tasks: dict[str, str], honest: Sequence[str], planted: Sequence[str], near: float
) -> tuple[int, int]:
    """Return (tasks found, of them word by word) among honest rows and planted ones."""
    rows = [(f"row-{n}", [text]) for n, text in enumerate([*honest, *planted])]
    found = find_leaks(tasks, lambda: rows, near=near)
    return len(found.tasks), found.n_exact


def minhash_found(
    tasks: dict[str, str], honest: Sequence[str], planted: Sequence[str], n_hashes: int = 128
) -> tuple[float, float]:
    """Return the share of planted tasks that MinHash finds, and the least similarity that it needs.

    Its threshold is the lowest at which no more honest tasks are taken for copies than 2 %.
    """
    salts = np.random.default_rng(0).integers(1, 2**61 - 1, (2, n_hashes), dtype=np.uint64)
    ours = np.stack([_signature(text, salts) for text in tasks.values()])

    def best(texts: Sequence[str]) -> Any:
        rows = np.stack([_signature(text, salts) for text in texts])
        return np.array([(rows == one).mean(1).max() for one in ours])

    threshold = float(np.quantile(best(honest), 0.98)) + 1e-9
    return fmean(best(planted) > threshold), threshold


def _signature(text: str, salts: Any) -> Any:
    plain = " ".join(re.findall(r"\w+", text.casefold()))
    grams = {plain[start : start + 5] for start in range(max(1, len(plain) - 4))}
    hashes = np.array([hash(gram) & (2**61 - 1) for gram in grams], dtype=np.uint64)
    return (hashes[:, None] * salts[0] + salts[1]).min(0)
