"""Teacher signals are computed once per row, and never trusted when damaged."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from agentkd import hf
from agentkd.errors import StoreError
from agentkd.schema import Example, LoraSettings
from agentkd.train.artefact import RowSignals, SignalCache, Unit, inspect_caches, row_key
from agentkd.train.body import Body
from agentkd.train.lora import adapter_parameters, add_adapter
from agentkd.train.objectives.buckets import teacher_buckets
from agentkd.train.packing import Pack, make_packs
from agentkd.train.rows import Row, View, load_dataset
from agentkd.train.signals import TeacherModel, TeacherSignals


@pytest.fixture
def rows(write_dataset: Callable[..., Path], make_example: Callable[..., Example]) -> tuple[Row, ...]:
    examples = [make_example(number, teacher=number != 2) for number in range(5)]
    return load_dataset(write_dataset(examples), 100).train


@pytest.fixture
def body(base: Path, rows: tuple[Row, ...], request: pytest.FixtureRequest) -> Body:
    model = hf.load_model(base, dtype="float32", device="cpu")
    settings = LoraSettings(r=4, alpha=8, target_modules=getattr(request, "param", "all-linear"))
    adapted = add_adapter(model, settings, init_adapter="", seed=0)
    for name, parameter in adapter_parameters(adapted):
        if ".lora_B." in name:
            parameter.data += torch.linspace(0.1, 0.9, len(parameter))[:, None]  # far from its base
    body = Body(adapted)
    body.pack_for_training([row.student for row in rows])
    return body


def prepared(
    root: Path,
    rows: tuple[Row, ...],
    body: Body,
    *,
    template: str = "t",
    top_k: int = 6,
    on_rows: Callable[[int], None] = lambda n: None,
) -> tuple[TeacherSignals, int]:
    cache = SignalCache(root, teacher_id="base-tiny", template_hash=template, top_k=top_k)
    signals = TeacherSignals(cache, n_vocabulary=body.n_vocabulary)
    n = signals.prepare(
        rows,
        lambda: TeacherModel(body, True),
        pack=lambda views: make_packs(views, 64),
        chunk_tokens=5,
        on_rows=on_rows,
    )
    return signals, n


def test_progress_counts_what_was_cached(tmp_path: Path, rows: tuple[Row, ...], body: Body) -> None:
    prepared(tmp_path, rows[:2], body)
    told: list[int] = []
    for _ in range(2):
        prepared(tmp_path, rows, body, on_rows=told.append)
    assert told == [2, 2], "two were there, two are computed, and later nothing is"


@pytest.mark.parametrize("body", ["all-linear", ("q_proj", "lm_head")], indirect=True)
def test_signals_are_the_base_models_own_distribution(
    tmp_path: Path, rows: tuple[Row, ...], body: Body, base: Path
) -> None:
    signals, _ = prepared(tmp_path, rows, body)
    (pack,) = make_packs([row.student for row in rows], 1000)
    found = signals.of_pack(pack, rows, torch.device("cpu"))
    plain = hf.load_model(base, dtype="float32", device="cpu")
    for label, (number, place) in enumerate(pack.labels):
        teacher = rows[number].teacher
        assert bool(found.has_teacher[label]) == (teacher is not None)
        if teacher is not None:
            with torch.inference_mode():
                logits = plain(input_ids=torch.tensor([teacher.ids[:-1]])).logits[0]
            wanted = logits[teacher.labels[place] - 1].log_softmax(-1).topk(6)
            assert found.top_ids[label].tolist() == wanted.indices.tolist()
            torch.testing.assert_close(found.log_probs[label], wanted.values, rtol=2e-3, atol=2e-3)


def test_a_second_run_and_another_dataset_reuse_rows(
    tmp_path: Path, rows: tuple[Row, ...], body: Body
) -> None:
    assert prepared(tmp_path, rows[:3], body)[1] == 2  # one of the three has no teacher
    assert prepared(tmp_path, rows[:3], body)[1] == 0
    assert prepared(tmp_path, rows, body)[1] == 2


@pytest.mark.parametrize("unit", ["token", "byte"])
def test_signals_of_a_pack_are_those_of_its_rows_label_by_label(tmp_path: Path, unit: Unit) -> None:
    """Rows in any order, tokens that begin at no label, labels without a token, a row without a teacher."""
    draw = np.random.default_rng(0)
    view = View(tuple(range(9)), tuple(range(1, 9)), (1.0,) * 8)
    rows = [Row(f"row-{n}", view, replace(view, ids=(n, *range(1, 9))) if n != 2 else None) for n in range(4)]
    stretches = {f"row-{n}": ((-1, -1), *((m, m + 1) for m in range(7))) for n in (0, 3)}  # none of row 1
    cache = SignalCache(tmp_path, teacher_id="t", template_hash="t", top_k=2, unit=unit)
    for row in (row for row in rows if row.teacher):
        ends = np.array([1, 3, 4, 6, 7] if unit == "byte" else [1, 2, 3, 4, 5, 6], np.int32)
        n = len(ends)
        probs = draw.uniform(0.1, 0.4, (n, 2))
        found = RowSignals(
            ids=draw.permuted(np.tile(np.arange(50, dtype=np.int32), (n, 1)), axis=1)[:, :2],
            log_probs=np.log(probs).astype(np.float16),
            tail=(1 - probs.sum(1)).astype(np.float16),
            chosen=np.zeros(n, np.float32),
            ends=ends,
        )
        cache.write({row_key(row.teacher): found})  # type: ignore[arg-type]
    signals = TeacherSignals(cache, n_vocabulary=50, stretches=stretches)
    signals.prepare(rows, None, pack=lambda views: [], chunk_tokens=1, on_rows=lambda n: None)
    order = draw.permutation([(number, place) for number in range(4) for place in range(8)]).tolist()
    pack = Pack(labels=[(number, place) for number, place in order])
    laid = signals.of_pack(pack, rows, torch.device("cpu"))
    token_of = {place: place for place in range(6)} if unit == "token" else {1: 0, 2: 1, 4: 2, 5: 3, 7: 4}
    taught = {0, 3} if unit == "byte" else {0, 1, 3}
    for label, (number, place) in enumerate(order):
        has = number in taught and place in token_of
        assert bool(laid.has_teacher[label]) == has
        kept = signals._signals(rows[number])
        wanted = kept.ids[token_of[place]].tolist() if has and kept else [0, 0]
        assert laid.top_ids[label].tolist() == wanted


def test_only_shards_with_a_wanted_row_are_loaded(
    tmp_path: Path, rows: tuple[Row, ...], body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = prepared(tmp_path, rows[:3], body)[0].cache
    prepared(tmp_path, rows, body)
    assert len(list(cache.folder.iterdir())) == 2
    loaded: list[int] = []
    load = safetensors.numpy.load
    monkeypatch.setattr(safetensors.numpy, "load", lambda data: loaded.append(len(data)) or load(data))
    wanted = row_key(rows[-1].teacher)  # type: ignore[arg-type]
    assert cache.read([wanted]).keys() == {wanted}
    assert len(loaded) == 1
    assert cache.read(["row-of-nobody"]) == {}
    keys = cache.keys()
    assert wanted in keys
    assert len(loaded) == 1


def test_another_template_or_top_k_shares_nothing(tmp_path: Path, rows: tuple[Row, ...], body: Body) -> None:
    prepared(tmp_path, rows, body)
    assert prepared(tmp_path, rows, body, template="other")[1] == 4
    assert prepared(tmp_path, rows, body, top_k=3)[1] == 4


def test_flipped_bits_are_noticed_and_mended(tmp_path: Path, rows: tuple[Row, ...], body: Body) -> None:
    prepared(tmp_path, rows, body)
    (shard,) = tmp_path.glob("*/*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    assert prepared(tmp_path, rows, body)[1] == 4
    assert prepared(tmp_path, rows, body)[1] == 0
    assert shard.is_file()


def test_a_truncated_shard_is_computed_again(tmp_path: Path, rows: tuple[Row, ...], body: Body) -> None:
    prepared(tmp_path, rows, body)
    (shard,) = tmp_path.glob("*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    assert prepared(tmp_path, rows, body)[1] == 4


@pytest.mark.parametrize("trouble", [errno.EMFILE, errno.EACCES, errno.EIO, None])
def test_a_shard_that_cannot_be_read_is_named_and_stays(
    tmp_path: Path,
    rows: tuple[Row, ...],
    body: Body,
    monkeypatch: pytest.MonkeyPatch,
    trouble: int | None,
) -> None:
    cache = prepared(tmp_path, rows, body)[0].cache
    (shard,) = tmp_path.glob("*/*.safetensors")
    keys = cache.keys()

    def refuse(self: Path, *args: object, **fields: object) -> None:
        raise MemoryError if trouble is None else OSError(trouble, os.strerror(trouble), str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        patched.setattr("safetensors.safe_open", refuse)
        refused = pytest.raises(MemoryError if trouble is None else StoreError)
        with refused as caught:
            cache.read(keys)
        with refused:
            inspect_caches(tmp_path)
    if trouble is not None:
        assert str(shard) in str(caught.value)
        assert "run the same command again" in str(caught.value)
    assert cache.read(keys).keys() == keys


def test_a_process_without_room_for_another_open_file_takes_no_shard_for_gone_or_damaged(
    tmp_path: Path, rows: tuple[Row, ...], body: Body
) -> None:
    cache = prepared(tmp_path, rows, body)[0].cache
    keys = cache.keys()
    cache.read(keys)  # whatever is imported for it is there
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tempfile.TemporaryFile() as last, pytest.MonkeyPatch.context() as patched:
        listed = sorted(cache.folder.glob("*.safetensors"))  # which takes a file itself
        patched.setattr(Path, "glob", lambda self, pattern: iter(listed))
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), hard))
        try:
            with pytest.raises(StoreError, match="Too many open files"):
                cache.read(keys)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert cache.read(keys).keys() == keys


def test_a_shard_that_another_process_took_away_is_computed_again(
    tmp_path: Path, rows: tuple[Row, ...], body: Body, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path, rows, body)
    (shard,) = tmp_path.glob("*/*.safetensors")
    listed = Path.glob

    def listed_then_gone(self: Path, pattern: str) -> Iterator[Path]:
        files = list(listed(self, pattern))
        if pattern == "*.safetensors":
            shard.unlink(missing_ok=True)
        return iter(files)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", listed_then_gone)
        assert prepared(tmp_path, rows, body)[1] == 4
    assert shard.is_file()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "glob", listed_then_gone)
        assert inspect_caches(tmp_path) == []


@pytest.mark.parametrize("head", [b"", b"\xff" * 8, (2).to_bytes(8, "little") + b"{}", b"\x04" + bytes(11)])
def test_what_has_no_header_of_a_shard_is_computed_again(
    tmp_path: Path, rows: tuple[Row, ...], body: Body, head: bytes
) -> None:
    prepared(tmp_path, rows, body)
    (shard,) = tmp_path.glob("*/*.safetensors")
    shard.write_bytes(head)
    assert prepared(tmp_path, rows, body)[1] == 4
    assert prepared(tmp_path, rows, body)[1] == 0


def test_the_cache_says_what_it_holds_and_which_shards_are_damaged(
    tmp_path: Path, rows: tuple[Row, ...], body: Body
) -> None:
    prepared(tmp_path, rows[:3], body)
    prepared(tmp_path, rows, body)
    (facts,) = inspect_caches(tmp_path)
    taught = [row.teacher for row in rows if row.teacher]
    assert (facts.teacher, facts.template, facts.top_k, facts.unit) == ("base-tiny", "t", 6, "token")
    assert (facts.n_shards, facts.n_rows, facts.n_damaged) == (2, 4, 0)
    assert facts.n_tokens == sum(len(view.labels) for view in taught)
    assert 0 < facts.mean_tail < 1
    assert facts.mean_surprise > 0
    shard = sorted(tmp_path.glob("*/*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    (damaged,) = inspect_caches(tmp_path)
    assert (damaged.n_shards, damaged.n_damaged) == (1, 1)
    assert shard.is_file(), "looking must not delete"


def test_the_tail_and_the_own_token_are_kept_with_the_top(
    tmp_path: Path, rows: tuple[Row, ...], body: Body
) -> None:
    signals, _ = prepared(tmp_path, rows, body, top_k=body.n_vocabulary)
    for row in (row for row in rows if row.teacher):
        kept = signals.cache.read([row_key(row.teacher)])[row_key(row.teacher)]  # type: ignore[arg-type]
        assert float(kept.tail.max()) < 2e-3
        for place, label in enumerate(row.teacher.labels):  # type: ignore[union-attr]
            (at,) = (kept.ids[place] == row.teacher.ids[label]).nonzero()  # type: ignore[union-attr]
            assert abs(float(kept.log_probs[place][at[0]]) - float(kept.chosen[place])) < 2e-2


@pytest.mark.parametrize("tail", [0.0, 1e-5, 1e-3, 0.2])
@pytest.mark.parametrize("k", [3, 6])
def test_a_loss_sees_the_tail_that_was_kept_whatever_rounding_left_of_the_top(
    tmp_path: Path, rows: tuple[Row, ...], body: Body, tail: float, k: int
) -> None:
    """The cached top of 6 passes 1 by rounding; a loss that reads fewer tokens counts the others as rest."""
    signals, _ = prepared(tmp_path, rows, body)
    row = next(row for row in rows if row.teacher)
    exact = np.array([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125]) * (1 - tail)
    found = signals.cache.read([row_key(row.teacher)])[row_key(row.teacher)]  # type: ignore[arg-type]
    kept = replace(
        found,
        log_probs=np.tile(np.log(exact * 1.0005).astype(np.float16), (len(found.ends), 1)),
        tail=np.full(len(found.ends), tail, np.float16),
    )
    signals._found[row_key(row.teacher)] = kept  # type: ignore[arg-type]
    (pack,) = make_packs([row.student], 1000)
    log_probs = signals.of_pack(pack, [row], torch.device("cpu")).log_probs[:, :k]
    rest = teacher_buckets(log_probs, torch.float32)[:, -1].exp()
    wanted = float(kept.tail[0]) + exact[k:].sum()
    torch.testing.assert_close(rest, torch.full_like(rest, wanted), rtol=0.05, atol=0.0)


def test_the_signals_of_a_killed_process_are_kept_shard_by_shard(
    tmp_path: Path, base: Path, write_dataset: Callable[..., Path], make_example: Callable[..., Example]
) -> None:
    write_dataset([make_example(number, teacher=True) for number in range(200)])
    script = tmp_path / "fill.py"
    script.write_text(_FILL)
    command = [sys.executable, str(script), str(base), str(tmp_path / "dataset"), str(tmp_path / "cache")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "kill"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.wait() == -signal.SIGKILL
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 2
    second = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert second.stdout.split() == ["72"], "200 rows, of which two shards of 64 were there"


_FILL = """
import os, signal, sys
from pathlib import Path
from agentkd import hf
from agentkd.train.artefact import SignalCache
from agentkd.train.body import Body
from agentkd.train.objectives.buckets import teacher_buckets
from agentkd.train.packing import make_packs
from agentkd.train.rows import load_dataset
from agentkd.train.signals import TeacherModel, TeacherSignals

base, dataset, root, *kill = sys.argv[1:]
body = Body(hf.load_model(base, dtype="float32", device="cpu"))
rows = load_dataset(dataset, 100).train
body.pack_for_training([row.teacher for row in rows])
shards = []

def on_rows(n):
    shards.append(n)
    if kill and len(shards) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

cache = SignalCache(Path(root), teacher_id="t", template_hash="t", top_k=4)
signals = TeacherSignals(cache, n_vocabulary=body.n_vocabulary)
n = signals.prepare(
    rows, lambda: TeacherModel(body, False), pack=lambda views: make_packs(views, 512), chunk_tokens=64,
    on_rows=on_rows,
)
print(n)
"""
