"""On-policy self-context: the student answers itself, the same way each time, and is taught on it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agentkd import hf
from agentkd.errors import ConfigError, TrainError
from agentkd.schema import Example, LoraSettings, TrainJob
from agentkd.train.batch import OWN, SAMPLED, Weighted
from agentkd.train.body import Body
from agentkd.train.feed import Feed
from agentkd.train.loop import train
from agentkd.train.lora import add_adapter
from agentkd.train.model import decoder_layers, recompute_activations
from agentkd.train.objectives import SelfContext, SelfContextSettings, Sft
from agentkd.train.packing import make_packs
from agentkd.train.policy import Policy, sample, with_completion
from agentkd.train.reporter import Reporter
from agentkd.train.rows import Row, View

MakeJob = Callable[..., TrainJob]
WEIGHTS = "adapter_model.safetensors"
ON = {"policy": "on", "share": 0.5, "every": 3, "max_new_tokens": 6}


def run(job: TrainJob, stop_after: int = 10**9) -> list[dict[str, Any]]:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked >= stop_after

    train(job, Reporter(is_machine=True, out=io.StringIO()), should_stop)
    text = (Path(job.output) / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "terms" in line]


@pytest.fixture
def taught(write_dataset: Callable[..., Path], make_example: Callable[..., Example]) -> Path:
    return write_dataset([make_example(n, teacher=n % 4 != 0) for n in range(8)], name="taught")


@pytest.fixture
def body(base: Path) -> Body:
    body = Body(hf.load_model(base, dtype="float32", device="cpu"))
    body.pack_for_training([View((1, 5, 6, 7), (3,), (1.0,)), View((1, 5, 9), (2,), (1.0,))])
    return body


def test_samples_repeat_and_end_at_a_stop(body: Body) -> None:
    prompts = [[1, 5, 6, 30, 31], [1, 5], [1, 7, 8]]
    options: dict[str, Any] = {"stops": {2}, "max_new_tokens": 8, "temperature": 1.0}
    before = torch.get_rng_state()
    first = sample(body, prompts, **options, seed=1)
    assert torch.equal(torch.get_rng_state(), before)  # the training's own draws go on as without sampling
    assert sample(body, prompts, **options, seed=1) == first
    assert sample(body, prompts, **options, seed=2) != first
    for completion in first:
        assert 1 <= len(completion) <= 8
        assert 2 not in completion[:-1]
    (pack,) = make_packs([View((1, 5, 6, 7), (3,), (1.0,))], 100)
    assert body.hidden(pack).shape[0] == 1  # packs are read as before


@pytest.mark.parametrize(
    "default",
    [{"repetition_penalty": 50.0}, {"min_p": 0.9}, {"no_repeat_ngram_size": 1}, {"typical_p": 0.1}],
)
def test_defaults_of_the_model_do_not_distort_what_the_student_says(
    body: Body, default: dict[str, float]
) -> None:
    def drawn() -> list[list[int]]:
        return sample(body, [[1, 5, 6, 7, 8]] * 6, stops={2}, max_new_tokens=12, temperature=1.0, seed=3)

    before = drawn()
    own = body.model.generation_config
    own.update(**default)
    assert drawn() == before
    assert body.model.generation_config is own


def test_recomputed_activations_change_no_sample(base: Path) -> None:
    found = []
    for recompute in (False, True):
        model = hf.load_model(base, dtype="float32", device="cpu")
        student = Body(add_adapter(model, LoraSettings(r=4), init_adapter="", seed=0))
        student.pack_for_training([View((1, 5, 6, 7), (3,), (1.0,))])
        if recompute:
            recompute_activations(student.model)
        prompts = [[1, 5, 6, 30, 31], [1, 7, 8]]
        found.append(sample(student, prompts, stops={2}, max_new_tokens=8, temperature=1.0, seed=1))
        assert all(layer.training == recompute for layer in decoder_layers(student.model))
    assert found[0] == found[1]


def test_a_sample_takes_the_place_of_the_last_completion() -> None:
    view = View((1, 5, 20, 21, 6, 22, 23, 2), (2, 3, 5, 6, 7), (0.5,) * 5)
    assert with_completion(view, [30, 2]) == View((1, 5, 20, 21, 6, 30, 2), (5, 6), (0.5, 0.5))


def test_other_objectives_see_the_rows_own_targets() -> None:
    rows = [Row(f"r{n}", _view([1, 5, 20 + n], [40, 2]), _view([1, 9, 5, 20 + n], [40, 2])) for n in range(2)]
    on = Weighted(SelfContext(SelfContextSettings(policy="on")), 1.0, "test")
    sft = Weighted(Sft(), 1.0, "test")

    class Drawn:
        def rows_of(self, step: int) -> dict[int, Row]:
            return {0: Row("r0", _view([1, 5, 20], [50, 51, 2]), None)}

    def pack(views: Any, together: Any = ()) -> Any:
        return make_packs(views, 100, together=together)

    (both,) = Feed([sft, on], pack, torch.device("cpu"), policy=Drawn()).batches(rows, 0)
    assert both.kinds.tolist().count(OWN) == 4
    assert both.kinds.tolist().count(SAMPLED) == 3
    seen = {target for target, is_seen in zip(both.pack.targets, both.seen(sft), strict=True) if is_seen}
    assert seen == {40, 2}
    (alone,) = Feed([on], pack, torch.device("cpu"), policy=Drawn()).batches(rows, 0)
    assert (
        alone.kinds.tolist().count(OWN) == 2
    )  # the target of the row that was answered anew is not computed


@pytest.mark.parametrize(("share", "n_rows"), [(0.5, 1), (0.25, 1), (0.3, 5), (0.5, 4)])
def test_a_share_holds_over_steps_of_few_rows(
    body: Body, monkeypatch: pytest.MonkeyPatch, share: float, n_rows: int
) -> None:
    """A part of a row that a step's share comes to is a chance, and the same one when it is asked again."""
    n_steps = 800
    row = Row("r", _view([1, 5], [40, 2]), _view([1, 9, 5], [40, 2]))
    monkeypatch.setattr("agentkd.train.policy.sample", lambda body, prompts, **_: [[50, 2] for _ in prompts])

    class Held:
        def hold(self, rows: Any, teacher: Any, **_: Any) -> list[str]:
            return []

        def forget(self, keys: list[str]) -> None: ...

    def drawn() -> list[int]:
        objective = SelfContext(SelfContextSettings(policy="on", share=share, every=100))
        steps = [list(range(n_rows))] * n_steps
        held: Any = Held()
        policy = Policy(objective, [row] * n_rows, steps, body, held, make_packs, 8, 100, 7)  # type: ignore[arg-type]
        return [len(policy.rows_of(step)) for step in range(n_steps)]

    counts = drawn()
    assert drawn() == counts
    assert set(counts) == {math.floor(share * n_rows), math.ceil(share * n_rows)}
    assert sum(counts) / (n_steps * n_rows) == pytest.approx(share, abs=0.05)


def _view(prompt: list[int], target: list[int]) -> View:
    n = len(prompt)
    return View((*prompt, *target), tuple(range(n, n + len(target))), (1.0,) * len(target))


def test_the_student_comes_to_its_teacher_on_its_own_answers(make_job: MakeJob, taught: Path) -> None:
    lines = run(make_job(dataset=taught, objective={"self-context": ON | {"top_k": 8}}, epochs=16.0))
    losses = [line["terms"]["self-context"] for line in lines]
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


def test_an_on_policy_training_goes_on_bit_by_bit(make_job: MakeJob, taught: Path) -> None:
    objective = {"self-context": ON, "sft": {"weight": 0.5}}
    fields: dict[str, Any] = {"dataset": taught, "objective": objective, "epochs": 6.0}
    whole, cut = make_job("whole", **fields), make_job("cut", **fields)
    lines = run(whole)
    assert set(lines[0]["terms"]) == {"self-context", "sft"}
    with pytest.raises(TrainError, match="was interrupted"):
        run(cut, stop_after=2)  # in the middle of three steps that were drawn together
    state = json.loads(next(Path(f"{cut.output}.partial").glob("step-*/state.json")).read_text())
    assert state["objectives"]["self-context"]["completions"]
    run(cut)
    assert (Path(cut.output) / WEIGHTS).read_bytes() == (Path(whole.output) / WEIGHTS).read_bytes()


def test_another_policy_gives_other_weights(make_job: MakeJob, taught: Path) -> None:
    off, on = (
        make_job(name, dataset=taught, objective={"self-context": options}, epochs=1.0)
        for name, options in (("off", {}), ("on", ON))
    )
    assert run(off)[0]["terms"] != run(on)[0]["terms"]


def test_a_foreign_teacher_cannot_read_samples(make_job: MakeJob, taught: Path) -> None:
    job = make_job(dataset=taught, objective={"self-context": ON})
    settings = job.settings.model_copy(update={"teacher": "checkpoint:student@1"})
    with pytest.raises(ConfigError, match=r"names another model"):
        run(job.model_copy(update={"settings": settings, "teacher": job.base, "teacher_id": "x"}))
