"""Bad input: one clear line on stderr, nothing on stdout, and an exit code that says what sort it was."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from safetensors import SafetensorError

from agentkd.cli import root
from agentkd.errors import AgentkdError, DataError, LockedError, ModelError, PluginError, TrainError

from .conftest import Cli


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `agentkd init` raise an error."""

    def arrange(error: BaseException) -> None:
        @click.command("init")
        def command() -> None:
            raise error

        monkeypatch.setattr("agentkd.cli.init.command", command)

    return arrange


def test_an_unknown_config_key_is_one_line_and_code_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "agentkd.toml").write_text("[train]\nepoch = 1\n")
    done = cli("-C", tmp_path, "cycle")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"error: unknown key `train.epoch` in {tmp_path / 'agentkd.toml'} (did you mean `epochs`?)\n"
    )


def test_a_folder_that_is_no_workspace_is_said_to_be_none(cli: Cli, tmp_path: Path) -> None:
    done = cli("-C", tmp_path, "cycle", "--json")
    assert (done.code, done.json["error"]["type"]) == (2, "ConfigError")
    assert "is no workspace (run `agentkd init` there" in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_broken_task_line_is_named_and_nothing_is_stored(cli: Cli, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"prompt": "2 + 2?", "answer": "4"}\n{"prompt": "3 + 3?", \n')
    (tmp_path / "agentkd.toml").write_text(
        f'[roles]\nactor = "scripted:x"\n[cycle]\nsuite = "jsonl"\n[suite.jsonl]\npath = "{tasks}"\n'
        '[memory]\nindex = "exact"\nembedder = "hashing"\n[plugins]\nauto = false\n'
    )
    done = cli("-C", tmp_path, "run")
    assert (done.code, done.out) == (3, "")
    assert f"line 2 of `{tasks}`" in done.err
    assert cli("-C", tmp_path, "runs", "list", "--json").json == []


def test_an_unknown_command_is_answered_with_the_nearest(cli: Cli) -> None:
    done = cli("cylce")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: no command is called `cylce` (did you mean `cycle`?)")


@pytest.mark.parametrize("arguments", [["run", "--nn"], ["run", "-n", "0"], ["memory"], ["run", "extra"]])
def test_wrong_usage_ends_with_code_2(cli: Cli, arguments: list[str]) -> None:
    assert cli(*arguments).code == 2


@pytest.mark.parametrize(
    "error",
    [
        DataError("bad `x`"),
        PluginError("plugin `p`"),
        LockedError("held"),
        ModelError("gone"),
        TrainError("nan"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_each_error_has_its_own_code(
    cli: Cli, failing: Callable[[BaseException], None], error: AgentkdError
) -> None:
    failing(error)
    done = cli("init")
    assert (done.code, done.out, done.err) == (error.exit_code, "", f"error: {error.message}\n")


def test_json_tells_an_error_on_stdout_too(cli: Cli, failing: Callable[[BaseException], None]) -> None:
    failing(DataError("bad `x`", hint="look", path=Path("a.json"), line=3))
    done = cli("--json", "init")
    assert (done.code, done.err) == (3, "error: bad `x` (look)\n")
    assert done.json == {
        "error": {
            "type": "DataError", "message": "bad `x`", "exit_code": 3, "hint": "look",
            "context": {"path": "a.json", "line": 3},
        }
    }  # fmt: skip
    failing(RuntimeError("odd"))
    assert cli("--json", "init").json["error"]["type"] == "RuntimeError"
    for arguments in (
        ["run", "--nn", "--json"],
        ["cylce", "--json"],
        ["--json", "memory", "list", "-n", "x"],
    ):
        done = cli(*arguments)
        assert (done.code, done.json["error"]["type"], done.json["error"]["exit_code"]) == (2, "usage", 2)
    assert cli("init").out == ""
    assert cli("--json", "memory").json["error"]["exit_code"] == 2
    failing(DataError("bad \udcff"))
    assert cli("--json", "init").json["error"]["message"] == "bad \ufffd"


def test_a_message_of_many_lines_is_printed_as_one(
    cli: Cli, failing: Callable[[BaseException], None]
) -> None:
    failing(DataError("first\n  second", hint="do\nthis"))
    assert cli("init").err == "error: first second (do this)\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/ledger.db"),
            "disk full while writing `/data/ledger.db`",
        ),
        (SafetensorError("Error while serializing: I/O error: No space left (os error 28)"), "disk full"),
    ],
)
def test_a_full_disk_is_called_one(
    cli: Cli, failing: Callable[[BaseException], None], error: Exception, said: str
) -> None:
    failing(error)
    done = cli("init")
    assert done.code == 5
    assert said in done.err


def test_a_failing_disk_says_which_file_and_what_to_do(
    cli: Cli, failing: Callable[[BaseException], None]
) -> None:
    failing(OSError(errno.EIO, "Input/output error", "/data/report.json"))
    done = cli("init")
    assert done.code == 5
    assert "/data/report.json" in done.err
    assert "see to it and run the same command again" in done.err


@pytest.mark.parametrize("command", [("memory", "history"), ("runs", "show"), ("lineage",)])
def test_a_name_that_is_no_text_is_refused(cli: Cli, tmp_path: Path, command: tuple[str, ...]) -> None:
    assert cli("-C", str(tmp_path), "init").code == 0
    done = cli("-C", str(tmp_path), *command, "\ud800")
    assert done.code in (3, 6)
    assert "unforeseen" not in done.err


def test_an_interrupt_ends_with_130(cli: Cli, failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    done = cli("init")
    assert done.code == 130
    assert "Traceback" not in done.err


def test_an_unforeseen_error_is_one_line_too_and_debug_shows_where(
    cli: Cli, failing: Callable[[BaseException], None]
) -> None:
    failing(ZeroDivisionError("by nothing"))
    done = cli("init")
    assert done.code == 1
    assert done.err.startswith("error: unforeseen ZeroDivisionError: by nothing")
    with pytest.raises(ZeroDivisionError):
        cli("--debug", "init")


def test_errors_are_red_on_a_terminal_only_and_never_with_no_color(
    cli: Cli, failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(DataError("bad"))
    assert "\x1b[" not in cli("init").err
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    styled = []
    monkeypatch.setattr(root.click, "echo", lambda text, err=False: styled.append(text))
    root._print_error("bad")
    monkeypatch.setenv("NO_COLOR", "1")
    root._print_error("bad")
    assert styled == ["\x1b[31m\x1b[1merror: \x1b[0mbad", "error: bad"]


def test_a_suite_that_no_plugin_offers_is_said_to_be_none_yet(cli: Cli, tmp_path: Path) -> None:
    done = cli("init", tmp_path / "a", "--suite", "jsnol")
    assert (done.code, (tmp_path / "a" / "agentkd.toml").is_file()) == (0, True)
    assert done.err.startswith("no plugin here offers a suite `jsnol` yet (did you mean `jsonl`?)\n")
    assert "no plugin" not in cli("init", tmp_path / "b", "--suite", "jsonl").err
