"""Any teacher can be named: another model, another tokenizer, an adapter; what it cannot give is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentkd import hf
from agentkd.errors import ConfigError
from agentkd.schema import DatasetCard, Example, LoraSettings, Message, TrainJob, TrainSettings
from agentkd.train.artefact import Unit, inspect_caches, row_key
from agentkd.train.finish import job_key
from agentkd.train.loop import train
from agentkd.train.plan import lesson_of, plan
from agentkd.train.prepare import build_objectives
from agentkd.train.remote import Said, Vocabulary, spelled, unit_of, with_end
from agentkd.train.reporter import Reporter
from agentkd.train.rows import View, load_dataset
from agentkd.train.second import count_parameters
from agentkd.train.teacher import plan_teacher, signal_cache

TEXTS = (
    ("Where is the parcel of Ann?", 'the order of {"email": "ann@example.com"}'),
    ("Book a table", "for two people in San Francisco on Friday"),
    ("How is the weather?", 'Tool result: {"city": "Paris, France"}'),
    ("Who is there?", "naïve café and 東京"),
)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf.tiny_model(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def sibling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the student's tokenizer and other weights."""
    return hf.tiny_model(tmp_path_factory.mktemp("sibling"), seed=7)


@pytest.fixture(scope="module")
def foreigner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with another tokenizer and another width."""
    return hf.tiny_model(tmp_path_factory.mktemp("foreigner"), seed=9, n_vocabulary=280, width=32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, student: Path) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), student)


def write_dataset(folder: Path, student: Path) -> Path:
    """Write the rows as the student's tokenizer renders them."""
    tokenizer = hf.load_tokenizer(student)
    rows = []
    for number, (question, answer) in enumerate(TEXTS):
        prompt, target = (Message(role="user", content=question),), Message(role="assistant", content=answer)
        memory = (Message(role="system", content="When to use it: the user asks"), *prompt)
        rows.append(
            Example(
                id=f"ex-{number}",
                kind="internalise",
                task_id=f"task-{number}",
                student_view=prompt,
                teacher_view=memory if number else (),
                target=target,
                student=hf.render_example(tokenizer, prompt, target),
                teacher=hf.render_example(tokenizer, memory, target) if number else None,
            )
        )
    (folder / "train.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    card = DatasetCard(id="ds-t", n_train=4, n_dev=0, n_label_tokens=9, n_tokens=9, template_hash="t")
    (folder / "card.json").write_text(card.model_dump_json())
    return folder


MakeJob = Callable[..., TrainJob]


@pytest.fixture
def job(tmp_path: Path, student: Path, dataset: Path) -> MakeJob:
    def make(objective: dict[str, Any], output: str = "out", **fields: Any) -> TrainJob:
        named = {
            key: fields.pop(key) for key in ("teacher", "teacher_adapter", "teacher_id") if key in fields
        }
        settings = {
            "objective": objective,
            "dtype": "float32",
            "device": "cpu",
            "tokens_per_step": 140,
            "epochs": 6.0,
            "learning_rate": 1e-2,
            "lora": LoraSettings(r=4, alpha=8),
            "teacher": "path:somewhere" if named else "",
            **fields,
        }
        return TrainJob(
            dataset=str(dataset), base=str(student), base_id="base-tiny", output=str(tmp_path / output),
            settings=TrainSettings(**settings), signals=str(tmp_path / "signals"), **named,
        )  # fmt: skip

    return make


def losses(job: TrainJob) -> list[float]:
    train(job, Reporter(is_machine=False))
    lines = (Path(job.output) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]


@pytest.mark.parametrize("name", ["forward-kl", "sinkhorn", "uld", "alm", "hidden-mse", "minilm-relations"])
def test_a_model_with_the_same_tokenizer_teaches_every_row(job: MakeJob, sibling: Path, name: str) -> None:
    found = losses(job({name: {}}, teacher=str(sibling), teacher_id="sibling"))
    assert found[-1] < found[0]


@pytest.mark.parametrize("name", ["uld", "alm", "hidden-mse", "minilm-relations"])
def test_a_model_with_another_tokenizer_teaches(job: MakeJob, foreigner: Path, name: str) -> None:
    found = losses(job({name: {}}, teacher=str(foreigner), teacher_id="foreigner"))
    assert found[-1] < found[0]


@pytest.mark.parametrize("name", ["uld", "alm"])
def test_a_teacher_may_have_more_tokens_than_the_student(
    job: MakeJob, foreigner: Path, student: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "rows").mkdir()
    parts = {"base": str(foreigner), "dataset": str(write_dataset(tmp_path / "rows", foreigner))}
    wanted = job({name: {}}, teacher=str(student), teacher_id="large").model_copy(update=parts)
    assert len(hf.load_tokenizer(student)) > len(hf.load_tokenizer(foreigner))
    found = losses(wanted)
    assert found[-1] < found[0]


@pytest.mark.parametrize(("name", "unit"), [("forward-kl", "token"), ("uld", "byte")])
def test_the_plan_of_a_remote_teacher_is_made_before_it_is_asked(job: MakeJob, name: str, unit: str) -> None:
    remote = job({name: {}}, teacher="", teacher_id="gpt-0")
    lesson = lesson_of(remote, load_dataset(remote.dataset, 4096), Reporter(is_machine=False))
    assert (lesson.teacher.is_remote, lesson.teacher.unit) == (True, unit)
    planned = plan(remote, Reporter(is_machine=False))
    assert planned.signals_missing == len(TEXTS)


@pytest.mark.parametrize("unit", ["token", "byte"])
def test_the_unit_of_a_remote_teacher_is_that_of_the_signals_which_cover_the_rows(
    job: MakeJob, student: Path, unit: Unit
) -> None:
    remote = job({"uld": {}}, teacher="", teacher_id="gpt-0")
    data = load_dataset(remote.dataset, 4096)
    keys = [row_key(row.teacher or row.student) for row in data.train]
    silence = spelled(Said(key="", text=""), data.train[0].student, "", "token", Vocabulary(student), 20)
    other: Unit = "byte" if unit == "token" else "token"
    for kind, covered in ((unit, keys), (other, [keys[0], "of another dataset"])):
        signal_cache(remote, data.card.template_hash, 20, kind).write(dict.fromkeys(covered, silence))
    plan, _ = plan_teacher(remote, data, build_objectives(remote), lambda line: None)
    assert (plan.is_remote, plan.unit) == (True, unit)


def test_no_answer_is_no_sign_of_another_vocabulary(student: Path) -> None:
    vocabulary = Vocabulary(student)
    view = View((1, 300, 301), (1, 2), (1.0, 1.0))
    own, silent = (
        Said(key="k", text="", pieces=pieces)
        for pieces in (tuple(vocabulary.bytes_of(token).decode("latin-1") for token in (300, 301)), ())
    )
    other = Said(key="k", text="", pieces=("no", "tokens"))
    assert unit_of([], vocabulary) == unit_of([(silent, view)], vocabulary) == "token"
    assert unit_of([(own, view), (silent, view), (silent, view)], vocabulary) == "token"
    assert unit_of([(other, view), (silent, view)], vocabulary) == "byte"


@pytest.mark.parametrize("unit", ["token", "byte"])
@pytest.mark.parametrize("is_sent", [False, True], ids=["left out", "without text"])
def test_a_finished_answer_teaches_the_end_of_the_turn(student: Path, unit: Unit, is_sent: bool) -> None:
    vocabulary = Vocabulary(student)
    end = min(vocabulary.ends)
    text = [int(token) for token in vocabulary.tokenizer("Paris")["input_ids"]]
    view = View((1, *text, end), tuple(range(1, len(text) + 2)), (1.0,) * (len(text) + 1))
    pieces = tuple(map(vocabulary.piece, text)) + ("",) * is_sent
    top = tuple(((piece, -0.5),) for piece in pieces)
    said = Said(key="k", text="Paris", pieces=pieces, log_probs=(-0.5,) * len(pieces), top=top)
    whole = with_end(said, view, vocabulary)
    assert unit_of([(whole, view)], vocabulary) == "token"
    found = spelled(whole, view, "Paris", unit, vocabulary, 3)
    assert found.ends[-1] == (len(view.labels) if unit == "token" else len("Paris") + 1)
    log_prob = -0.5 if is_sent else 0.0
    assert (found.ids[-1, 0], found.log_probs[-1, 0]) == (end if unit == "token" else -1, log_prob)
    assert (found.chosen[-1], found.tail[-1]) == (log_prob, pytest.approx(1 - np.exp(log_prob), abs=1e-3))
    cut = said.model_copy(update={"is_cut": True})
    assert with_end(cut, view, vocabulary) == cut


def test_alternatives_that_belong_to_no_token_are_not_believed(student: Path) -> None:
    view = View((1, 2, 3), (1, 2), (1.0, 1.0))
    said = Said(key="k", text="ab", pieces=("a", "b"), log_probs=(-1.0, -1.0), top=((("b", -1.0),),))
    found = spelled(said, view, "ab", "byte", Vocabulary(student), 3)
    assert (found.ends.tolist(), found.tail.tolist()) == ([1, 2], [1.0, 1.0])


def test_the_plan_counts_a_teacher_of_its_own(job: MakeJob, foreigner: Path) -> None:
    def parts(name: str, **teacher: str) -> dict[str, float]:
        return plan(job({name: {}}, **teacher), Reporter(is_machine=False)).memory_parts

    size, named = count_parameters(str(foreigner)) * 4 / 2**20, {"teacher": str(foreigner), "teacher_id": "f"}
    assert parts("hidden-mse", **named)["teacher"] == pytest.approx(size, abs=0.1)
    assert "teacher" not in parts("uld", **named)  # it is let go of


def test_tokens_of_another_vocabulary_cannot_be_compared(job: MakeJob, foreigner: Path) -> None:
    with pytest.raises(ConfigError, match=r"`jsd` compares tokens, but teacher `path:somewhere`") as refused:
        train(job({"jsd": {}}, teacher=str(foreigner), teacher_id="f"), Reporter(is_machine=False))
    assert "alm" in refused.value.hint


def test_a_teacher_that_was_fetched_by_nobody_is_refused(job: MakeJob) -> None:
    with pytest.raises(ConfigError, match="nor are its signals named"):
        train(
            job(
                {"uld": {}},
                teacher="",
            ),
            Reporter(is_machine=False),
        )


def test_the_alm_loss_of_a_teacher_with_the_same_weights_is_nothing(job: MakeJob, student: Path) -> None:
    found = losses(job({"alm": {}}, teacher=str(student), teacher_id="self", epochs=0.5))
    assert found[0] < 0.5, "only the memories tell teacher and student apart"
    other = losses(job({"alm": {}}, "other", epochs=0.5, teacher=str(student), teacher_id="self"))
    assert found == other, "the second training reads what the first one stored"


def test_an_adapter_on_the_same_base_teaches(job: MakeJob, student: Path) -> None:
    first = job({"sft": {}}, "taught", epochs=20.0)
    train(first, Reporter(is_machine=False))
    found = losses(job({"forward-kl": {}}, teacher_adapter=first.output, teacher_id="student@1"))
    own = losses(job({"forward-kl": {}}, "own"))
    assert found[0] > 3 * own[0], "the adapter says something else than its base"
    assert found[-1] < 0.9 * found[0]


def test_dropout_draws_the_same_whether_the_signals_were_there_or_not(job: MakeJob) -> None:
    first = job({"sft": {}}, "taught", epochs=2.0)
    train(first, Reporter(is_machine=False))
    lora = LoraSettings(r=4, alpha=8, dropout=0.2)
    options = {"teacher_adapter": first.output, "teacher_id": "student@1", "lora": lora, "epochs": 2.0}
    made = [job({"forward-kl": {}}, name, **options) for name in ("missing", "cached")]
    for each in made:
        train(each, Reporter(is_machine=False))
    missing, cached = ((Path(each.output) / "adapter_model.safetensors").read_bytes() for each in made)
    assert missing == cached


def test_signals_are_kept_apart_by_teacher_and_unit(
    job: MakeJob, sibling: Path, foreigner: Path, tmp_path: Path
) -> None:
    losses(job({"uld": {}}, "one", teacher=str(sibling), teacher_id="sibling", epochs=0.5))
    losses(job({"uld": {}}, "two", teacher=str(foreigner), teacher_id="foreigner", epochs=0.5))
    found = {facts.teacher: facts for facts in inspect_caches(tmp_path / "signals")}
    assert {name: facts.unit for name, facts in found.items()} == {"sibling": "token", "foreigner": "byte"}
    assert found["sibling"].n_rows == found["foreigner"].n_rows == len(TEXTS)
    assert found["foreigner"].n_tokens > found["sibling"].n_tokens, "a smaller vocabulary needs more tokens"


def test_local_teachers_without_an_id_are_told_apart(
    job: MakeJob, sibling: Path, foreigner: Path, student: Path
) -> None:
    taught = job({"sft": {}}, "taught", epochs=0.5)
    train(taught, Reporter(is_machine=False))
    nameless = {"teacher_id": ""}
    made = [
        job({"uld": {}}, "a", teacher=str(sibling), **nameless),
        job({"uld": {}}, "a", teacher=str(foreigner), **nameless),
        job({"uld": {}}, "a", teacher_adapter=taught.output, **nameless),
        job({"uld": {}}, "a", teacher=str(sibling), teacher_adapter=taught.output, **nameless),
    ]
    card = load_dataset(made[0].dataset, 4096).card
    assert len({signal_cache(one, "t", 4, "token").folder for one in made}) == len(made)
    assert len({job_key(one, card) for one in made}) == len(made)
    named = job({"uld": {}}, "a", teacher=str(sibling), teacher_id=hf.base_id(sibling))
    assert signal_cache(named, "t", 4, "token").folder == signal_cache(made[0], "t", 4, "token").folder


def test_signals_are_kept_apart_by_the_numbers_that_they_were_computed_in(job: MakeJob) -> None:
    made = [job({"forward-kl": {}}, quantise=kind) for kind in ("none", "nf4")]
    kinds = [(one, dtype) for one in made for dtype in ("float32", "bfloat16")]
    folders = {signal_cache(one, "t", 4, "token", dtype=dtype).folder for one, dtype in kinds}
    assert len(folders) == len(kinds)
    remote = [one.model_copy(update={"settings": one.settings.model_copy(update={"teacher": "openai/x"}),
                                     "teacher_id": "remote"}) for one in made]  # fmt: skip
    assert len({signal_cache(one, "t", 4, "token").folder for one in remote}) == 1


@pytest.mark.parametrize("name", ["forward-kl", "selective"])
def test_what_was_computed_in_one_type_is_not_read_in_another_that_auto_takes(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def taught(out: str, dtype: str, fastest: torch.dtype) -> int:
        monkeypatch.setattr(hf, "fastest_dtype", lambda device: fastest)
        one = job({name: {}}, out, dtype=dtype, epochs=0.5)
        train(one, Reporter(is_machine=False))
        assert plan(one, Reporter(is_machine=False)).signals_missing == 0
        return len(list((tmp_path / "signals").iterdir()))

    n = taught("a", "auto", torch.float32)
    assert taught("b", "auto", torch.bfloat16) == 2 * n
    assert taught("c", "float32", torch.bfloat16) == 2 * n, "the type that it is, not how it was chosen"


def test_the_map_of_hidden_states_goes_on_exactly_after_a_stop(job: MakeJob, foreigner: Path) -> None:
    def wanted(output: str) -> TrainJob:
        return job(
            {"hidden-mse": {"learning_rate": 0.05}}, output, teacher=str(foreigner), teacher_id="f",
            tokens_per_step=60, epochs=3.0,
        )  # fmt: skip

    whole = losses(wanted("whole"))
    stops = iter([False, True])
    with pytest.raises(Exception, match="interrupted after step 2"):
        train(wanted("cut"), Reporter(is_machine=False), lambda: next(stops, False))
    assert losses(wanted("cut")) == whole
    one, two = ((Path(wanted(name).output) / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()
    from safetensors.torch import load_file

    assert not [key for key in load_file(str(one)) if "map" in key], "the map must not be shipped"
    assert torch.isfinite(torch.tensor(whole)).all()
