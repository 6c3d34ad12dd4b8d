"""The finished checkpoint: written aside, described by a manifest, and published by one rename."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentkd import hf
from agentkd.errors import CheckpointError, TrainError
from agentkd.files import put_in_place
from agentkd.schema import AnchorSettings, Checkpoint, DatasetCard, TrainJob, TrainSettings, content_id

__all__ = [
    "SHIPPED_ANCHORS",
    "anchor_file",
    "decisive",
    "finished",
    "job_key",
    "limits_key",
    "publish",
    "teacher_id",
]

_NOT_PART_OF_THE_RESULT = {
    "candidates",
    "compile",
    "gradient_checkpointing",
    "keep_last",
    "loss_rows_logged",
    "max_memory",
    "save_every_seconds",
    "sharding",
}
SHIPPED_ANCHORS = Path(__file__).with_name("anchors.jsonl")
_PACKAGES = ("agentkd", "peft", "safetensors", "torch", "transformers")


def job_key(job: TrainJob, card: DatasetCard) -> str:
    """Return the hash of all that decides the trained weights."""
    adapter = Path(job.init_adapter) / "adapter_model.safetensors"
    init = hf.file_sha256(adapter) if job.init_adapter else ""
    read = [hf.file_sha256(file) for file in _files(job.settings)]
    settings = job.settings.model_dump(mode="json", exclude=_NOT_PART_OF_THE_RESULT)
    return content_id("job", card.id, job.base_id, settings, init, job.plugins, teacher_id(job), read)


def teacher_id(job: TrainJob) -> str:
    """Return the fingerprint of the job's teacher: computed where a spec names a local one without it."""
    if job.teacher_id or not job.settings.teacher or not (job.teacher or job.teacher_adapter):
        return job.teacher_id
    base = hf.base_id(job.teacher) if job.teacher else job.base_id
    if not job.teacher_adapter:
        return base
    return content_id(
        "teacher", base, hf.file_sha256(Path(job.teacher_adapter) / "adapter_model.safetensors")
    )


def anchor_file(settings: AnchorSettings) -> Path:
    """Return the file with the anchors: the one that is named, else the one that ships."""
    return Path(settings.path).expanduser() if settings.path else SHIPPED_ANCHORS


def _files(settings: TrainSettings) -> Iterator[Path]:
    """Yield the files beside dataset and base whose content decides the weights: anchors, references."""
    anchors = anchor_file(settings.anchor)
    if settings.anchor.weight and anchors.is_file():
        yield anchors
    for options in settings.objective.values():
        reference = Path(str(options.get("reference", ""))) / "adapter_model.safetensors"
        if options.get("reference") and reference.is_file():
            yield reference


def limits_key(job: TrainJob, processes: int) -> str:
    """Return the hash of what decides how this machine trains, but not what it learns.

    The number of processes is part of it, and that of their threads where it is set.
    """
    settings, threads = job.settings, os.environ.get("OMP_NUM_THREADS", "")
    return content_id(
        "limits", settings.max_memory, settings.gradient_checkpointing, settings.compile, settings.sharding,
        processes, threads,
    )  # fmt: skip


def decisive(settings: TrainSettings) -> TrainSettings:
    """Return what decides the weights, with all other settings at their defaults: a training's identity.

    A training that was cut off goes on from its saves where this is the same.
    """
    plain = TrainSettings()
    return settings.model_copy(update={name: getattr(plain, name) for name in _NOT_PART_OF_THE_RESULT})


def finished(job: TrainJob, card: DatasetCard) -> Checkpoint | None:
    """Return the checkpoint in `job.output` if this job is done; None if there is none.

    Raises TrainError where the folder holds something else, CheckpointError where a file is damaged.
    """
    folder = Path(job.output)
    if not folder.exists():
        return None
    try:
        checkpoint = Checkpoint.model_validate_json((folder / "checkpoint.json").read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainError(
            f"`{folder}` exists and is no checkpoint", hint="choose another output folder", path=str(folder)
        ) from error
    wanted = (card.id, job.base_id, _name_of(job.init_adapter))
    same = (checkpoint.dataset_id, checkpoint.base_id, checkpoint.parent) == wanted
    if not same or decisive(_trained(job, checkpoint.settings)) != decisive(_trained(job, job.settings)):
        raise TrainError(
            f"`{folder}` holds a checkpoint of another dataset, base or settings, or from another adapter",
            hint="choose another output folder",
            path=str(folder),
        )
    for name, digest in checkpoint.files.items():
        if not (folder / name).is_file() or hf.file_sha256(folder / name) != digest:
            raise CheckpointError(
                f"`{folder / name}` is missing or differs from its sha256 in `checkpoint.json`",
                hint="delete the folder and train again",
                path=str(folder / name),
            )
    return checkpoint


def publish(
    job: TrainJob, card: DatasetCard, work: Path, model: Any, metrics: Mapping[str, float]
) -> Checkpoint:
    """Write adapter, metrics and manifest below `work`, rename them to `job.output`, and drop `work`."""
    from agentkd.train.lora import adapter_parameters, write_adapter

    ready = work / "finished"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    write_adapter(model, ready, job.base)
    shutil.copyfile(work / "metrics.jsonl", ready / "metrics.jsonl")
    output = Path(job.output)
    checkpoint = Checkpoint(
        name=output.name,
        base=job.base,
        base_id=job.base_id,
        dataset_id=card.id,
        parent=_name_of(job.init_adapter),
        files={file.name: hf.file_sha256(file) for file in sorted(ready.iterdir())},
        n_parameters=sum(parameter.numel() for _, parameter in adapter_parameters(model)),
        metrics=dict(metrics),
        settings=_trained(job, job.settings),
        versions=_versions(),
    )
    manifest = checkpoint.model_dump_json(indent=2) + "\n"
    (ready / "checkpoint.json").write_text(manifest, encoding="utf-8")
    put_in_place(ready, output)
    shutil.rmtree(work, ignore_errors=True)
    return checkpoint


def _trained(job: TrainJob, settings: TrainSettings) -> TrainSettings:
    """Return the settings as they train: an adapter that the job goes on from keeps its own shape."""
    from agentkd.train.shape import adapter_settings

    lora = adapter_settings(job.model_copy(update={"settings": settings}))
    return settings.model_copy(update={"lora": lora})


def _name_of(adapter: str) -> str:
    manifest = Path(adapter) / "checkpoint.json"
    if not adapter or not manifest.is_file():
        return ""
    return str(json.loads(manifest.read_text(encoding="utf-8")).get("name", ""))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            from agentkd import __version__

            versions[package] = __version__  # a copied tree: only agentkd itself can lack metadata
    return versions
