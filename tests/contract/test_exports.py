"""Every public name resolves, lists are sorted, and the front door shows what it promises."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest

import agentkd

from .conftest import ROOT

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "agentkd").rglob("*.py")
    if path.name != "__main__.py"
)


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_and_resolves(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", None)
    if exported is None:
        source = ast.parse(inspect.getsource(module))
        public = [n.name for n in source.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        assert not [n for n in public if not n.startswith("_")], f"`{name}` has public names and no `__all__`"
        return
    constants = [n for n in exported if n.isupper()]
    others = [n for n in exported if not n.isupper()]
    assert sorted(constants) == constants
    assert sorted(others) == others, f"`__all__` of `{name}` is not sorted"
    assert len(set(exported)) == len(exported)
    missing = [n for n in exported if not hasattr(module, n)]
    assert not missing, f"`{name}` promises {missing}"


def test_the_front_door_resolves_every_name_lazily() -> None:
    assert sorted(agentkd.__all__) == agentkd.__all__
    assert set(agentkd.__all__) == set(agentkd._HOMES)
    assert all(getattr(agentkd, name) is not None for name in agentkd.__all__)
    assert set(agentkd.__all__) < set(dir(agentkd))
    with pytest.raises(AttributeError, match="no attribute `nothing`"):
        agentkd.nothing  # noqa: B018
