"""The TRL arm of the training benchmarks: SFTTrainer on our rows, steps, rates and adapter."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch

Spec = dict[str, Any]
PAD = -100


def run(spec: Spec, clock: Any, load: Callable[[Spec], Any], rate: Callable[[Spec, int], float]) -> None:
    """Train with the options of `spec["trl"]`; what they leave out is TRL's default.

    With `packing` TRL makes its own batches: each step says how many labels it had.
    """
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    options = dict(spec["trl"])
    parts = None if options.get("packing") else micro_batches(spec, bool(options.get("padding_free")))
    n_micro = options.pop("n_micro", 1)
    losses: list[float] = []
    labels: list[int] = []

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            labels.append(int((inputs["labels"] != PAD).sum()))
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            losses.append(float(loss.detach()))
            return loss

        def get_train_dataloader(self) -> Any:
            if parts is None:
                return super().get_train_dataloader()
            return torch.utils.data.DataLoader(
                self.train_dataset.remove_columns(
                    [name for name in self.train_dataset.column_names if name not in ("input_ids", "labels")]
                ),
                batch_sampler=parts,
                collate_fn=self.data_collator,
            )

    class Timer(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            losses.clear()
            labels.clear()
            self.step = clock.step()
            self.line = self.step.__enter__()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.line["loss"] = sum(losses)
            self.line["labels"] = sum(labels)
            self.step.__exit__(None, None, None)

    model = load(spec)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=spec["learning_rate"], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(spec, step) / spec["learning_rate"]
    )
    tokenizer = AutoTokenizer.from_pretrained(spec["tokenizer"])
    rows = [
        {"input_ids": ids, "labels": [t if flag else PAD for t, flag in zip(ids, flags, strict=True)]}
        for ids, flags in spec["rows"]
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=spec["device"] == "cpu",
            gradient_accumulation_steps=n_micro,
            num_train_epochs=1,
            max_steps=spec["n_steps"] if parts is not None else -1,
            **options,
        )
        trainer = Trainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            optimizers=(optimizer, schedule),
            callbacks=[Timer()],
        )
        trainer.train()


def micro_batches(spec: Spec, is_flat: bool) -> list[list[int]]:
    """Cut every step into `n_micro` micro-batches: of like lengths if padded, of like sums if flattened."""
    n, found = spec["trl"].get("n_micro", 1), []
    for rows in spec["steps"][: spec["n_steps"]]:
        ordered = sorted(rows, key=lambda row: -len(spec["rows"][row][0]))
        if is_flat:
            micro: list[list[int]] = [[] for _ in range(n)]
            for row in ordered:
                least = min(micro, key=lambda part: sum(len(spec["rows"][one][0]) for one in part))
                least.append(row)
        else:
            size = -(-len(ordered) // n)
            micro = [ordered[start : start + size] for start in range(0, len(ordered), size)]
            micro = [part for part in micro if part]
        while len(micro) < n:  # every step has as many parts
            longest = max(micro, key=len)
            micro.append([longest.pop()])
        found += micro
    return found
