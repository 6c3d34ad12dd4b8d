"""From a workspace to a training job: which dataset, and from which adapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentkd import hf
from agentkd.cycle.parts import Parts
from agentkd.cycle.replay import union
from agentkd.cycle.teach import (
    is_remote,
    objective_modules,
    settings_with_folders,
    teacher_fields,
    writes_text,
)
from agentkd.cycle.tutor import compiled_folder, count_answers
from agentkd.errors import ConfigError, DataError, NotFoundError
from agentkd.schema import DatasetCard, TrainJob, TrainPlan, TrainSettings

__all__ = [
    "dataset_to_train",
    "decisive_settings",
    "newest_checkpoint",
    "plan_training",
    "read_beside",
    "told_by",
    "train_job",
]

_OF_THE_MACHINE = ("processes", "threads")  # options of trainers
_WORDS = frozenset({"", "start", "base", "none"})  # references that are no folder


def decisive_settings(parts: Parts) -> tuple[TrainSettings, dict[str, dict[str, Any]]]:
    """Return `[train]` and `[trainer]` as far as they decide the weights: a training is named after these.

    Whoever lowers `max_memory` or `threads` after a training died goes on from its saves.
    """
    from agentkd.train.finish import decisive

    trainers = {
        name: {key: value for key, value in options.items() if key not in _OF_THE_MACHINE}
        for name, options in parts.settings.trainer.items()
    }
    return decisive(parts.settings.train), {name: rest for name, rest in trainers.items() if rest}


def read_beside(parts: Parts) -> list[str]:
    """Return hashes of what a training reads besides rows, base and settings, and may change under its name.

    These are anchors and references of one's own, and a teacher in a folder.
    """
    train = parts.settings.train
    named = [str(each.get("reference", "")) for each in train.objective.values()]
    anchors = Path(train.anchor.path).expanduser()
    files = [anchors, *(Path(name) / "adapter_model.safetensors" for name in named if name not in _WORDS)]
    found = [hf.file_sha256(file) for file in files if file.is_file()]
    return [*found, *([teacher_fields(parts)["teacher_id"]] if train.teacher.startswith("path:") else [])]


def told_by(parts: Parts) -> list[Any]:
    """Return what decides, besides the rows, how a remote teacher tells them anew; nothing without one."""
    teacher = parts.settings.train.teacher
    if not is_remote(teacher):
        return []
    room = [parts.settings.models.max_new_tokens] if writes_text(teacher) else []
    return [teacher_fields(parts)["teacher_id"], parts.settings.trust, *room]


def train_job(parts: Parts, dataset_id: str, output: str, init: str = "") -> TrainJob:
    """Return the job of a training; raises NotFoundError, ConfigError where it cannot go on from `init`."""
    folder = parts.root / "datasets" / parts.ledger.datasets.get(dataset_id).id
    if not (folder / "card.json").is_file():
        raise NotFoundError(
            f"dataset `{dataset_id}` is not in `{folder.parent}`", hint="run `agentkd compile`"
        )
    n_tainted = len(parts.ledger.revocations.rows(dataset_id))
    if n_tainted:
        raise DataError(
            f"{n_tainted} rows of dataset `{dataset_id}` were made from what was revoked since",
            hint="`agentkd compile` makes one without them",
            dataset=dataset_id,
        )
    base_id = parts.student_files.base_id
    _check_base(parts, parts.ledger.datasets.get(dataset_id))
    if init:
        checkpoint = parts.checkpoint(init)
        if checkpoint.base_id != base_id:
            raise ConfigError(
                f"checkpoint `{init}` was trained on another base than `{parts.settings.roles.student}`",
                hint="train from the base, or set `[roles] student` to the base of the checkpoint",
            )
        if checkpoint.status == "tainted":
            raise ConfigError(
                f"checkpoint `{init}` was trained on a memory that was revoked since",
                hint="train from the base, or go on from an older checkpoint",
            )
    return TrainJob(
        dataset=str(folder),
        base=str(parts.student_files.path),
        base_id=base_id,
        output=output,
        init_adapter=str(parts.checkpoint_folder(init)) if init else "",
        settings=settings_with_folders(parts),
        plugins=objective_modules(parts),
        signals=str(parts.root / "signals"),
        **teacher_fields(parts),
    )


def _check_base(parts: Parts, card: DatasetCard) -> None:
    """Refuse a dataset whose token ids are those of another model."""
    files = parts.student_files
    if card.base not in ("", files.base_id, files.source):
        raise DataError(
            f"dataset `{card.id}` was rendered for the base `{card.base}`, and the student is "
            f"`{files.base_id}`: all its rows hold the token ids of another vocabulary or template",
            hint="run `agentkd compile` again, or set `[roles] student` to the base that it was compiled for",
            dataset=card.id,
        )


def newest_checkpoint(parts: Parts) -> str:
    """Return what serves, else the newest checkpoint on the base that is neither rejected nor tainted.

    Raises NotFoundError where there is none.
    """
    serving = parts.serving()
    if serving is not None:
        return serving.name
    base_id = parts.student_files.base_id
    known = [c for c in parts.ledger.checkpoints.list() if c.status not in ("rejected", "tainted")]
    sound = [c.name for c in known if c.base_id == base_id]
    if not sound:
        raise NotFoundError("there is no checkpoint to go on from", hint="run `agentkd train` first")
    return sound[-1]


def dataset_to_train(parts: Parts, dataset_id: str | None, replay: Sequence[str] = ()) -> str:
    """Return the dataset to train on: the newest compiled one by default; with its replays, their union.

    What a teacher told anew gives way to what was compiled, by default and where a remote teacher is about to
    tell it again: a union of retold rows would be asked about the teacher's own words.
    """
    datasets = parts.root / "datasets"
    tells_again = dataset_id is None or is_remote(parts.settings.train.teacher)
    if dataset_id is None:
        cards = [card for card in parts.ledger.datasets.list() if not card.settings.get("replayed")]
        if not cards:
            raise NotFoundError("there is no dataset yet", hint="run `agentkd compile`")
        dataset_id = cards[-1].id
    if tells_again:
        dataset_id = compiled_folder(datasets / dataset_id).name
        replay = [compiled_folder(datasets / one).name for one in replay]
    replay = [one for one in dict.fromkeys(replay) if one != dataset_id]
    return union(parts, dataset_id, replay).id if replay else dataset_id


def plan_training(parts: Parts, dataset_id: str | None, init: str, replay: Sequence[str]) -> TrainPlan:
    """Return what a training would take, and start nothing (the union with replayed datasets is written)."""
    output = str(parts.root / "checkpoints" / "planned")
    job = train_job(parts, dataset_to_train(parts, dataset_id, replay), output, init)
    plan = parts.trainer().plan(job, parts.progress)
    told = count_answers(parts, job)
    if told is not None:
        changes = {"teacher": job.settings.teacher, "signals_cached": told[0], "signals_missing": told[1]}
        plan = plan.model_copy(update=changes)
    if is_remote(parts.settings.train.teacher) and plan.signals_missing:
        plan = plan.model_copy(update={"usd": None})
    return plan
