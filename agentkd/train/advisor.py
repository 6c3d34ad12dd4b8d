"""Advice on settings by the size of the model and of the data; no heavy imports.

Where the rules come from: rank and learning rate follow Schulman et al., "LoRA Without Regret" (2025): LoRA
wants about ten times the rate of full fine-tuning, small batches, all linear layers, and enough rank for the
information in the data (about two bits per parameter). The rates for small models are this project's own
(`design` notes: 2e-4 to 1e-3; a rate of 3e-3 broke the model), and so is that of `redi`: after `sft` on
`llb-db` SmolLM2-135M did 0.40 of 60 tasks with 1e-5, 0.30 with 3e-5 and none with 1e-4 (0.37 before).
"""

from __future__ import annotations

from agentkd.schema import Advice, TrainSettings

__all__ = ["advise"]

_MANY_LABELS = 1_000_000
_FEW_ROWS = 200
_HIGHEST_RATE, _LOWEST_RATE = 1e-3, 5e-5
_PAIR_RATE, _HIGHEST_PAIR_RATE = 1e-5, 2e-5  # of `redi` as a stage of its own
_SCALES = {"lora": "alpha / r", "dora": "alpha / r", "rslora": "alpha / sqrt(r)"}
_FEW_STEPS, _MANY_ROWS_PER_STEP = 30, 32


def advise(
    settings: TrainSettings, *, n_rows: int, n_label_tokens: int, n_steps: int, n_base: int, goes_on: bool
) -> tuple[Advice, ...]:
    """Return what should be set otherwise.

    Args:
        settings: The settings.
        n_rows: Rows that are trained on.
        n_label_tokens: Trained tokens of one pass.
        n_steps: Optimiser steps of the job.
        n_base: Parameters of the base model.
        goes_on: Whether training goes on from an adapter.
    """
    found = [
        *_rank(settings, n_label_tokens, goes_on),
        *_rate(settings, n_base),
        *_length(settings, n_rows, n_label_tokens, n_steps),
    ]
    return tuple(found)


def _rank(settings: TrainSettings, n_labels: int, goes_on: bool) -> list[Advice]:
    lora, found = settings.lora, []
    if goes_on:
        return []  # the adapter has its rank
    r, variant = lora.r, lora.variant
    if n_labels > _MANY_LABELS and r < 32:
        why, r = f"{n_labels:,} trained tokens hold more than an adapter of rank {r} takes up", 32
    elif r > 64 and n_labels < _MANY_LABELS / 10:
        why, r = f"{n_labels:,} trained tokens do not fill it; it only costs memory and time", 16
    if r != lora.r:
        found.append(Advice(key="train.lora.r", present=str(lora.r), better=str(r), why=why))
    if variant == "lora" and r >= 64 and lora.alpha < r:
        why, variant = "alpha / r makes the steps of high ranks too small; alpha / sqrt(r) does not", "rslora"
        found.append(Advice(key="train.lora.variant", present="lora", better=variant, why=why))
    divisor = r**0.5 if variant == "rslora" else r
    if not divisor <= lora.alpha <= 4 * divisor:
        why = (
            f"an adapter that is scaled by 2 keeps the advised learning rates meaningful ({_SCALES[variant]})"
        )
        better = str(round(2 * divisor))
        found.append(Advice(key="train.lora.alpha", present=str(lora.alpha), better=better, why=why))
    if lora.target_modules != "all-linear":
        why = "adapters on all linear layers learn more than on attention alone at equal size"
        present = ", ".join(lora.target_modules)
        found.append(Advice(key="train.lora.target_modules", present=present, better="all-linear", why=why))
    return found


def _rate(settings: TrainSettings, n_base: int) -> list[Advice]:
    better = advised_rate(n_base)
    rate = settings.learning_rate
    if _pushes_down(settings):
        if rate <= _HIGHEST_PAIR_RATE:
            return []
        why = "nothing bounds the loss of rejected answers; a higher rate unlearns the right ones too"
        better = _PAIR_RATE
    elif rate > min(2 * better, _HIGHEST_RATE) * 1.001:
        why = f"higher rates break what a model of {n_base / 1e6:.0f}M parameters knew before"
    elif rate < _LOWEST_RATE and not {"dpo", "redi"} & set(settings.objective):
        why = "LoRA wants about ten times the rate of full fine-tuning; this one hardly moves"
    else:
        return []
    return [Advice(key="train.learning_rate", present=f"{rate:g}", better=f"{better:g}", why=why)]


def advised_rate(n_base: int) -> float:
    """Return the peak learning rate for a base of this size."""
    if n_base < 500e6:
        return 5e-4
    return 3e-4 if n_base < 3e9 else 2e-4


def _pushes_down(settings: TrainSettings) -> bool:
    """Whether nothing but `redi` is trained: a second stage, in which few and small steps are in order."""
    return set(settings.objective) == {"redi"}


def _length(settings: TrainSettings, n_rows: int, n_labels: int, n_steps: int) -> list[Advice]:
    found = []
    if settings.epochs > 5 and n_rows > _FEW_ROWS:
        why = f"after three passes {n_rows} rows are learnt by heart and the rest is forgotten"
        found.append(Advice(key="train.epochs", present=f"{settings.epochs:g}", better="3", why=why))
    if settings.epochs < 2 and n_rows < _FEW_ROWS and not _pushes_down(settings):
        why = f"{n_rows} rows give {n_steps} steps in one pass, too few to learn from"
        found.append(Advice(key="train.epochs", present=f"{settings.epochs:g}", better="3", why=why))
    rows_per_step = n_rows * settings.epochs / max(1, n_steps)
    smaller = max(256, settings.tokens_per_step // 2)
    if smaller < settings.tokens_per_step and (
        rows_per_step > _MANY_ROWS_PER_STEP or (n_steps < _FEW_STEPS and rows_per_step >= 2)
    ):
        why = f"{n_steps} steps of {rows_per_step:.0f} rows each; LoRA learns more from small steps"
        present, better = str(settings.tokens_per_step), str(smaller)
        found.append(Advice(key="train.tokens_per_step", present=present, better=better, why=why))
    return found
