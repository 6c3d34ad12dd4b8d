"""Commands of plugins: mounted beside the built-in ones, and a broken plugin never hides the help."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Cli

HELLO = """\
import agentkd, click
@agentkd.hookimpl
def commands():
    yield click.Command("{name}", callback=lambda: click.echo("hi from {module}"), help="Say hi.")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("kd_"):
            del sys.modules[name]


def workspace(folder: Path, *modules: str) -> Path:
    quoted = ", ".join(f'"{module}"' for module in modules)
    (folder / "agentkd.toml").write_text(f"[plugins]\nauto = false\nmodules = [{quoted}]\n")
    return folder


def test_a_command_of_a_plugin_is_listed_and_runs(cli: Cli, folder: Path) -> None:
    (folder / "kd_hello.py").write_text(HELLO.format(name="hello", module="kd_hello"))
    root = workspace(folder, "kd_hello")
    text = cli("-C", root, "--help").out
    assert "Commands of plugins:\n  hello  Say hi." in text
    assert cli("-C", root, "hello").out == "hi from kd_hello\n"
    assert "did you mean `hello`" in cli("-C", root, "hallo").err


def test_two_commands_of_one_name_are_refused_with_both_plugins(cli: Cli, folder: Path) -> None:
    for module in ("kd_one", "kd_two"):
        (folder / f"{module}.py").write_text(HELLO.format(name="hello", module=module))
    done = cli("-C", workspace(folder, "kd_one", "kd_two"), "hello")
    assert done.code == 4
    assert "`kd_one` and `kd_two` both offer the command `hello`" in done.err


def test_a_plugin_cannot_take_the_name_of_a_built_in_command(cli: Cli, folder: Path) -> None:
    (folder / "kd_run.py").write_text(HELLO.format(name="run", module="kd_run"))
    done = cli("-C", workspace(folder, "kd_run"), "--help")
    assert "`agentkd` and `kd_run` both offer the command `run`" in done.err
    assert "Run the agent over a suite" in done.out


def test_a_broken_plugin_costs_the_help_one_line(cli: Cli, folder: Path) -> None:
    (folder / "kd_broken.py").write_text(
        "import agentkd\n@agentkd.hookimpl\ndef commands():\n    raise ValueError('no')\n    yield\n"
    )
    root = workspace(folder, "kd_broken")
    done = cli("-C", root, "--help")
    assert done.code == 0
    assert "plugin `kd_broken` failed in hook `commands`: ValueError: no" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "checkpoints" in done.out
    assert cli("-C", root, "config", "path").code == 0


def test_what_is_no_command_is_refused(cli: Cli, folder: Path) -> None:
    (folder / "kd_text.py").write_text(
        "import agentkd\n@agentkd.hookimpl\ndef commands():\n    yield 'hello'\n"
    )
    done = cli("-C", workspace(folder, "kd_text"), "hello")
    assert done.code == 4
    assert "offered `'hello'`, which is not a named click command" in done.err
