"""Chooses tools and requests out of the rows, and lays out the splits of the suite."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agentkd.errors import ConfigError
from agentkd.schema import ToolSpec, canonical_json
from agentkd_bfcl.answer import fit_answer
from agentkd_bfcl.data import Row
from agentkd_bfcl.settings import BfclLiveSettings
from agentkd_bfcl.split import group_near_copies, split_groups

__all__ = ["Item", "Selection", "select"]


@dataclass(frozen=True)
class Item:
    """A request with the tools that it is offered and the group of its near copies."""

    row: Row
    """The request; its answer fits the offered tool, its tools are those that are offered."""
    group: str
    """Id of the first request that it is a near copy of, or its own."""

    @property
    def tool(self) -> ToolSpec:
        """The tool that is to be called."""
        return next(tool for tool in self.row.tools if tool.name == self.row.tool)


@dataclass(frozen=True)
class Selection:
    """The suite as data."""

    tools: tuple[ToolSpec, ...]
    """Tools that the seen splits offer, by name."""
    splits: Mapping[str, tuple[Item, ...]]
    """Items per split, in the benchmark's order."""
    dropped: Mapping[str, int]
    """Requests left out, by reason."""


def select(rows: Sequence[Row], settings: BfclLiveSettings) -> Selection:
    """Choose tools and requests, group near copies and split.

    Raises:
        ConfigError: the data has too few tools or requests for the settings.
    """
    names = _frequent_tools(rows, settings)
    dropped: Counter[str] = Counter()
    rows = _distinct(rows, names, dropped)
    tools = {name: _commonest(name, rows) for name in names}
    offered = tuple(tools[name] for name in sorted(tools))
    fitted = []
    for row in rows:
        tool = tools.get(row.tool) or next((t for t in row.tools if t.name == row.tool), None)
        answer = fit_answer(tool, row.answer) if tool else None
        if answer is None:
            dropped["answer does not fit the tool"] += 1
        else:
            fitted.append(replace(row, answer=answer, tools=offered if row.tool in tools else row.tools))
    groups = group_near_copies([row.prompt for row in fitted])
    items = [Item(row, fitted[group].id) for row, group in zip(fitted, groups, strict=True)]
    seen = [item for item in items if item.row.tool in tools]
    return _lay_out(seen, [i for i in items if i.row.tool not in tools], offered, settings, dropped)


def _lay_out(
    seen: Sequence[Item],
    unseen: Sequence[Item],
    offered: tuple[ToolSpec, ...],
    settings: BfclLiveSettings,
    dropped: Counter[str],
) -> Selection:
    number = {name: i for i, name in enumerate(dict.fromkeys(item.group for item in seen))}
    splits = split_groups(
        [item.row for item in seen],
        [number[item.group] for item in seen],
        n_train=settings.train,
        n_holdout=settings.holdout,
        dev_share=settings.dev_share,
        seed=settings.seed,
    )
    train = tuple(seen[i] for i in splits.train)
    learnt = {item.group for item in train}
    apart = tuple(item for item in unseen if item.group not in learnt)
    dropped["near copy of a training request, in holdout-unseen"] = len(unseen) - len(apart)
    dropped["beyond `train` and `holdout`"] = len(seen) - len(splits.train) - len(splits.holdout)
    dev = set(splits.dev)
    layout = {
        "train": train,
        "train-inner": tuple(seen[i] for i in splits.train if i not in dev),
        "dev": tuple(seen[i] for i in splits.dev),
        "holdout": tuple(seen[i] for i in splits.holdout),
        "holdout-unseen": apart,
    }
    return Selection(offered, layout, {why: n for why, n in dropped.items() if n})


def _frequent_tools(rows: Iterable[Row], settings: BfclLiveSettings) -> list[str]:
    """Return the most requested tools of `live_multiple`, most requested first."""
    counts = Counter(row.tool for row in rows if row.category == "live_multiple")
    frequent = [name for name, n in counts.most_common() if n >= settings.min_requests]
    if len(frequent) < settings.n_tools:
        raise ConfigError(
            f"only {len(frequent)} tools have {settings.min_requests} requests, not {settings.n_tools}",
            hint="lower `n_tools` or `min_requests` in `[suite.bfcl-live]`",
        )
    return frequent[: settings.n_tools]


def _distinct(rows: Iterable[Row], names: Sequence[str], dropped: Counter[str]) -> list[Row]:
    """Leave out repeated requests; under the 26 tools one text is one task, elsewhere the tools count too."""
    seen: set[tuple[object, ...]] = set()
    kept = []
    for row in rows:
        text = (row.system, *row.prompt.lower().strip(" .?!").split())
        key = text if row.tool in names else (*text, row.tool)
        if key in seen:
            dropped["repeated request"] += 1
        else:
            kept.append(row)
            seen.add(key)
    return kept


def _commonest(name: str, rows: Iterable[Row]) -> ToolSpec:
    """Return the description of a tool that fits most of its answers; the more common one at a tie."""
    of_tool = [row for row in rows if row.tool == name]
    variants: dict[str, ToolSpec] = {}
    uses: defaultdict[str, int] = defaultdict(int)
    for row in of_tool:
        for tool in row.tools:
            if tool.name == name:
                variants.setdefault(canonical_json(tool), tool)
                uses[canonical_json(tool)] += 1
    fits = {key: sum(fit_answer(t, row.answer) is not None for row in of_tool) for key, t in variants.items()}
    return variants[max(variants, key=lambda key: (fits[key], uses[key]))]
