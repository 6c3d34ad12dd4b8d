"""`agentkd datasets`: what was compiled, with the trained tokens in colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_facts, print_table
from agentkd.cli.row import Decode, RowView, print_row
from agentkd.cli.shared import Group
from agentkd.cli.signals import command as signals
from agentkd.errors import DataError, NotFoundError, StoreError
from agentkd.files import opened_whole
from agentkd.plugins import nearest

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.schema import DatasetCard, Example
    from agentkd.workspace import Workspace

__all__ = ["command", "print_card"]

FORMATS = ("openai", "trl-dpo", "trl-sft")
KINDS = ("trajectory", "internalise", "correction", "negative", "synthetic")


@click.group("datasets", cls=Group)
def command() -> None:
    """Look at datasets, with their trained tokens."""


command.add_command(signals)


@command.command("list")
@pass_invocation
def list_(invocation: Invocation) -> None:
    """List datasets, oldest first."""
    with invocation.workspace() as workspace:
        invocation.show(workspace.datasets(), _print_cards)


@command.command("show")
@click.argument("dataset_id", required=False)
@click.option("-n", "n", type=click.IntRange(min=0), default=3, show_default=True, help="Rows to print.")
@click.option("--split", type=click.Choice(["train", "dev"]), default="train", show_default=True)
@click.option("--kind", type=click.Choice(KINDS), help="Only rows of this kind.")
@click.option("--teacher", is_flag=True, help="Print the teacher's view, with the recalled memories.")
@click.option("--rejected", is_flag=True, help="Print rows with a rejected completion, and that in red.")
@pass_invocation
def show(
    invocation: Invocation,
    dataset_id: str | None,
    n: int,
    split: str,
    kind: str | None,
    teacher: bool,
    rejected: bool,
) -> None:
    """Show a dataset's card and rows, with the trained tokens in green: the heavier, the brighter.

    DATASET_ID defaults to the latest dataset. Without colour, trained tokens stand in ⟦ ⟧, with their weight
    where it is not 1, and rejected ones in ⟦✗ ⟧.
    """
    from agentkd.compiler import read_examples

    with invocation.workspace() as workspace:
        card = _card(workspace, dataset_id)
        every = read_examples(workspace.root / "datasets" / card.id / f"{split}.jsonl")
        wanted = (row for row in every if kind in (None, row.kind) and (row.student_rejected or not rejected))
        rows = list(islice(wanted, n))
        if invocation.is_json:
            invocation.show({"card": card, "rows": rows}, lambda value, console: None)
            return
        decode = _decoder(workspace, card)
    view = RowView(decode, is_teacher=teacher, has_rejected=rejected)
    invocation.show(card, lambda value, console: _print_dataset(value, rows, view, console))


@command.command("export")
@click.argument("dataset_id", required=False)
@click.option("--format", "form", type=click.Choice(FORMATS), default="trl-sft", show_default=True)
@click.option("--split", type=click.Choice(["train", "dev"]), default="train", show_default=True)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="File; `<id>-<format>-<split>.jsonl` else."
)
@click.option("--force", is_flag=True, help="Replace a file.")
@pass_invocation
def export(
    invocation: Invocation, dataset_id: str | None, form: str, split: str, out: Path | None, force: bool
) -> None:
    """Write a dataset as JSONL for another trainer.

    `trl-sft` and `trl-dpo` are what TRL's SFTTrainer and DPOTrainer read, `openai` is a fine-tuning file with
    tool calls. Negatives without a right answer have no place in them and are left out.
    """
    from agentkd.compiler import export_lines, read_examples
    from agentkd.hf import load_tokenizer

    with invocation.workspace() as workspace:
        card = _card(workspace, dataset_id)
        file = out or Path(f"{card.id}-{form}-{split}.jsonl")
        if file.exists() and not force:
            raise DataError(f"`{file}` exists already", hint="choose another with -o, or pass `--force`")
        tokenizer = load_tokenizer(workspace.parts.student_files.path) if form != "openai" else None
        rows = read_examples(workspace.root / "datasets" / card.id / f"{split}.jsonl")
        n = _write_lines(file, export_lines(rows, form, tokenizer))
        if not n:
            raise DataError(
                f"no row of `{card.id}` ({split}) fits the format `{form}`",
                hint="pairs come from corrections, and from failed runs where an objective learns from them",
            )
    written = {"dataset": card.id, "format": form, "split": split, "file": str(file), "n": n}
    invocation.show(written, lambda value, console: console.print(f"{n} rows in {file}"))


def _write_lines(file: Path, lines: Iterator[str]) -> int:
    """Write lines aside and rename the file when it is whole; return their number."""
    n, first = 0, next(lines, None)
    if first is None:
        return n
    try:
        with opened_whole(file) as opened:
            for line in chain([first], lines):
                opened.write(line)
                n += 1
    except OSError as error:
        raise StoreError(f"cannot write `{file}`: {error.strerror or error}", path=str(file)) from error
    return n


def _card(workspace: Workspace, dataset_id: str | None) -> DatasetCard:
    cards = {card.id: card for card in workspace.datasets()}
    if not cards:
        raise NotFoundError("there is no dataset yet", hint="run `agentkd compile`")
    name = dataset_id or list(cards)[-1]
    if name not in cards:
        raise NotFoundError(f"no dataset is called `{name}`", hint=nearest(name, cards), name=name)
    return cards[name]


def _decoder(workspace: Workspace, card: DatasetCard) -> Decode | None:
    """Return a decoder of the base that rendered the rows; None where it is not at hand."""
    files = workspace.parts.student_files
    tokenizer_file = files.path / "tokenizer.json"
    if card.base not in ("", files.base_id, files.source) or not tokenizer_file.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def print_card(card: DatasetCard, console: Console) -> None:
    """Print what a dataset is."""
    print_facts(
        console,
        [
            ("dataset", card.id),
            ("rows", f"{card.n_train} to train on, {card.n_dev} to watch"),
            ("kinds", ", ".join(f"{n} {kind}" for kind, n in card.kinds.items())),
            ("pairs", f"{card.n_pairs} with a rejected answer" if card.n_pairs else ""),
            ("tokens", f"{card.n_label_tokens:,} trained of {card.n_tokens:,}"),
            ("left out", ", ".join(f"{n} {reason}" for reason, n in sorted(card.dropped.items()))),
            ("for example", "\n".join(card.refusals)),
            ("memories", ", ".join(f"{n} {reason}" for reason, n in card.eligibility.items())),
            ("rest on", ", ".join(f"{n} {kind}" for kind, n in card.sources.items() if n)),
            ("base", card.base),
            ("created", f"{card.created_at:%Y-%m-%d %H:%M} UTC"),
        ],
    )


def _print_cards(cards: Sequence[DatasetCard], console: Console) -> None:
    rows = [(c.id, c.n_train, c.n_dev, c.n_label_tokens, c.n_tokens, f"{c.created_at:%Y-%m-%d %H:%M}")
            for c in cards]  # fmt: skip
    columns = ["dataset", "train", "dev", "trained tokens", "tokens", "created (UTC)"]
    print_table(console, columns, rows, empty="no datasets yet")


def _print_dataset(card: DatasetCard, rows: Sequence[Example], view: RowView, console: Console) -> None:
    print_card(card, console)
    if view.decode is None:
        console.print("the base that rendered these rows is not here: token ids only", style="yellow")
    for row in rows:
        print_row(row, view, console)
    if not rows:
        console.print("no such rows", style="dim")
