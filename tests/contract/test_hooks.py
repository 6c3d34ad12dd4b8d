"""No hook without a docstring example, a caller in the tree and a test."""

from __future__ import annotations

import inspect
import re

import pytest

from agentkd import hookspecs

from .conftest import ROOT

HOOKS = [name for name in hookspecs.__all__ if name not in ("hookimpl", "hookspec")]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_shows_an_example_with_its_own_name(hook: str) -> None:
    text = inspect.getdoc(getattr(hookspecs, hook)) or ""
    summary, _, example = text.partition("Example::")
    assert summary.strip().splitlines()[0].endswith(".")
    assert f"def {hook}(" in example


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_has_a_caller_in_the_tree(hook: str, sources: dict[str, str]) -> None:
    pattern = re.compile(rf"\bhookspecs\.{hook}\b")
    callers = [path for path, text in sources.items() if pattern.search(text)]
    assert callers, f"nobody calls the hook `{hook}`"


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_exercised_by_a_test_outside_of_this_folder(hook: str) -> None:
    tests = [path for path in ROOT.glob("tests/**/test_*.py") if path.parent.name != "contract"]
    assert any(re.search(rf"\b{hook}\b", path.read_text(encoding="utf-8")) for path in tests)


def test_hooks_stand_in_the_file_in_the_order_of_a_cycle() -> None:
    lines = {hook: inspect.getsourcelines(getattr(hookspecs, hook))[1] for hook in HOOKS}
    order = [
        "components", "commands", "skills", "find_secrets", "before_run", "rank_recalled", "after_step",
        "after_run", "after_correction", "admit_memory", "retire_memory", "is_compile_due", "admit_example",
        "judge_checkpoint", "after_promote", "after_phase", "after_cycle",
    ]  # fmt: skip
    assert sorted(lines, key=lambda hook: lines[hook]) == order
