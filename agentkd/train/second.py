"""The models that a training loads beside its student, and how long they take memory.

A teacher of its own answers before the first step and is let go, unless an objective reads its states while
the student learns; an adapter that others are compared with sits on a copy of the base until its figures are
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from agentkd import hf
from agentkd.schema import TrainJob
from agentkd.train.batch import TEACHER_HIDDEN, Weighted

__all__ = ["NOBODY", "Beside", "beside", "count_parameters"]


@dataclass(frozen=True)
class Beside:
    """Parameters of other models than the student."""

    teacher: int = 0
    """Of the teacher, where it is loaded at all."""
    throughout: int = 0
    """That are held while the student learns."""
    at_first: int = 0
    """That are held before the first step only, the most at one time."""


NOBODY = Beside()
"""The student is the only model."""


def beside(job: TrainJob, objectives: Sequence[Weighted], n_base: int, *, is_missing: bool) -> Beside:
    """Return the models beside the student.

    Args:
        job: The training.
        objectives: Of the job.
        n_base: Parameters of the student's base.
        is_missing: Whether signals of the teacher are still to be computed.
    """
    has_own = bool(job.settings.teacher and (job.teacher or job.teacher_adapter))
    is_live = has_own and any(TEACHER_HIDDEN in each.objective.requires for each in objectives)
    teacher = 0
    if has_own and (is_live or is_missing):
        teacher = count_parameters(job.teacher) if job.teacher else n_base
    has_copy = any(
        "reference" in each.objective.requires
        and getattr(each.objective, "reference", "start") not in ("start", "base")
        for each in objectives
    )
    at_first = max(0 if is_live else teacher, n_base if has_copy else 0)
    return Beside(teacher, teacher if is_live else 0, at_first)


@cache
def count_parameters(folder: str) -> int:
    """Count the parameters of a model by its configuration; no weight is loaded."""
    import transformers

    config = hf.load_config(folder)
    with torch.device("meta"):
        model: Any = transformers.AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())
