"""Bad input through the command line: one clear line, an exit code of its sort, and no half-written fact."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentkd.ledger import Ledger
from agentkd.testing import tiny_student
from agentkd.train import trainer

COLOURS = ("red", "blue", "green", "white")
ROOMS = ("kitchen", "hall", "cellar", "attic", "office")
TOOL = {
    "name": "set_lamp",
    "description": "Set the colour of a lamp.",
    "parameters": {
        "type": "object",
        "properties": {"colour": {"type": "string", "maxLength": 12}},
        "required": ["colour"],
    },
}
SETTINGS = """\
[roles]
student = "path:{world}/student"
actor = "scripted:clerk"

[model.scripted]
answers = ['{{"name": "set_lamp", "arguments": {{"colour": "pink"}}}}']

[agent]
force_tool_call = true
max_steps = 1
recall = "off"

[models]
device = "cpu"
dtype = "float32"
max_new_tokens = 32

[memory]
embedder = "hashing"
index = "exact"

[train]
epochs = 1
tokens_per_step = 512
device = "cpu"
dtype = "float32"
save_every_seconds = 0.0

[train.objective.sft]

[cycle]
suite = "jsonl"

[suite.jsonl]
path = "{world}/tasks.jsonl"

[plugins]
auto = false
"""


@dataclass(frozen=True)
class Done:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("error: ")
        return self.err.removeprefix("error: ").strip()


Starved = Callable[[str, int], Done]
Once = Callable[[str, Callable[[Path], object]], Path]


def agentkd(folder: Path, *arguments: str, **environment: str) -> Done:
    """Run the command line in a process of its own."""
    return agentkd_by([sys.executable, "-m", "agentkd.cli"], folder, *arguments, **environment)


def agentkd_by(program: list[str], folder: Path, *arguments: str, **environment: str) -> Done:
    """Run a program in a seat where there is one."""
    process = trainer.subprocess.Popen(
        [*program, "-q", "-C", str(folder), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**trainer.LoraTrainer()._environment(), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()  # where it has not ended by itself
    return Done(process.returncode, out, err)


def counts(folder: Path) -> dict[str, int]:
    with Ledger.open(folder / "ledger.db") as ledger:
        return {kind: n for kind, n in ledger.counts().items() if n}


@pytest.fixture(scope="module")
def world(built_once: Once) -> Path:
    """Return a folder with a tiny student and twenty tasks."""
    return built_once("bad-input-world", _make_world)


def _make_world(folder: Path) -> None:
    tiny_student(folder / "student")
    rows = [
        {
            "id": f"{room}-{colour}",
            "prompt": f"Make the lamp in the {room} {colour}.",
            "split": "holdout" if colour == "white" else "train",
            "tools": [TOOL],
            "calls": [{"name": "set_lamp", "arguments": {"colour": colour}}],
        }
        for room in ROOMS
        for colour in COLOURS
    ]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(world: Path, built_once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace that was run, distilled, compiled and trained; for reading only."""

    def build(folder: Path) -> None:
        (folder / "agentkd.toml").write_text(SETTINGS.format(world=world), encoding="utf-8")
        for command in ("run", "distill", "compile", "train"):
            done = agentkd(folder, command)
            assert done.code == 0, done.err

    return Path(
        shutil.copytree(built_once("bad-input-finished", build), tmp_path_factory.mktemp("x") / "done")
    )


@pytest.fixture
def new(world: Path, tmp_path: Path) -> Path:
    """Return a workspace that holds only its settings."""
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "agentkd.toml").write_text(SETTINGS.format(world=world), encoding="utf-8")
    return folder


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished workspace."""
    return Path(shutil.copytree(finished, tmp_path / "trained"))


def test_an_unknown_config_key_is_named_with_its_nearest(new: Path) -> None:
    file = new / "agentkd.toml"
    file.write_text(file.read_text().replace("epochs = 1", "epoch = 1"))
    done = agentkd(new, "cycle")
    assert done.code == 2
    assert done.error == f"unknown key `train.epoch` in {file} (did you mean `epochs`?)"
    assert [path.name for path in new.iterdir()] == ["agentkd.toml"]


def test_a_broken_line_of_tasks_is_named_and_nothing_is_stored(new: Path, world: Path) -> None:
    broken = new / "broken.jsonl"
    broken.write_text((world / "tasks.jsonl").read_text() + '{"prompt": "half a\n')
    done = agentkd(new, "--set", f"suite.jsonl.path={broken}", "cycle")
    assert done.code == 3
    assert f"line 21 of `{broken}`" in done.error
    assert set(counts(new)) <= {"cycles", "phases"}  # the failed try is on record, and no fact of it
    assert agentkd(new, "run", "-n", "2").code == 0


@pytest.mark.parametrize(("package", "command"), [("torch", "train"), ("llguidance", "run")])
def test_a_missing_extra_is_named_with_its_pip_command(
    trained: Path, tmp_path: Path, package: str, command: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == '{package}':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    before = counts(trained)
    anew = ("--set", "train.seed=1", "--set", "roles.actor=base")
    done = agentkd(trained, *anew, command, PYTHONPATH=str(tmp_path))
    assert done.code == 8
    assert f"needs the package `{package}`, which is not installed" in done.error
    assert "pip install 'agentkd[train]'" in done.error
    assert counts(trained) == before


PLUGINS = {
    "import": ("raise ValueError('broken')", "failed in its import: ValueError: broken"),
    "components": (
        "import agentkd\n@agentkd.hookimpl\ndef components():\n    raise ValueError('broken')\n    yield\n",
        "failed in hook `components`: ValueError: broken",
    ),
    "hook": (
        "import agentkd\n@agentkd.hookimpl\ndef after_run(trajectory):\n    raise ValueError('broken')\n",
        "failed in hook `after_run`: ValueError: broken",
    ),
}


@pytest.mark.parametrize("where", PLUGINS)
def test_a_plugin_that_raises_is_named_and_without_it_the_work_goes_on(
    new: Path, finished: Path, tmp_path: Path, where: str
) -> None:
    text, said = PLUGINS[where]
    (tmp_path / "clumsy.py").write_text(text)
    done = agentkd(new, "--set", 'plugins.modules=["clumsy"]', "run", PYTHONPATH=str(tmp_path))
    assert done.code == 4
    assert f"plugin `clumsy` {said}" in done.error
    assert agentkd(new, "run").code == 0
    kinds = ("trajectories", "steps", "corrections")
    assert counts(new) == {kind: counts(finished)[kind] for kind in kinds}


def flip_a_bit(folder: Path) -> str:
    file = folder / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-50] ^= 1
    file.write_bytes(data)
    return f"`{file}` differs from its sha256"


def add_a_pickle(folder: Path) -> str:
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    return f"`{folder / 'adapter_model.bin'}` is code or a pickle"


@pytest.mark.parametrize(
    ("damage", "command"),
    [(flip_a_bit, "evaluate"), (flip_a_bit, "promote"), (add_a_pickle, "promote")],
)
def test_a_corrupt_adapter_is_neither_loaded_nor_promoted(
    trained: Path, damage: Callable[[Path], str], command: str
) -> None:
    folder = next((trained / "checkpoints").iterdir())
    said = damage(folder)
    before = counts(trained)
    arguments = {
        "evaluate": ("--set", 'evaluate.arms=["student"]', "evaluate"),
        "promote": ("checkpoints", "promote", folder.name),
    }[command]
    done = agentkd(trained, *arguments)
    assert done.code == 9
    assert said in done.error
    assert counts(trained) == before


def test_an_unreachable_model_is_one_line_and_stores_nothing(new: Path) -> None:
    with socket.socket() as free:  # bound and not listening: whoever connects is refused
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = agentkd(
            new, "--set", "roles.actor=openai/gpt-none", "--set", f"model.litellm.api_base={address}",
            "--set", "models.retries=1", "run", "-n", "4", OPENAI_API_KEY="none",
        )  # fmt: skip
    assert done.code == 7
    assert f"model `openai/gpt-none` at `{address}` cannot be reached" in done.error
    assert counts(new) == {}


N_TASKS = 15
STEPS = {  # command: bytes left to it, and the facts after it
    "run": (40_000, {"trajectories": N_TASKS, "steps": N_TASKS, "corrections": N_TASKS}),
    "distill": (40_000, {"memories": N_TASKS, "memory_events": N_TASKS}),
    "compile": (8_000, {"datasets": 1, "dataset_rows": N_TASKS}),
    "train": (60_000, {"checkpoints": 1}),
}
LIMITED = (
    "import resource, sys\nfrom agentkd.cli import main\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\nsys.exit(main(sys.argv[1:]))\n"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """Return a folder on a file system of 24 MB; None where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def scarce(small_disk: Path | None, new: Path) -> tuple[Path, Starved]:
    """Return a workspace, and a way to run a command in it with few bytes left on its disk.

    Without a disk of its own, a limit on the size of files stands for the full one.
    """
    if small_disk is None:
        return new, lambda command, n_bytes: agentkd_by(
            [sys.executable, "-c", LIMITED.format(n_bytes)], new, command
        )
    folder, filler = Path(shutil.copytree(new, small_disk / "workspace")), small_disk / "filler"

    def starved(command: str, n_bytes: int) -> Done:
        with filler.open("wb", buffering=0) as file:
            with suppress(OSError):
                while file.write(bytes(65536)):
                    pass
            file.truncate(max(0, file.tell() - n_bytes))
        done = agentkd(folder, command)
        filler.unlink()
        return done

    return folder, starved


def test_on_a_full_disk_a_command_fails_whole_and_works_after_it_is_freed(
    scarce: tuple[Path, Starved],
) -> None:
    folder, starved = scarce
    assert agentkd(folder, "memory", "list").code == 0  # the ledger and its tables
    stored: dict[str, int] = {}
    for command, (n_bytes, facts) in STEPS.items():
        done = starved(command, n_bytes)
        assert done.code == 5, (command, done)
        assert "space" in done.error or "too large" in done.error
        assert counts(folder) == stored, command
        stored.update(facts)
        assert agentkd(folder, command).code == 0, command
        assert counts(folder) == stored, command
    assert not [*folder.glob("**/*.partial"), *folder.glob("**/*.tmp"), *folder.glob("datasets/.*")]
