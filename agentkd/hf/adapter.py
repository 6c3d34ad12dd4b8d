"""Adapters from disk: checked before they touch a model, read as safetensors alone."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.archive import CODE
from agentkd.errors import CheckpointError
from agentkd.hf.fingerprint import file_sha256
from agentkd.schema import Checkpoint

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["Adapter", "attach_adapter", "check_files", "quiet_peft", "read_adapter", "registered_files"]

CONFIG, WEIGHTS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "checkpoint.json"

UNSAFE = CODE | {".bin", ".npy", ".npz"}
"""Endings of files that are code, or may run code when they are loaded: none lies in an adapter's folder."""

# What a LoRA file may decide. peft knows further keys that import modules or load other weights
# (`auto_mapping`, `megatron_core`, `lora_ga_config`, ...): those must be absent, empty or peft's default.
_DECIDES = ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "lora_dropout")
_INFORMS: tuple[str, ...] = (
    "peft_type",
    "task_type",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "peft_version",
)
_INFORMS += ("init_lora_weights",)


_DEFAULTS = (["bias", "none"], ["megatron_core", "megatron.core"], ["qalora_group_size", 16])

_CHANGES_THE_BASE = ("corda", "loftq", "lora_ga", "olora", "pissa")
"""Initialisations that also change the base's weights: their A and B mean nothing on the base itself."""

_MAGNITUDE = ".lora_magnitude_vector"


@dataclass(frozen=True)
class Adapter:
    """A checked LoRA adapter in memory."""

    folder: Path
    """Where it was read from."""
    r: int
    """Rank."""
    scale: float
    """Factor of B @ A: alpha / r, or alpha / sqrt(r) for rank-stabilised adapters."""
    config: dict[str, Any]
    """The allowed keys of its configuration."""
    tensors: dict[str, torch.Tensor]
    """Weights by peft's names, such as `base_model.model....q_proj.lora_A.weight`."""

    def pairs(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return (A `[r, in]`, B `[out, r]`) by module name as in the base model."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in self.tensors.items():
            if self.has_magnitudes and _MAGNITUDE in name:
                continue
            module, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
            if rest not in {"A.weight", "B.weight"}:
                raise _broken(
                    self.folder / WEIGHTS, f"holds `{name}`, which is no LoRA weight of a linear layer"
                )
            found.setdefault(module, {})[rest[0]] = tensor
        for module, pair in found.items():
            if set(pair) != {"A", "B"} or pair["A"].shape[0] != self.r or pair["B"].shape[1] != self.r:
                raise _broken(self.folder / WEIGHTS, f"has an incomplete or misshapen pair for `{module}`")
        return {module: (pair["A"], pair["B"]) for module, pair in found.items()}

    @property
    def has_magnitudes(self) -> bool:
        """Whether it is a DoRA adapter: B @ A alone is then not what it adds (see `merged`)."""
        return bool(self.config.get("use_dora"))

    def merged(self, module: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the float32 weight `[out, in]` of `module` with the adapter in it.

        W + scale * B @ A; under DoRA each row of that is then brought to its learnt length.
        """
        factors = self.row_factors(module, weight)
        added = self._added(module, weight)
        return added if factors is None else added * factors.unsqueeze(1)

    def row_factors(self, module: str, weight: torch.Tensor) -> torch.Tensor | None:
        """Return what DoRA multiplies each row of W + scale * B @ A with, `[out]`; None for a plain adapter.

        It is the learnt magnitude over the row's own length (Liu et al. 2024, equation 5).
        """
        if not self.has_magnitudes:
            return None
        length: torch.Tensor = self._added(module, weight).norm(dim=1)
        return self._magnitudes()[module].to(length) / length

    def _added(self, module: str, weight: torch.Tensor) -> torch.Tensor:
        a, b = self.pairs()[module]
        added: torch.Tensor = weight.float() + self.scale * (b.float() @ a.float()).to(weight.device)
        return added

    def _magnitudes(self) -> dict[str, torch.Tensor]:
        prefix = "base_model.model."
        named = ((name.partition(_MAGNITUDE), tensor) for name, tensor in self.tensors.items())
        return {part[0].removeprefix(prefix): tensor for part, tensor in named if part[1]}


def read_adapter(folder: str | Path) -> Adapter:
    """Read and check the adapter in `folder`; raises CheckpointError that names the file at fault.

    Where `checkpoint.json` holds a manifest, every file in it must have its sha256.
    """
    folder = Path(folder)
    check_files(folder)
    config = _checked_config(folder / CONFIG)
    try:
        from safetensors.torch import load_file

        tensors = load_file(str(folder / WEIGHTS))
    except Exception as error:  # safetensors has its own error class per release
        raise _broken(folder / WEIGHTS, f"cannot be read: {error}") from error
    r, alpha = int(config["r"]), float(config["lora_alpha"])
    scale = alpha / r**0.5 if config.get("use_rslora") else alpha / r
    adapter = Adapter(folder, r, scale, config, tensors)
    pairs = adapter.pairs()
    if adapter.has_magnitudes and set(adapter._magnitudes()) != set(pairs):
        raise _broken(folder / WEIGHTS, "is of DoRA, but lacks the magnitude of a module")
    return adapter


def registered_files(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Return the sha256 of every file of a new checkpoint; what its trainer says in `files` stands."""
    found = {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}
    return {**found, **files}


def check_files(folder: Path, registered: Checkpoint | None = None) -> None:
    """Refuse a folder with code or a pickle in it, a missing file, or one that differs from the manifest.

    Where the adapter is `registered`, every file, `checkpoint.json` among them, must have the sha256 that the
    registry knows, so that a manifest that was changed along with a file is found too. Reads no weights;
    raises CheckpointError that names the file at fault.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise _broken(folder / name, "is missing", hint="only adapters saved as safetensors are read")
    unsafe = sorted(file for file in folder.rglob("*") if file.suffix.lower() in UNSAFE)
    if unsafe:
        raise _broken(
            unsafe[0], "is code or a pickle, which can run code", hint="delete it: only safetensors are read"
        )
    if registered is not None:
        _check_registered(folder, registered)
    _check_manifest(folder)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence one warning where peft wraps a model: it asks transformers by a name that will change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def attach_adapter(
    model: PreTrainedModel | PeftModel, folder: str | Path, name: str = "default"
) -> PeftModel:
    """Attach a checked adapter under `name` and switch it on; raises CheckpointError if it does not fit.

    A plain model comes back wrapped; a wrapped one gets a further adapter (`model.set_adapter` switches).
    """
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    adapter = read_adapter(folder)
    settings = {key: value for key, value in adapter.config.items() if key in _DECIDES}
    config = LoraConfig(**settings, task_type="CAUSAL_LM", inference_mode=True)
    if isinstance(model, PeftModel):
        model.add_adapter(name, config)
    else:
        with quiet_peft():
            model = PeftModel(model, config, adapter_name=name)
    try:
        outcome = set_peft_model_state_dict(model, adapter.tensors, adapter_name=name)
    except RuntimeError as error:
        raise _broken(adapter.folder / WEIGHTS, f"does not fit this base model: {error}") from error
    lost = [key for key in outcome.missing_keys if f".{name}." in key and ".lora_" in key]
    if outcome.unexpected_keys or lost:
        raise _broken(adapter.folder / WEIGHTS, "does not fit this base model: its layers differ")
    model.set_adapter(name)
    model.requires_grad_(False)
    return model.eval()


def _broken(file: Path, what: str, hint: str = "train or fetch the adapter again") -> CheckpointError:
    return CheckpointError(f"adapter file `{file}` {what}", hint=hint, path=str(file))


def _check_registered(folder: Path, registered: Checkpoint) -> None:
    for name in (CONFIG, WEIGHTS):
        if name not in registered.files:
            raise _broken(folder / name, f"has no sha256 in the registry's record of `{registered.name}`")
    for name, digest in registered.files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise _broken(file, "is in the registry but is not there")
        if file_sha256(file) != digest:
            raise _broken(file, "differs from its sha256 in the registry: it is corrupt or was changed")


def _check_manifest(folder: Path) -> None:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return
    try:
        files = json.loads(manifest.read_text(encoding="utf-8")).get("files", {})
        wanted = {str(name): str(digest) for name, digest in files.items()}
    except (ValueError, AttributeError) as error:
        raise _broken(manifest, f"is not valid: {error}") from error
    for name in (CONFIG, WEIGHTS):
        if wanted and name not in wanted:
            raise _broken(folder / name, "is not in the manifest of `checkpoint.json`")
    for name, digest in wanted.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise _broken(file, "is named in the manifest but is not there")
        if file_sha256(file) != digest:
            raise _broken(file, "differs from its sha256 in `checkpoint.json`: it is corrupt or was changed")


def _checked_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(file, f"is not valid JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise _broken(file, "is not the configuration of a LoRA adapter")
    for key, value in config.items():
        if key not in (*_DECIDES, *_INFORMS) and not _is_idle(key, value):
            raise _broken(file, f"sets `{key}`, which agentkd does not load")
    targets = config.get("target_modules")
    names = [targets] if isinstance(targets, str) else targets
    if not isinstance(names, list) or not names or not all(_is_module_name(name) for name in names):
        raise _broken(file, "must name its `target_modules` one by one")
    init = str(config.get("init_lora_weights") or "").lower()
    if init.startswith(_CHANGES_THE_BASE):
        raise _broken(
            file,
            f"says `init_lora_weights` = `{init}`: it was trained against changed weights of the base",
            hint="let peft convert it when it saves (`path_initial_model_for_weight_conversion`)",
        )
    if not isinstance(config.get("r"), int) or not 0 < config["r"] <= 4096:
        raise _broken(file, "has no usable rank `r`")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise _broken(file, "has no usable `lora_alpha`")
    return {key: value for key, value in config.items() if key in (*_DECIDES, *_INFORMS)}


def _is_module_name(name: Any) -> bool:
    # A plain string is a regular expression to peft; only names (and `all-linear`) are let through.
    return isinstance(name, str) and name.replace("_", "").replace(".", "").replace("-", "").isalnum()


def _is_idle(key: str, value: Any) -> bool:
    if key == "auto_mapping" and isinstance(value, dict):  # written by peft; agentkd never follows it
        return str(value.get("parent_library", "")).startswith("transformers.models.")
    return not value or [key, value] in _DEFAULTS
