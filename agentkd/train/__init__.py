"""Training: a LoRA loop of our own in a process of its own.

`LoraTrainer` is the parent's side and imports nothing heavy. The process (`python -m agentkd.train`) reads
rows (`rows`), packs them without padding or repeated prefixes (`packing`, `attention`), trains the adapter
(`loop`, `body`, `lora`, `loss`), keeps itself resumable (`saves`) and publishes a checkpoint (`finish`).
"""

from __future__ import annotations

from agentkd.train.objectives import components
from agentkd.train.trainer import LoraTrainer, LoraTrainerSettings

__all__ = ["LoraTrainer", "LoraTrainerSettings", "components"]
