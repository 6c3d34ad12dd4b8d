"""Who teaches: the student's own base, another local model, an adapter on the same base, or a remote model.

What the choice decides before anything heavy is loaded: which tokens each row's teacher sees, and how they
lie beside the student's. A teacher with the student's vocabulary sees the student's rendering; another one
sees the same conversation through its own template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentkd import hf
from agentkd.errors import ConfigError
from agentkd.schema import TrainJob
from agentkd.train.alignment import Stretch
from agentkd.train.artefact import SignalCache, Unit, row_key
from agentkd.train.batch import TEACHER, Weighted
from agentkd.train.body import Body
from agentkd.train.finish import teacher_id
from agentkd.train.rows import Dataset, Row, View
from agentkd.train.signals import Packer, TeacherModel, TeacherSignals
from agentkd.train.view import foreign_view, read_examples, student_stretches, with_own_views

__all__ = [
    "TeacherPlan",
    "open_signals",
    "plan_teacher",
    "signal_cache",
    "wanted_top_k",
]

_DEFAULT_TOP_K = 20
_NEEDS = frozenset({TEACHER, "teacher-sorted", "teacher-hidden", "teacher-spans"})


@dataclass(frozen=True)
class TeacherPlan:
    """A teacher and how its tokens lie beside the student's."""

    is_own: bool = True
    """Whether it is the student's own base with its adapter off."""
    is_remote: bool = False
    """Whether its signals were fetched before this process began."""
    unit: Unit = "token"
    """`token` where it has the student's vocabulary, else `byte`."""
    template_hash: str = ""
    """Hash of the tokenizer and template that rendered its views; empty for the dataset's."""
    stretches: Mapping[str, tuple[Stretch, ...]] = field(default_factory=dict)
    """For another vocabulary: bytes of each student label, by row id."""
    ends: Mapping[str, tuple[int, ...]] | None = None
    """For another vocabulary on this machine: byte after each of the teacher's label tokens, by row key."""


def plan_teacher(
    job: TrainJob, dataset: Dataset, objectives: Sequence[Weighted], say: Callable[[str], None]
) -> tuple[TeacherPlan, Dataset]:
    """Return the plan of the job's teacher, and the dataset with the views that it sees.

    A row without memories is taught by another model all the same: it sees what the student sees. Raises
    ConfigError where an objective asks for what this teacher cannot give.
    """
    wanting = [weighted for weighted in objectives if _NEEDS & weighted.objective.requires]
    if not wanting or not job.settings.teacher:
        return TeacherPlan(), dataset
    if not (job.teacher or job.teacher_adapter):
        reads_tokens = any(TEACHER in weighted.objective.requires for weighted in wanting)
        plan, dataset = _remote(job, dataset, wanted_top_k(wanting), reads_tokens=reads_tokens)
    elif not job.teacher or _same_vocabulary(job.base, job.teacher):
        plan, dataset = TeacherPlan(is_own=False), with_own_views(dataset)
    else:
        plan, dataset = _foreign(job, dataset, say)
    for weighted in wanting:
        _check(weighted, plan, job)
    return plan, dataset


def arithmetic(job: TrainJob, dtype: str) -> str:
    """Return what tells what one model on this machine says from what it says in other numbers."""
    return f"{dtype}/{job.settings.quantise}"


def signal_cache(
    job: TrainJob, template_hash: str, top_k: int, unit: Unit, *, dtype: str = ""
) -> SignalCache:
    """Return the cache of the job's teacher; one on this machine computes in `dtype`, never `auto`."""
    is_remote = job.settings.teacher and not (job.teacher or job.teacher_adapter)
    return SignalCache(
        Path(job.signals or Path(job.dataset) / "signals"),
        teacher_id=teacher_id(job) if job.settings.teacher else job.base_id,
        template_hash=template_hash,
        top_k=top_k,
        unit=unit,
        arithmetic="" if is_remote else arithmetic(job, dtype),
    )


def wanted_top_k(objectives: Sequence[Weighted]) -> int:
    """Return how many teacher tokens the objectives read, the largest of their `top_k`."""
    wanting = [w.objective for w in objectives if _NEEDS & w.objective.requires]
    return max((int(getattr(objective, "top_k", _DEFAULT_TOP_K)) for objective in wanting), default=0)


def open_signals(
    job: TrainJob,
    objectives: Sequence[Weighted],
    rows: Sequence[Row],
    body: Body,
    plan: TeacherPlan,
    *,
    template_hash: str,
    pack: Packer,
    chunk_tokens: int,
    on_rows: Callable[[int, int], None],
) -> TeacherSignals | None:
    """Load or compute the signals of all rows; None where no objective asks for any.

    `on_rows` hears how many rows are done, and of how many: first of those that were cached, then after each
    shard that is computed and stored. Equal views count once.
    """
    wanted = [w.objective for w in objectives if _NEEDS & w.objective.requires]
    if not wanted:
        return None
    rows = [row for row in rows if row.teacher]
    teacher = _Loader(job, body, plan, [row.teacher for row in rows if row.teacher])
    own = body.n_vocabulary
    signals = TeacherSignals(
        signal_cache(
            job,
            plan.template_hash or template_hash,
            wanted_top_k(objectives),
            plan.unit,
            dtype=body.dtype_name,
        ),
        n_vocabulary=own if plan.unit == "token" or plan.is_remote else teacher.n_vocabulary,
        stretches=plan.stretches,
        is_live=any("teacher-hidden" in objective.requires for objective in wanted),
    )
    done, total = 0, len({row_key(row.teacher) for row in rows if row.teacher})

    def stored(n: int) -> None:
        nonlocal done
        done += n
        on_rows(done, total)

    signals.prepare(
        rows,
        None if plan.is_remote else teacher,
        pack=pack,
        chunk_tokens=chunk_tokens,
        on_rows=stored,
        ends=plan.ends,
    )
    return signals


class _Loader:
    """Loads the job's teacher when it is called."""

    def __init__(self, job: TrainJob, body: Body, plan: TeacherPlan, views: Sequence[View]) -> None:
        self._job, self._body, self._plan, self._views = job, body, plan, views

    @property
    def n_vocabulary(self) -> int:
        """Token ids of the teacher, by its config."""
        config: Any = hf.load_config(self._job.teacher or self._job.base)
        return int(config.get_text_config().vocab_size)

    def __call__(self) -> TeacherModel:
        """Return the teacher: the student itself without its adapter, or a model of its own."""
        if self._plan.is_own:
            return TeacherModel(self._body, True)
        model: Any = hf.load_model(
            self._job.teacher or self._job.base, dtype=self._body.dtype, device=str(self._body.device)
        )
        if self._job.teacher_adapter:
            model = hf.attach_adapter(model, self._job.teacher_adapter, "teacher")
        model.eval().requires_grad_(False)
        body = Body(model)
        body.pack_for_training(self._views)
        return TeacherModel(body, False)


def _check(weighted: Weighted, plan: TeacherPlan, job: TrainJob) -> None:
    needs, teacher = weighted.objective.requires, job.settings.teacher
    if plan.unit == "byte" and TEACHER in needs:
        raise ConfigError(
            f"objective `{weighted.name}` compares tokens, but teacher `{teacher}` has another vocabulary",
            hint="use `alm` or `uld`, or a teacher with the student's tokenizer",
            objective=weighted.name,
        )
    if plan.is_remote and "teacher-hidden" in needs:
        raise ConfigError(
            f"objective `{weighted.name}` needs the states of its teacher, which `{teacher}` does not send",
            hint="use a local teacher (`wheel:`, `hf:`, `path:`)",
            objective=weighted.name,
        )


def _same_vocabulary(first: str, second: str) -> bool:
    if Path(first).resolve() == Path(second).resolve():
        return True
    return bool(hf.load_tokenizer(first).get_vocab() == hf.load_tokenizer(second).get_vocab())


def _has_tokens(job: TrainJob, dataset: Dataset, top_k: int, reads_tokens: bool) -> bool:
    """Whether a remote teacher's signals of these rows are of the student's tokens.

    One teacher may have both kinds, of several datasets: those count that cover more of the rows. Before any
    are fetched (a plan is made first) it is taken to give what the objectives read.
    """
    wanted = {row_key(row.teacher) for row in dataset.train if row.teacher is not None}
    of_tokens, of_bytes = (
        len(wanted & signal_cache(job, dataset.card.template_hash, top_k, unit).keys())
        for unit in ("token", "byte")
    )
    return of_tokens >= of_bytes if of_tokens or of_bytes else reads_tokens


def _remote(
    job: TrainJob, dataset: Dataset, top_k: int, *, reads_tokens: bool
) -> tuple[TeacherPlan, Dataset]:
    if not job.teacher_id:
        raise ConfigError(
            f"teacher `{job.settings.teacher}` is neither on this machine nor are its signals named",
            hint="train through a workspace (`agentkd train`): it fetches what the teacher says first",
        )
    dataset = with_own_views(dataset)
    if _has_tokens(job, dataset, top_k, reads_tokens):
        return TeacherPlan(is_own=False, is_remote=True), dataset
    stretches = student_stretches(job.base, job.dataset, dataset)
    return TeacherPlan(is_own=False, is_remote=True, unit="byte", stretches=stretches), dataset


def _foreign(job: TrainJob, dataset: Dataset, say: Callable[[str], None]) -> tuple[TeacherPlan, Dataset]:
    """Render every row for a teacher with another vocabulary; rows that it cannot say are not taught."""
    tokenizer = hf.load_tokenizer(job.teacher)
    stretches = student_stretches(job.base, job.dataset, dataset)
    views: dict[str, View] = {}
    ends: dict[str, tuple[int, ...]] = {}
    for example in read_examples(job.dataset):
        seen = foreign_view(tokenizer, example) if example.id in stretches else None
        if seen is not None:
            views[example.id], ends[row_key(seen[0])] = seen
    rows = tuple(replace(row, teacher=views.get(row.id)) for row in dataset.train)
    if left_out := len(rows) - sum(row.teacher is not None for row in rows):
        say(f"{left_out} rows cannot be rendered for `{job.settings.teacher}` and are not taught by it")
    plan = TeacherPlan(
        is_own=False,
        unit="byte",
        template_hash=hf.template_hash(tokenizer),
        stretches=stretches,
        ends=ends,
    )
    return plan, replace(dataset, train=rows)
