"""The dataset card in the format of the Hugging Face Hub: `datasets.load_dataset` reads the folder by it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from agentkd.schema import DatasetCard

__all__ = ["hub_card"]

_CONFIGS = {
    "sft": "a prompt and its completion as messages; TRL's `SFTTrainer` takes it as it is",
    "dpo": "a prompt with a chosen and a rejected completion; TRL's `DPOTrainer` takes it as it is",
}
_SPLITS = (("train", "train"), ("dev", "validation"))
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def hub_card(card: DatasetCard, files: Collection[str]) -> str:
    """Return the text of `README.md`: front matter that names the files, then what the dataset is."""
    return "\n".join([*_front_matter(card, files), *_body(card, files)]) + "\n"


def _front_matter(card: DatasetCard, files: Collection[str]) -> Iterable[str]:
    n = card.n_train + card.n_dev
    yield "---"
    yield f"pretty_name: {json.dumps(f'agentkd {card.id}')}"
    yield "license: unknown"
    yield "task_categories:"
    yield "- text-generation"
    yield "tags:"
    yield from ("- agentkd", "- agents", "- tool-use")
    yield "size_categories:"
    yield f"- {next((name for most, name in _SIZES if n < most), '1M<n<10M')}"
    forms = [form for form in _CONFIGS if any(f"{form}-{split}.jsonl" in files for split, _ in _SPLITS)]
    if forms:
        yield "configs:"
    for form in forms:
        yield f"- config_name: {form}"
        if form == "sft":
            yield "  default: true"
        yield "  data_files:"
        for split, named in _SPLITS:
            if f"{form}-{split}.jsonl" in files:
                yield f"  - split: {named}"
                yield f"    path: {form}-{split}.jsonl"
    yield "---"


def _body(card: DatasetCard, files: Collection[str]) -> Iterable[str]:
    counts = ", ".join(f"{n} {kind}" for kind, n in card.kinds.items()) or "none"
    sources = ", ".join(f"{n} {kind}" for kind, n in card.sources.items()) or "none"
    yield f"\n# {card.id}\n"
    yield "Training rows compiled by agentkd from what agents did, what was said about it, and the memories"
    yield "that were distilled from both.\n"
    yield "| | |"
    yield "|---|---|"
    yield f"| rows | {card.n_train} to train on, {card.n_dev} to watch the loss; {counts} |"
    yield f"| tokens | {card.n_label_tokens} trained of {card.n_tokens} |"
    yield f"| pairs | {card.n_pairs} train rows with a rejected completion |"
    yield f"| sources | {sources} |"
    yield f"| base model | `{card.base}`, template and tokenizer `{card.template_hash}` |"
    yield f"| teacher | {f'`{card.teacher}` with the memories in view' if card.teacher else 'none'} |"
    yield "| licence | unknown: that of the requests, tool outputs and models that the rows come from |"
    yield "\n## Files\n"
    yield "* `train.jsonl`, `dev.jsonl`: token ids with a loss weight each, views, target and provenance;"
    yield "  read by `agentkd train`"
    for form, what in _CONFIGS.items():
        if f"{form}-train.jsonl" in files or f"{form}-dev.jsonl" in files:
            yield f"* `{form}-*.jsonl`: {what}"
    yield "* `card.json`: these figures and every setting"
    yield "\nRows of one near-duplicate group are never in both splits; no row comes from a held-out task."
    yield "\n## Left out\n"
    yield from (f"* {n}: {reason}" for reason, n in card.dropped.items())
    if not card.dropped:
        yield "Nothing."
    if card.refusals:
        yield "\nThe first of each kind, and the cure:\n"
        yield from (f"* {_plain(refusal)}" for refusal in card.refusals)


def _plain(text: str) -> str:
    return " ".join(text.split())
