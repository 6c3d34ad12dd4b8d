"""Carry a student over to an upgraded base: what training added to the old weights is added to the new ones.

W_new + (W_ft - W_old), after P. Lin et al., "Efficient Model Development through Fine-tuning Transfer"
(arXiv 2503.20110). A LoRA adapter is that difference already, B @ A, so its factors apply as they are.
Whether the change still helps there is for the gate to say; a training on the new base may start from it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from agentkd.cycle.parts import Parts
from agentkd.cycle.stage import checkpoint_name
from agentkd.errors import AgentkdError, CheckpointError, ConfigError
from agentkd.files import aside_folder, put_in_place
from agentkd.schema import Checkpoint, content_id, now

__all__ = ["transfer"]

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def transfer(parts: Parts, name: str, source: str) -> Checkpoint:
    """Register a checkpoint's adapter as a candidate on another base; the same call finds it again.

    Nothing serves by it, and no memory counts as compiled into it: what was retired for the old checkpoint is
    recalled where the new one serves, until a cycle proves it needless there too.

    Args:
        parts: The workspace.
        name: The checkpoint.
        source: Source of the new base: `wheel:`, `hf:` or `path:`.

    Raises:
        ConfigError: the checkpoint is on this base already.
        CheckpointError: it is tainted or damaged, or means nothing on that base; the message says why.
    """
    from agentkd import hf
    from agentkd.models.gguf import resolve_model

    checkpoint, folder = parts.checkpoint(name), parts.checkpoint_folder(name)
    if checkpoint.status == "tainted":
        raise CheckpointError(
            f"checkpoint `{name}` was trained on a memory that was revoked since",
            hint="`agentkd cycle --recompile` on the new base trains one without that memory",
        )
    new = resolve_model(source, cache_dir=parts.cache_dir, progress=parts.progress)
    if new.base_id == checkpoint.base_id:
        raise ConfigError(
            f"checkpoint `{name}` was trained on `{source}` itself", hint="name the upgraded base with `--to`"
        )
    adapter = hf.read_adapter(folder)
    hf.check_fits(adapter, new.path, _old_base(parts, checkpoint))
    card = parts.ledger.datasets.get(checkpoint.dataset_id)
    if hf.template_hash(hf.load_tokenizer(new.path)) != card.template_hash:
        raise CheckpointError(
            f"checkpoint `{name}` was trained on another tokenizer or chat template than that of `{source}`: "
            "its change belongs to other tokens",
            hint="compile and train on the new base",
        )
    digest = hf.file_sha256(folder / "adapter_model.safetensors")
    made = checkpoint_name(parts, content_id("trf", name, digest, new.base_id))
    if made in parts.ledger.checkpoints.names():
        return parts.checkpoint(made)
    moved = Checkpoint(
        name=made,
        base=source,
        base_id=new.base_id,
        dataset_id=checkpoint.dataset_id,
        parent=name,
        n_parameters=checkpoint.n_parameters,
        settings=checkpoint.settings,
        versions=checkpoint.versions,
        created_at=now(),
    )
    moved = _write(parts.root / "checkpoints" / made, folder, moved, new.path)
    parts.ledger.checkpoints.add(moved)
    return moved


def _old_base(parts: Parts, checkpoint: Checkpoint) -> Path | None:
    """Return the folder of the checkpoint's own base; None where it is not to be had any more."""
    from agentkd.models.gguf import resolve_model

    try:
        return resolve_model(checkpoint.base, cache_dir=parts.cache_dir, progress=parts.progress).path
    except AgentkdError as error:
        parts.progress.say(f"the old base `{checkpoint.base}` is not compared: {error.message}")
        return None


def _write(target: Path, old: Path, checkpoint: Checkpoint, base: Path) -> Checkpoint:
    """Write the folder of a checkpoint aside and rename it; one that a kill left unregistered is replaced."""
    from agentkd import hf

    with aside_folder(target.parent) as scratch:
        aside = scratch / target.name
        aside.mkdir()
        for name in _FILES:
            shutil.copyfile(old / name, aside / name)
        config = json.loads((aside / "adapter_config.json").read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = str(base)
        (aside / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        files = {name: hf.file_sha256(aside / name) for name in _FILES}
        checkpoint = checkpoint.model_copy(update={"files": files})
        text = checkpoint.model_dump_json(indent=2) + "\n"
        (aside / "checkpoint.json").write_text(text, encoding="utf-8")
        files = hf.registered_files(aside, files)
        shutil.rmtree(target, ignore_errors=True)
        put_in_place(aside, target)
        return checkpoint.model_copy(update={"files": files})
