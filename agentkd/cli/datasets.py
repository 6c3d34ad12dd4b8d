"""`agentkd datasets`: what was compiled, with the trained tokens in colour."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agentkd.cli.invocation import Invocation, pass_invocation
from agentkd.cli.render import print_facts, print_table
from agentkd.cli.shared import Group
from agentkd.errors import DataError, NotFoundError
from agentkd.plugins import nearest

if TYPE_CHECKING:
    from rich.console import Console

    from agentkd.schema import DatasetCard, Example, Rendered
    from agentkd.workspace import Workspace

__all__ = ["command", "print_card", "spans"]

Decode = Callable[[Sequence[int]], str]


@click.group("datasets", cls=Group)
def command() -> None:
    """Look at datasets, with their trained tokens."""


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
@click.option("--teacher", is_flag=True, help="Print the teacher's view, with the recalled memories.")
@pass_invocation
def show(invocation: Invocation, dataset_id: str | None, n: int, split: str, teacher: bool) -> None:
    """Show a dataset's card and rows, with the trained tokens in green.

    DATASET_ID defaults to the latest dataset. Without colour, trained tokens stand in ⟦ ⟧.
    """
    with invocation.workspace() as workspace:
        card = _card(workspace, dataset_id)
        rows = list(islice(_rows(workspace.root / "datasets" / card.id / f"{split}.jsonl"), n))
        if invocation.is_json:
            invocation.show({"card": card, "rows": rows}, lambda value, console: None)
            return
        decode = _decoder(workspace, card)
    invocation.show(card, lambda value, console: _print_dataset(value, rows, decode, teacher, console))


def _card(workspace: Workspace, dataset_id: str | None) -> DatasetCard:
    cards = {card.id: card for card in workspace.datasets()}
    if not cards:
        raise NotFoundError("there is no dataset yet", hint="run `agentkd compile`")
    name = dataset_id or list(cards)[-1]
    if name not in cards:
        raise NotFoundError(f"no dataset is called `{name}`", hint=nearest(name, cards), name=name)
    return cards[name]


def _rows(path: Path) -> Iterator[Example]:
    from agentkd.schema import Example

    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Example.model_validate(json.loads(line))
            except ValueError as error:
                raise DataError(
                    f"line {number} of `{path}` is not a training row", path=str(path), line=number
                ) from error


def _decoder(workspace: Workspace, card: DatasetCard) -> Decode | None:
    """Return a decoder of the base that rendered the rows; None where it is not at hand."""
    files = workspace.parts.student_files
    tokenizer_file = files.path / "tokenizer.json"
    if card.base not in ("", files.base_id, files.source) or not tokenizer_file.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def spans(rendered: Rendered, decode: Decode) -> list[tuple[str, bool]]:
    """Return the row's text as (text, whether it is trained) spans."""
    pairs = zip(rendered.ids, rendered.weights, strict=True)
    return [
        (decode([token for token, _ in group]), is_trained)
        for is_trained, group in groupby(pairs, key=lambda pair: pair[1] > 0)
    ]


def print_card(card: DatasetCard, console: Console) -> None:
    """Print what a dataset is."""
    print_facts(
        console,
        [
            ("dataset", card.id),
            ("rows", f"{card.n_train} to train on, {card.n_dev} to watch"),
            ("tokens", f"{card.n_label_tokens:,} trained of {card.n_tokens:,}"),
            ("left out", ", ".join(f"{n} {reason}" for reason, n in sorted(card.dropped.items()))),
            ("base", card.base),
            ("created", f"{card.created_at:%Y-%m-%d %H:%M} UTC"),
        ],
    )


def _print_cards(cards: Sequence[DatasetCard], console: Console) -> None:
    rows = [(c.id, c.n_train, c.n_dev, c.n_label_tokens, c.n_tokens, f"{c.created_at:%Y-%m-%d %H:%M}")
            for c in cards]  # fmt: skip
    columns = ["dataset", "train", "dev", "trained tokens", "tokens", "created (UTC)"]
    print_table(console, columns, rows, empty="no datasets yet")


def _print_dataset(
    card: DatasetCard, rows: Sequence[Example], decode: Decode | None, teacher: bool, console: Console
) -> None:
    from rich.text import Text

    print_card(card, console)
    if decode is None:
        console.print("the base that rendered these rows is not here: token ids only", style="yellow")
    for row in rows:
        console.rule(f"{row.kind}  {row.id}  task {row.task_id}  weight {row.weight:g}", style="dim")
        rendered = row.teacher if teacher else row.student
        if rendered is None:
            console.print("this row has no teacher view", style="dim")
            continue
        shown = Text()
        for text, is_trained in spans(rendered, decode or (lambda ids: f" {list(ids)} ")):
            if is_trained and not console.color_system:
                text = f"⟦{text}⟧"
            shown.append(text, style="bold green" if is_trained else "dim")
        console.print(shown)
        console.print(
            f"from {', '.join([*row.provenance.trajectories, *row.provenance.memories])}", style="dim"
        )
