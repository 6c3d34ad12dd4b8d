"""Preference losses: exact gradients through the two passes, pairs kept together, margins that grow."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from agentkd import hf
from agentkd.errors import ConfigError, DataError, TrainError
from agentkd.schema import Example, LoraSettings, Message, Rendered, TrainJob
from agentkd.train.batch import Batch, Weighted
from agentkd.train.body import Body
from agentkd.train.feed import Feed
from agentkd.train.loop import train
from agentkd.train.lora import adapter_parameters, add_adapter
from agentkd.train.loss import StepScale, accumulate, normalisers
from agentkd.train.objectives import Sft
from agentkd.train.objectives.pairs import Dpo, DpoSettings, Redi, RediSettings
from agentkd.train.packing import Pack, make_packs
from agentkd.train.plan import plan
from agentkd.train.prepare import with_mean_weights
from agentkd.train.reference import References
from agentkd.train.reporter import Reporter
from agentkd.train.rows import Row, View, load_dataset

MakeJob = Callable[..., TrainJob]
DPO = Weighted(Dpo(DpoSettings(beta=0.7, label_smoothing=0.1)), 1.0, "test")
FREE = Weighted(Dpo(DpoSettings(beta=0.7, reference="none", length_normalised=True)), 0.5, "test")
REDI = Weighted(Redi(RediSettings()), 2.0, "test")
SFT = Weighted(Sft(), 0.25, "test")


def quiet() -> Reporter:
    return Reporter(is_machine=True, out=io.StringIO())


def run(job: TrainJob) -> list[dict[str, Any]]:
    train(job, quiet())
    text = (Path(job.output) / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "terms" in line]


def paired(number: int, make: Callable[..., Example]) -> Example:
    """A row whose wrong answer shares its first token with the right one."""
    row = make(number)
    ids, n = row.student.ids, len(row.student.ids) - 4
    wrong = (*ids[: n + 1], 400 + number % 3, 401, 402, 2)
    weights = (0.0,) * n + (1.0,) * (len(wrong) - n)
    return row.model_copy(
        update={
            "kind": "correction",
            "rejected": Message(role="assistant", content="n"),
            "student_rejected": Rendered(ids=wrong, weights=weights),
        }
    )


@pytest.fixture
def body(base: Path) -> Body:
    model = hf.load_model(base, dtype="float32", device="cpu")
    adapted = add_adapter(model, LoraSettings(r=4, alpha=8), init_adapter="", seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapter_parameters(adapted):
        if ".lora_B." in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return Body(adapted)


@pytest.fixture
def rows(body: Body) -> list[Row]:
    """Three pairs of different weight, a row without a rejected completion, and a lone rejected one."""
    rows = []
    for number in range(5):
        prompt = [1, 5, 6, *range(20 + number, 26 + 2 * number)]
        good, bad = [40 + number, 50, 2], [40 + number, 60 + number, 61, 62, 2]
        scale = 1.0 + number / 2
        chosen = _view(prompt, good, [scale, scale, 0.1 * scale])
        rejected = None if number == 3 else _view(prompt, bad, [scale] * 5)
        rows.append(Row(f"r{number}", chosen if number != 4 else View((), (), ()), None, rejected))
    body.pack_for_training(
        [view for row in rows for view in (row.student, row.rejected) if view and view.ids]
    )
    return rows


def _view(prompt: list[int], target: list[int], weights: list[float]) -> View:
    n = len(prompt)
    return View((*prompt, *target), tuple(range(n, n + len(target))), tuple(weights))


def packer(max_tokens: int) -> Callable[..., Iterator[Pack]]:
    return lambda views, together=(): make_packs(views, max_tokens, together=together)


def batches_of(
    body: Body, rows: Sequence[Row], objectives: list[Weighted], tmp_path: Path, max_tokens: int
) -> list[Batch]:
    references = {}
    for weighted in objectives:
        if "reference" in weighted.objective.requires:
            references[weighted.name] = References(tmp_path, reference_id="base")
            views = [view for row in rows for view in (row.student, row.rejected) if view and view.ids]
            with body.without_adapter():
                references[weighted.name].prepare(
                    [Row("", view, None) for view in views], body, pack=packer(1000), chunk_tokens=7
                )
    return Feed(objectives, packer(max_tokens), body.device, None, references).batches(rows, 0)


def step(
    body: Body, batches: list[Batch], objectives: list[Weighted], chunk: int = 256
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    body.model.zero_grad()
    scale = StepScale(normalisers(objectives, batches), 0, 1, chunk)
    terms: dict[str, float] = {}
    for batch in batches:
        for name, value in accumulate(body, batch, objectives, scale).terms.items():
            terms[name] = terms.get(name, 0.0) + value
    return terms, {name: p.grad.clone() for name, p in adapter_parameters(body.model)}


def directly(body: Body, rows: Sequence[Row], alpha: float) -> torch.Tensor:
    """REDI by its formula, one row at a time and with one graph."""
    total, weight_sum = torch.zeros(()), 0.0
    for row in rows:
        if row.rejected is None:
            continue
        weight_sum += max(row.rejected.weights)
        for view, factor in ((row.student, -1.0), (row.rejected, alpha)):
            if view.labels:
                (pack,) = make_packs([view], 1000)
                log_q = body.logits(body.hidden(pack)).log_softmax(-1)
                said = log_q.gather(1, torch.tensor(pack.targets)[:, None])[:, 0]
                shares = torch.tensor(view.weights) / max(view.weights)
                total = total + factor * max(view.weights) * (said * shares).sum() / shares.sum()
    return total / weight_sum


def test_two_passes_give_the_gradient_of_one_graph(body: Body, rows: list[Row], tmp_path: Path) -> None:
    objectives = with_mean_weights([REDI], rows)
    terms, found = step(body, batches_of(body, rows, objectives, tmp_path, 1000), objectives, chunk=4)
    body.model.zero_grad()
    wanted = directly(body, rows, 0.8)
    assert terms["redi-chosen"] + terms["redi-rejected"] == pytest.approx(wanted.item(), rel=1e-5)
    (2.0 * wanted).backward()
    for name, parameter in adapter_parameters(body.model):
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "objectives", [[DPO], [FREE], [REDI], [SFT, DPO]], ids=["dpo", "reference-free", "redi", "sft+dpo"]
)
def test_chunks_and_packs_change_neither_loss_nor_gradient(
    body: Body, rows: list[Row], objectives: list[Weighted], tmp_path: Path
) -> None:
    terms, whole = step(body, batches_of(body, rows, objectives, tmp_path, 1000), objectives)
    for chunk, max_tokens in ((3, 1000), (256, 20), (5, 25)):
        batches = batches_of(body, rows, objectives, tmp_path, max_tokens)
        assert len(batches) > 1 or max_tokens == 1000
        other_terms, parts = step(body, batches, objectives, chunk)
        assert other_terms == pytest.approx(terms, rel=1e-5)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5)


def test_terms_do_not_mix(body: Body, rows: list[Row], tmp_path: Path) -> None:
    """Neither the weight of another objective nor rows that only it sees change a gradient."""
    _, sft = step(body, batches_of(body, rows, [SFT], tmp_path, 1000), [SFT])
    _, redi = step(body, batches_of(body, rows, [REDI], tmp_path, 1000), [REDI])
    both = [SFT, Weighted(REDI.objective, 6.0, "test")]
    _, mixed = step(body, batches_of(body, rows, both, tmp_path, 1000), both)
    for name, gradient in mixed.items():
        torch.testing.assert_close(gradient, sft[name] + 3 * redi[name], rtol=1e-3, atol=1e-5)


def test_the_first_pass_computes_the_logits_of_pairs_alone(
    body: Body, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = batches_of(body, rows, [SFT, DPO], tmp_path, 1000)
    computed: dict[bool, int] = {True: 0, False: 0}
    logits = body.logits

    def counted(states: torch.Tensor) -> torch.Tensor:
        computed[torch.is_grad_enabled()] += len(states)
        return logits(states)

    monkeypatch.setattr(body, "logits", counted)
    step(body, batches, [SFT, DPO])
    n_lone = len(rows[3].student.labels)
    assert computed == {True: 4 * 3 + 4 * 5, False: 4 * 3 + 4 * 5 - n_lone}


def test_dpo_starts_at_log_two_and_a_lone_rejected_completion_is_pushed_down(
    body: Body, rows: list[Row], tmp_path: Path
) -> None:
    (objective,) = with_mean_weights([Weighted(Dpo(DpoSettings()), 1.0, "test")], rows)
    batches = batches_of(body, rows, [objective], tmp_path, 1000)
    with body.without_adapter():
        terms = _value(body, batches, objective)
    assert terms == pytest.approx(math.log(2), abs=1e-5)
    (spans,) = (batch.spans["dpo"] for batch in batches)
    assert spans.pair.tolist().count(-1) == 1
    assert (
        len(spans.n_labels) == 7
    )  # three pairs and a lone one; the row without a rejected one is for others
    context = spans.context(1.0, 0, 1)
    log_q = spans.log_q_reference.clone().requires_grad_()
    objective.objective.spans(log_q, context)["dpo"].backward()
    assert bool(((log_q.grad > 0) == spans.is_rejected).all())


def _value(body: Body, batches: list[Batch], objective: Weighted) -> float:
    scale = StepScale(normalisers([objective], batches), 0, 1, 256)
    total = 0.0
    for batch in batches:
        for parameter in dict(adapter_parameters(body.model)).values():
            parameter.requires_grad_(True)
        states = body.hidden(batch.pack)
        log_p = body.logits(states).log_softmax(-1)
        said = log_p.gather(1, torch.tensor(batch.pack.targets)[:, None])[:, 0]
        spans = batch.spans["dpo"]
        sums = torch.zeros(len(spans.n_labels)).index_add(0, spans.span_of.clamp_min(0), said * spans.factors)
        context = spans.context(scale.normalisers["dpo"], 0, 1)
        total += float(objective.objective.spans(sums, context)["dpo"])
    return total


def test_a_pair_lies_in_one_pack_and_shares_its_prompt() -> None:
    prompt = tuple(range(1, 40))
    views = [View((*prompt[:-1], n, n + 50, 60), (39, 40), (1.0, 1.0)) for n in (41, 80, 42, 81)]
    packs = list(make_packs(views, 45, together=[[0, 1], [2, 3]]))
    assert [sorted({number for number, _ in pack.labels}) for pack in packs] == [[0, 1], [2, 3]]
    assert all(len(pack.tokens) == 38 + 4 for pack in packs)


def margin(job: TrainJob, rows: Sequence[Row], adapter: str) -> float:
    """How much likelier the chosen completions are than the rejected, in nats."""
    model = hf.load_model(job.base, dtype="float32", device="cpu")
    body = Body(hf.attach_adapter(model, adapter, "default") if adapter else model)
    body.pack_for_training([row.student for row in rows])
    total = 0.0
    for row in rows:
        for view, sign in ((row.student, 1), (row.rejected, -1)):
            (pack,) = make_packs([view], 1000)
            with torch.no_grad():
                log_q = body.logits(body.hidden(pack)).log_softmax(-1)
            total += sign * float(log_q.gather(1, torch.tensor(pack.targets)[:, None]).sum())
    return total / len(rows)


@pytest.fixture
def pairs(write_dataset: Callable[..., Path], make_example: Callable[..., Example]) -> Path:
    rows = [paired(n, make_example) if n % 4 else make_example(n) for n in range(8)]
    return write_dataset(rows, name="pairs")


@pytest.mark.parametrize(
    ("objective", "falls"),
    [
        ({"dpo": {"beta": 0.5}}, "dpo"),
        ({"dpo": {"beta": 2.0, "reference": "none", "length_normalised": True}}, "dpo"),
        ({"redi": {}, "sft": {"weight": 0.5}}, "redi-chosen"),
    ],
    ids=["dpo", "reference-free", "redi+sft"],
)
def test_the_loss_falls_and_the_margin_grows(
    make_job: MakeJob, pairs: Path, objective: dict[str, Any], falls: str
) -> None:
    job = make_job(dataset=pairs, objective=objective, epochs=8.0)
    lines = run(job)
    assert lines[-1]["terms"][falls] < 0.8 * lines[0]["terms"][falls]
    rows = [row for row in load_dataset(pairs, 2048).train if row.rejected]
    assert margin(job, rows, job.output) > margin(job, rows, "") + 2.0


def test_the_loss_of_pairs_is_logged_with_its_weight(make_job: MakeJob, pairs: Path) -> None:
    objective = {"redi": {"weight": 0.7}, "sft": {"weight": 0.5}}
    for line in run(make_job(dataset=pairs, objective=objective, epochs=1.0)):
        terms = line["terms"]
        wanted = 0.7 * (terms["redi-chosen"] + terms["redi-rejected"]) + 0.5 * terms["sft"]
        assert line["loss"] == pytest.approx(wanted, rel=1e-5)


def test_the_reference_is_computed_once_for_all_runs(make_job: MakeJob, pairs: Path) -> None:
    first = make_job("first", dataset=pairs, objective={"dpo": {}}, epochs=0.5)
    run(first)
    shards = {file: file.stat().st_mtime_ns for file in (pairs / "signals").glob("*/*.safetensors")}
    assert shards
    run(make_job("second", dataset=pairs, objective={"dpo": {"beta": 0.3}}, epochs=0.5))
    again = {file: file.stat().st_mtime_ns for file in (pairs / "signals").glob("*/*.safetensors")}
    assert again == shards
    run(make_job("third", dataset=pairs, objective={"dpo": {}}, epochs=0.5, init_adapter=first.output))
    assert len(list((pairs / "signals").glob("*"))) == 2  # the model that training starts from is another


def test_a_reference_beside_a_remote_teacher_is_computed_again_in_other_numbers(
    make_job: MakeJob, pairs: Path
) -> None:
    for dtype in ("float32", "bfloat16"):
        fields = {"teacher": "text-completion-openai/tiny", "dtype": dtype, "epochs": 0.5}
        run(make_job(dtype, dataset=pairs, objective={"dpo": {}}, **fields))
    assert len(list((pairs / "signals").glob("*"))) == 2


def test_pairs_that_are_wanted_and_not_there_are_asked_for(make_job: MakeJob) -> None:
    with pytest.raises(TrainError, match="`redi` needs rows with a rejected completion"):
        run(make_job(objective={"redi": {}}))


def test_an_unknown_reference_is_refused(make_job: MakeJob, pairs: Path) -> None:
    with pytest.raises(ConfigError, match="`start`, `base` or an adapter folder"):
        run(make_job(dataset=pairs, objective={"dpo": {"reference": "yesterday"}}))


def test_a_target_that_is_wanted_and_not_there_is_asked_for(
    make_job: MakeJob, write_dataset: Callable[..., Path], make_example: Callable[..., Example]
) -> None:
    lone = [_without_target(paired(n, make_example)) for n in range(4)]
    data = write_dataset(lone, name="lone")
    with pytest.raises(TrainError, match="`sft` needs rows with a target to say") as refused:
        run(make_job(dataset=data, objective={"sft": {}, "redi": {}}))
    assert "runs that succeeded" in refused.value.hint


def test_a_failed_run_without_a_repair_is_unlearnt(
    make_job: MakeJob, write_dataset: Callable[..., Path], make_example: Callable[..., Example]
) -> None:
    lone = [_without_target(paired(n, make_example)) for n in range(4)]
    data = write_dataset([*lone, *(make_example(n) for n in range(4, 8))], name="negatives")
    lines = run(make_job("up", dataset=data, objective={"dpo": {}, "sft": {}}, epochs=4.0))
    assert lines[-1]["terms"]["dpo"] < lines[0]["terms"]["dpo"]
    plain = run(make_job("plain", dataset=data, epochs=0.5))
    assert lines[0]["terms"]["sft"] > 0
    assert plain[0]["terms"].keys() == {"sft"}  # the rows without a target are left out
    only = write_dataset(lone, name="lone")
    job = make_job("only", dataset=only, objective={"dpo": {}}, epochs=1.0)
    lines = run(job)
    assert lines[0]["terms"]["dpo"] > 0
    planned = plan(job, quiet())
    assert sum(line["label_tokens"] for line in lines) == planned.n_label_tokens > 0
    assert sum(line["computed_tokens"] for line in lines) == planned.n_computed_tokens
    assert not any("word for word" in line for line in planned.warnings)
    again = [row.model_copy(update={"id": f"{row.id}-again"}) for row in lone[:2]]
    job = make_job("again", dataset=write_dataset([*lone, *again], name="again"), objective={"dpo": {}})
    (warning,) = (line for line in plan(job, quiet()).warnings if "word for word" in line)
    assert warning.startswith("2 of 6 rows")


def _without_target(row: Example) -> Example:
    silent = Rendered(ids=row.student.ids, weights=(0.0,) * len(row.student.ids))
    return row.model_copy(update={"kind": "negative", "student": silent})


def test_rejected_completions_do_not_touch_other_losses(
    make_job: MakeJob, pairs: Path, write_dataset: Callable[..., Path], make_example: Callable[..., Example]
) -> None:
    plain = write_dataset([make_example(n) for n in range(8)], name="plain")
    lines = [run(make_job(name, dataset=data, epochs=1.0)) for name, data in (("a", pairs), ("b", plain))]
    assert [line["loss"] for line in lines[0]] == [line["loss"] for line in lines[1]]


def test_a_rejected_completion_without_labels_is_named(
    write_dataset: Callable[..., Path], make_example: Callable[..., Example]
) -> None:
    row = make_example(0)
    silent = Rendered(ids=row.student.ids, weights=(0.0,) * len(row.student.ids))
    folder = write_dataset([row.model_copy(update={"student_rejected": silent})])
    with pytest.raises(DataError, match="rejected completion has no label tokens"):
        load_dataset(folder, 2048)
