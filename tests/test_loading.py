"""What is loaded is what was registered, and loading it runs nothing that came along."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentkd import Workspace, hf
from agentkd.errors import AgentkdError, CheckpointError
from agentkd.schema import Checkpoint, DatasetCard, Message

NAME = "student@1-aaaaaaaa"
FILES = ("adapter_config.json", "adapter_model.safetensors", "checkpoint.json", "metrics.jsonl")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf.tiny_model(tmp_path_factory.mktemp("loading") / "base", seed=0)


@pytest.fixture(scope="module")
def made(base: Path) -> Path:
    """A workspace with one registered checkpoint."""
    from peft import LoraConfig, get_peft_model

    root = base.parent / "shop"
    with Workspace(root, settings={"roles": {"student": f"path:{base}"}}) as shop:
        folder = root / "checkpoints" / NAME
        model = get_peft_model(hf.load_model(base, "float32"), LoraConfig(r=2, target_modules=["q_proj"]))
        model.save_pretrained(str(folder))
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
        checkpoint = Checkpoint(
            name=NAME,
            base=f"path:{base}",
            base_id=hf.base_id(base),
            dataset_id="d",
            files=hf.registered_files(folder, {}),
        )
        (folder / "checkpoint.json").write_text(checkpoint.model_dump_json(indent=2) + "\n")
        files = hf.registered_files(folder, checkpoint.files)
        shop.ledger.datasets.add(DatasetCard(id="d", n_train=1, n_dev=0, n_label_tokens=1, n_tokens=1), [])
        shop.ledger.checkpoints.add(checkpoint.model_copy(update={"files": files}))
    return root


@pytest.fixture
def shop(made: Path, tmp_path: Path) -> Iterator[Workspace]:
    root = shutil.copytree(made, tmp_path / "shop")
    settings = {"roles": {"student": f"path:{made.parent / 'base'}"}}
    with Workspace(root, settings=settings) as opened:
        opened.parts.checkpoint_folder(NAME)  # sound as it is
        yield opened


def test_eighty_damaged_checkpoints_are_refused(shop: Workspace) -> None:
    rng = random.Random(0)
    folder = shop.root / "checkpoints" / NAME
    refused = 0
    for number in range(80):
        file = folder / FILES[number % len(FILES)]
        sound = file.read_bytes()
        data = bytearray(sound)
        if number < 60:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        else:
            data = data[: rng.randrange(len(data))]
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match=file.name):
            shop.model(f"agentkd/{NAME}")
        with pytest.raises(CheckpointError, match=file.name):
            shop.promote(NAME, force=True)
        refused += 1
        file.write_bytes(sound)
    assert refused == 80
    assert shop.promote(NAME, force=True) == "base"


def test_a_manifest_that_was_changed_along_with_the_weights_is_refused(shop: Workspace) -> None:
    folder = shop.root / "checkpoints" / NAME
    weights, manifest = folder / "adapter_model.safetensors", folder / "checkpoint.json"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    told = json.loads(manifest.read_text())
    told["files"] = {name: hf.file_sha256(folder / name) for name in told["files"]}
    manifest.write_text(json.dumps(told))
    hf.read_adapter(folder)  # by itself the folder is consistent
    with pytest.raises(CheckpointError, match="registry"):
        shop.model(f"agentkd/{NAME}")


def test_a_file_that_is_missing_or_not_registered_is_refused(shop: Workspace) -> None:
    folder = shop.root / "checkpoints" / NAME
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match="is in the registry but is not there"):
        shop.model(f"agentkd/{NAME}")
    bare = shop.parts.checkpoint(NAME).model_copy(update={"name": "student@2-bbbbbbbb", "files": {}})
    shop.ledger.checkpoints.add(bare)
    shutil.copytree(folder, folder.with_name(bare.name))
    with pytest.raises(CheckpointError, match="no sha256 in the registry"):
        shop.model(f"agentkd/{bare.name}")


class Evil:
    """A pickle that makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def code(mark: Path) -> str:
    return f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"


def change(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


def _adapter_file(name: str) -> Callable[[Path, Path, Path], None]:
    def plant(model: Path, adapter: Path, mark: Path) -> None:
        (adapter / name).parent.mkdir(exist_ok=True)
        text = name.endswith((".py", ".sh"))
        (adapter / name).write_bytes(code(mark).encode() if text else pickle.dumps(Evil(mark)))

    return plant


def _auto_map(model: Path, adapter: Path, mark: Path) -> None:
    (model / "evil.py").write_text(code(mark))
    change(
        model / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}
    )
    change(model / "config.json", model_type="evil")


def _tokenizer_map(model: Path, adapter: Path, mark: Path) -> None:
    (model / "evil.py").write_text(code(mark))
    change(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tok", "evil.Tok"]})
    change(model / "tokenizer_config.json", tokenizer_class="EvilTokenizer")


def _torch_weights(model: Path, adapter: Path, mark: Path) -> None:
    for file in model.glob("*.safetensors"):
        file.unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))


def _pickled_weights(model: Path, adapter: Path, mark: Path) -> None:
    (adapter / "adapter_model.safetensors").write_bytes(pickle.dumps(Evil(mark)))


def _auto_mapping(model: Path, adapter: Path, mark: Path) -> None:
    (adapter.parent / "evil_library.py").write_text(code(mark))
    mapping = {"base_model_class": "Evil", "parent_library": "evil_library"}
    change(adapter / "adapter_config.json", auto_mapping=mapping)


def _megatron(model: Path, adapter: Path, mark: Path) -> None:
    (adapter.parent / "evil_library.py").write_text(code(mark))
    change(adapter / "adapter_config.json", megatron_config={"a": 1}, megatron_core="evil_library")


def _template(model: Path, adapter: Path, mark: Path) -> None:
    shell = f"{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}"
    subclasses = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (model / "chat_template.jinja").write_text(subclasses + shell)


PAYLOADS = {
    "adapter_model.bin": _adapter_file("adapter_model.bin"),
    "optimizer.pt": _adapter_file("optimizer.pt"),
    "state.pkl": _adapter_file("deep/state.pkl"),
    "arrays.npy": _adapter_file("arrays.npy"),
    "modeling.py": _adapter_file("modeling.py"),
    "install.sh": _adapter_file("install.sh"),
    "weights that are a pickle": _pickled_weights,
    "auto_mapping": _auto_mapping,
    "megatron_core": _megatron,
    "auto_map of a model": _auto_map,
    "auto_map of a tokenizer": _tokenizer_map,
    "pytorch_model.bin": _torch_weights,
    "chat template": _template,
}


def load(model: Path, adapter: Path) -> None:
    loaded = hf.load_model(model, "float32")
    hf.render(hf.load_tokenizer(model), [Message(role="user", content="hello")])
    hf.attach_adapter(loaded, adapter)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_malicious_folder_is_refused_and_runs_nothing(
    base: Path, made: Path, tmp_path: Path, payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    model = shutil.copytree(base, tmp_path / "model")
    adapter = shutil.copytree(made / "checkpoints" / NAME, tmp_path / "adapter")
    (adapter / "checkpoint.json").unlink()
    load(model, adapter)
    mark = tmp_path / "executed"
    PAYLOADS[payload](model, adapter, mark)
    with pytest.raises(AgentkdError):
        load(model, adapter)
    assert not mark.exists()


def test_the_payloads_are_live(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()
    mark.unlink()
    exec(code(mark))
    assert mark.exists()
