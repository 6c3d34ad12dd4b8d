"""Anchors hold the student to its base on general text, and only where they have a weight."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from agentkd import hf
from agentkd.errors import DataError
from agentkd.schema import AnchorSettings, Checkpoint, LoraSettings, TrainJob
from agentkd.train.anchor import SHIPPED, Anchors, read_anchors
from agentkd.train.body import Body
from agentkd.train.finish import job_key
from agentkd.train.loop import train
from agentkd.train.lora import add_adapter
from agentkd.train.packing import make_packs
from agentkd.train.reporter import Reporter
from agentkd.train.rows import View, load_dataset

MakeJob = Callable[..., TrainJob]

GENERAL = [
    {"text": "the cat sat on the mat and looked at the rain in the garden"},
    {"request": "what is the time", "reply": "it is nine in the morning"},
    {"text": "a river runs from the hills to the sea past many towns"},
]


@pytest.fixture
def general(tmp_path: Path) -> Path:
    file = tmp_path / "general.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in GENERAL), encoding="utf-8")
    return file


def run(job: TrainJob) -> Checkpoint:
    return train(job, Reporter(is_machine=True, out=io.StringIO()))


def terms_of(job: TrainJob) -> list[dict[str, float]]:
    lines = (Path(job.output) / "metrics.jsonl").read_text().splitlines()
    return [line["terms"] for line in map(json.loads, lines) if "terms" in line]


def drift(job: TrainJob, views: list[View]) -> float:
    """Return the mean KL(base || student) at the labels of the views."""
    base = hf.load_model(job.base, dtype="float32", device="cpu")
    student = hf.attach_adapter(hf.load_model(job.base, dtype="float32", device="cpu"), Path(job.output))
    total, n = 0.0, 0
    with torch.inference_mode():
        for view in views:
            ids, before = torch.tensor([view.ids]), [label - 1 for label in view.labels]
            log_p, log_q = (m(ids).logits[0, before].log_softmax(-1) for m in (base, student))
            total += float((log_p.exp() * (log_p - log_q)).sum())
            n += len(before)
    return total / n


def test_a_student_with_anchors_stays_nearer_to_its_base_and_learns_all_the_same(
    make_job: MakeJob, general: Path
) -> None:
    free = make_job(output="free", epochs=6.0, anchor=AnchorSettings(weight=0.0))
    settings = AnchorSettings(weight=3.0, share=1.0, top_k=400, path=str(general))
    held = make_job(output="held", epochs=6.0, anchor=settings)
    run(free), run(held)
    views = read_anchors(hf.load_tokenizer(free.base), general)

    assert drift(held, views) < 0.5 * drift(free, views)
    assert all("anchor" not in terms for terms in terms_of(free))
    learnt = terms_of(held)
    assert all("anchor" in terms for terms in learnt)
    assert learnt[0]["anchor"] == pytest.approx(0.0, abs=1e-4)  # before the first step it is the base
    assert learnt[-1]["sft"] < 0.7 * learnt[0]["sft"]


def test_every_anchor_comes_equally_often_and_a_resumed_job_sees_the_same_ones() -> None:
    views = [View(tuple(range(2, 12)), tuple(range(1, 10)), (1.0,) * 9)] * 5

    def anchors(seed: int) -> Anchors:
        settings = AnchorSettings(weight=1.0, share=0.2)
        return Anchors(
            settings, views, lambda v: make_packs(v, 512), tokens_per_step=100, chunk_tokens=8, seed=seed
        )

    order = [number for step in range(10) for number in anchors(0).of_step(step)]
    assert len(order) == 20  # 0.2 x 100 tokens are two anchors of ten
    assert [order.count(number) for number in range(5)] == [4] * 5
    assert list(anchors(0).of_step(7)) == order[14:16]
    assert order != [number for step in range(10) for number in anchors(1).of_step(step)]


@pytest.fixture
def body(base: Path) -> Body:
    model = hf.load_model(base, dtype="float32", device="cpu")
    body = Body(add_adapter(model, LoraSettings(r=4), init_adapter="", seed=0))
    body.pack_for_training([View((1, 5, 6, 7), (3,), (1.0,))])
    with torch.no_grad():
        for name, parameter in body.model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.1)
    return body


def test_neither_chunks_nor_shares_change_the_gradient(base: Path, body: Body, general: Path) -> None:
    views = read_anchors(hf.load_tokenizer(base), general)
    found, logits = [], body.logits
    for chunk_tokens, shares in ((4096, [1.0]), (5, [0.5, 0.5])):
        settings, most = AnchorSettings(weight=2.0, share=1.0), 0

        def counted(states: torch.Tensor) -> torch.Tensor:
            nonlocal most
            most = max(most, len(states))
            return logits(states)

        body.logits = counted  # type: ignore[method-assign]
        anchors = Anchors(
            settings, views, lambda v: make_packs(v, 512),
            tokens_per_step=200, chunk_tokens=chunk_tokens, seed=0,
        )  # fmt: skip
        anchors.prepare(body, 2)
        loss = sum(anchors.accumulate(body, 1, share) for share in shares)
        parameters = [p for p in body.model.parameters() if p.grad is not None]
        found.append((loss, torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])))
        body.model.zero_grad()
        assert (most <= 5) == (chunk_tokens == 5)  # a vocabulary of logits per token of general text is much
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert found[0][0] > 0
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-3)


def test_the_logged_loss_is_the_one_that_is_descended(make_job: MakeJob) -> None:
    anchor = AnchorSettings(weight=0.3)
    job = make_job(objective={"sft": {"weight": 0.25}}, anchor=anchor, epochs=1.0)
    trained = run(job)
    lines = [json.loads(line) for line in (Path(job.output) / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    for line in steps[1:]:
        sft, anchor = line["terms"]["sft"], line["terms"]["anchor"]
        assert anchor > 0
        assert line["task_loss"] == pytest.approx(0.25 * sft)
        assert line["loss"] == pytest.approx(0.25 * sft + 0.3 * anchor)
    assert trained.metrics["loss"] == pytest.approx(steps[-1]["loss"], rel=0.5)


def test_another_text_of_anchors_is_another_job(make_job: MakeJob, general: Path) -> None:
    job = make_job(anchor=AnchorSettings(path=str(general)))
    card = load_dataset(job.dataset, 2048).card
    before = job_key(job, card)
    assert job_key(job, card) == before
    general.write_text(general.read_text().replace("the cat", "a cat"))
    assert job_key(job, card) != before


def test_the_shipped_anchors_are_text_and_chat(base: Path) -> None:
    views = read_anchors(hf.load_tokenizer(base), SHIPPED, max_tokens=4096)
    kinds = [set(json.loads(line)) for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    assert len(views) == len(kinds) >= 40
    assert kinds.count({"text"}) >= 10
    assert kinds.count({"request", "reply"}) >= 20
    whole = [view for view, kind in zip(views, kinds, strict=True) if kind == {"text"}]
    assert all(view.labels == tuple(range(1, len(view.ids))) for view in whole)


@pytest.mark.parametrize("line", ['{"words": "x"}', "no json", '{"text": 5}', '{"text": ""}', "[1]"])
def test_a_broken_anchor_is_refused_with_its_line(tmp_path: Path, base: Path, line: str) -> None:
    file = tmp_path / "broken.jsonl"
    file.write_text(f"{json.dumps(GENERAL[0])}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3") as caught:
        read_anchors(hf.load_tokenizer(base), file)
    assert caught.value.hint


def test_no_anchors_and_too_long_ones_are_refused(tmp_path: Path, base: Path, general: Path) -> None:
    tokenizer = hf.load_tokenizer(base)
    with pytest.raises(DataError, match="cannot be read"):
        read_anchors(tokenizer, tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no anchors"):
        read_anchors(tokenizer, tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match=r"line 1 .* more than 3"):
        read_anchors(tokenizer, general, max_tokens=3)
