"""A remote teacher scores the rows or answers itself; what it said is asked once and reaches the training."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import agentkd
from agentkd import hf
from agentkd.cycle.candidate import Source, dataset_of
from agentkd.cycle.ceiling import Ceiling
from agentkd.cycle.teach import teacher_fields
from agentkd.cycle.training import told_by, train_job
from agentkd.cycle.tutor import count_answers, taught_job
from agentkd.errors import CeilingError, ConfigError, DataError, ModelError
from agentkd.protocols import SilentProgress
from agentkd.schema import DatasetCard, Example, Heard, Message, Rendered, TrainJob
from agentkd.train.artefact import inspect_caches
from agentkd.train.remote import Said, Vocabulary, spelled
from agentkd.train.rows import View, load_dataset
from agentkd.train.view import read_examples

ANSWER = '{"name": "weather", "arguments": {"city": "Paris"}}'


class Teacher:
    """An OpenAI-compatible server over a real (tiny, random) model: it scores texts and says a sentence."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = hf.load_tokenizer(folder)
        self.model = hf.load_model(folder, dtype="float32", device="cpu")
        self.requests: list[dict[str, Any]] = []
        self.is_silent = False
        self.needs = 0  # tokens that an answer needs room for
        self.adds: list[int] = []  # tokens that it puts before every prompt
        self.fails_after: int | None = None
        self.faulty: dict[int, str] = {}  # what is wrong with an answer, by its number
        self.says: dict[int, str] = {}  # what it says, by number
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = outer.answer(self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        self._lock = threading.Lock()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            if self.fails_after is not None and len(self.requests) >= self.fails_after:
                return 400, {"error": {"message": "out of order", "type": "invalid_request_error"}}
            self.requests.append(body)
            is_chat = path.endswith("/chat/completions")
            choice = self._chat(body) if is_chat else self._echo(body)
            fault = self.faulty.get(len(self.requests), "")
            if fault == "unscored":
                del choice["logprobs"]
            elif fault:
                choice["message"]["content"] = "The weather"
                choice["finish_reason"] = "content_filter"
        usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
        kind = "chat.completion" if is_chat else "text_completion"
        return 200, {"id": "1", "object": kind, "created": 1, "model": "tiny", "choices": [choice],
                     "usage": usage}  # fmt: skip

    def _tops(self, ids: list[int], start: int, k: int) -> list[tuple[int, float, list[tuple[int, float]]]]:
        with torch.inference_mode():
            log_probs = self.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        found = []
        for place in range(start, len(ids)):
            top = log_probs[place - 1].topk(k)
            pairs = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
            found.append((ids[place], float(log_probs[place - 1, ids[place]]), pairs))
        return found

    def _text(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))

    def _echo(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["echo"]
        ids = self.tokenizer.backend_tokenizer.encode(body["prompt"], add_special_tokens=False).ids
        ids = [*self.adds, *ids]
        scored = self._tops(ids, 1, body["logprobs"])
        texts = [self._text(token) for token in ids]
        logprobs = {
            "tokens": [*texts, "x"],
            "token_logprobs": [None, *(score for _, score, _ in scored), -1.0],
            "top_logprobs": [
                None, *({self._text(t): v for t, v in top} for _, _, top in scored), {"x": -1.0}
            ],
            "text_offset": [],
        }  # fmt: skip
        said = {"index": 0, "finish_reason": "length", "text": body["prompt"] + "x"}
        return said | ({} if self.is_silent else {"logprobs": logprobs})

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        messages = [Message(role=m["role"], content=m["content"]) for m in body["messages"]]
        head = hf.render(self.tokenizer, messages)
        text = self.says.get(len(self.requests), ANSWER)
        ids = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        said = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        if body["max_tokens"] < self.needs:
            said["finish_reason"] = "length"
        if self.is_silent or not body.get("logprobs"):
            return said
        scored = self._tops([*head, *ids], len(head), body["top_logprobs"])
        content = [
            self._piece(token, score) | {"top_logprobs": [self._piece(t, v) for t, v in top]}
            for token, score, top in scored
        ]
        return said | {"logprobs": {"content": content}}

    def _piece(self, token: int, score: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "bytes": list(text.encode()), "logprob": score}


class Listening(SilentProgress):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Teacher]]:
    made: list[Teacher] = []

    def start(folder: Path) -> Teacher:
        teacher = Teacher(folder)
        threading.Thread(target=teacher.http.serve_forever, args=(0.02,), daemon=True).start()
        made.append(teacher)
        return teacher

    yield start
    for teacher in made:
        teacher.http.shutdown()
        teacher.http.server_close()


@pytest.fixture
def opened(cycled: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., agentkd.Workspace]:
    monkeypatch.setenv("TUTOR_KEY", "sk-test")
    for file in (cycled / "datasets").glob("*/train.jsonl"):
        let_be_own(file)

    def open_(url: str, model: str, objective: dict[str, Any], **more: Any) -> agentkd.Workspace:
        return agentkd.Workspace(
            cycled,
            settings={
                "train": {"teacher": model, "objective": objective, "epochs": 1},
                "model": {"litellm": {"api_base": url, "api_key_env": "TUTOR_KEY", "backoff_seconds": 0.01}},
                "models": {"retries": 0},
                "run": {"workers": 2},
                **more,
            },
        )

    return open_


def let_be_own(file: Path, also: Callable[[int], bool] = lambda number: True) -> None:
    """Let the targets of a dataset be the model's own: the small world's are the grader's."""
    rows = [Example.model_validate_json(line) for line in file.read_text().splitlines()]
    for number, row in enumerate(rows):
        if also(number):
            target = row.target.model_copy(update={"origin": "model"})
            origin = row.provenance.model_copy(update={"corrections": ()})
            rows[number] = row.model_copy(update={"target": target, "provenance": origin})
    file.write_text("".join(row.model_dump_json() + "\n" for row in rows))


def student_of(cycled: Path) -> Path:
    with agentkd.Workspace(cycled) as workspace:
        return workspace.parts.student_files.path


def terms(workspace: agentkd.Workspace, name: str) -> list[dict[str, float]]:
    lines = (workspace.root / "checkpoints" / name / "metrics.jsonl").read_text().splitlines()
    return [line["terms"] for line in map(json.loads, lines) if "terms" in line]


def job_of(workspace: agentkd.Workspace) -> TrainJob:
    """Return the next training of a workspace, with all that its teacher says."""
    out = str(workspace.root / "checkpoints" / "student@9")
    return taught_job(workspace.parts, train_job(workspace.parts, workspace.datasets()[-1].id, out))


def test_a_server_with_the_students_tokens_scores_the_rows_exactly(
    cycled: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    student = student_of(cycled)
    teacher = serve(student)
    objective = {"forward-kl": {"top_k": 5}, "alm": {"weight": 0.5}}
    with opened(teacher.url, "text-completion-openai/tiny", objective) as workspace:
        checkpoint = workspace.train()
        (facts,) = inspect_caches(workspace.root / "signals")
        assert facts.unit == "token"
        assert facts.n_rows == len(teacher.requests)
        first = terms(workspace, checkpoint.name)[0]
        assert first["alm"] < 0.01, "teacher and student are one model, and no row shows a memory"
        card = next(c for c in workspace.datasets() if c.id == checkpoint.dataset_id)
        rows = load_dataset(workspace.root / "datasets" / card.id, 2048).train
        assert facts.n_tokens == sum(len(row.student.labels) for row in rows)
        booked = workspace.ledger.calls.total("teacher")
        assert booked.prompt_tokens == 9 * len(teacher.requests)
        asked = len(teacher.requests)
        job_of(workspace)
        assert len(teacher.requests) == asked, "what was paid for is asked once"


def test_a_server_that_adds_a_token_teaches_and_one_that_adds_more_is_told_so(
    cycled: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    student = student_of(cycled)
    teacher = serve(student)
    end = min(hf.end_ids(teacher.tokenizer))
    with opened(teacher.url, "text-completion-openai/tiny", {"forward-kl": {"top_k": 5}}) as workspace:
        teacher.adds = [end, end]
        with pytest.raises(ConfigError, match="does not score the text that it is sent") as refused:
            job_of(workspace)
        assert "no tokens added" in refused.value.hint
        n_refused, teacher.adds = len(teacher.requests), [end]
        job_of(workspace)
        (facts,) = inspect_caches(workspace.root / "signals")
        rows = load_dataset(
            train_job(workspace.parts, workspace.datasets()[-1].id, "out").dataset, 2048
        ).train
    assert facts.n_rows == n_refused == len(teacher.requests) - n_refused
    assert facts.n_tokens == sum(len(row.student.labels) for row in rows)
    assert {request["add_special_tokens"] for request in teacher.requests} == {False}


def test_one_name_at_two_addresses_is_two_teachers(opened: Callable[..., agentkd.Workspace]) -> None:
    ids, told = [], []
    for url in ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"):
        with opened(url, "text-completion-openai/tiny", {"forward-kl": {}}) as workspace:
            ids.append(teacher_fields(workspace.parts)["teacher_id"])
            told.append(told_by(workspace.parts))
    assert ids[0] != ids[1]
    assert told[0] != told[1], "a training is named after it, or it would meet the other teacher's rows"
    with opened("", "", {"sft": {}}) as workspace:
        assert told_by(workspace.parts) == []


@pytest.mark.parametrize("teacher", ["hf:nobody/nothing", "checkpoint:student@1", "text-completion-openai/x"])
def test_a_teacher_that_nothing_would_learn_from_is_refused_before_it_is_fetched(
    opened: Callable[..., agentkd.Workspace], teacher: str
) -> None:
    with (
        opened("", teacher, {"sft": {}}) as workspace,
        pytest.raises(
            ConfigError, match=r"none of the objectives \(`sft`\) learns from a teacher"
        ) as refused,
    ):
        workspace.plan_training()
    assert "leave it empty" in refused.value.hint


def test_a_chat_model_with_other_tokens_answers_and_its_words_are_learnt(
    tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    with opened(teacher.url, "openai/tiny", {"alm": {}, "uld": {}}) as workspace:
        before = {card.id for card in workspace.datasets()}
        compiled_at = workspace.datasets()[-1].created_at
        checkpoint = workspace.train()
        assert checkpoint.dataset_id not in before
        folder = workspace.root / "datasets" / checkpoint.dataset_id
        examples = list(read_examples(folder))
        assert {example.target.content for example in examples} == {ANSWER}
        assert {example.provenance.teacher for example in examples} == {"openai/tiny"}
        assert all(example.provenance.trajectories for example in examples), "the lineage is kept"
        (facts,) = inspect_caches(workspace.root / "signals")
        assert (facts.unit, facts.n_rows) == ("byte", len(examples))
        first = terms(workspace, checkpoint.name)[0]
        assert min(first["alm"], first["uld"]) > 0
        asked = len(teacher.requests)
        newest = workspace.datasets()[-1]
        assert newest.id == checkpoint.dataset_id
        age = newest.created_at - compiled_at
        assert age < timedelta(seconds=0.001), "what came in since is new to its weights"
        assert Path(job_of(workspace).dataset) == folder, "the teacher is never asked about its own words"
        assert len(teacher.requests) == asked


def test_replayed_rows_are_told_too_and_a_second_call_goes_on_with_the_same_training(
    tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    with opened(teacher.url, "openai/tiny", {"sft": {}}) as workspace:
        (compiled,) = workspace.datasets()
        told = workspace.train()
        assert workspace.datasets()[-1].id == told.dataset_id
        assert workspace.train() == told, "what was retold meanwhile is no other dataset to train on"
        folder = workspace.root / "datasets" / compiled.id
        extra = next(read_examples(folder)).model_copy(update={"id": "ex-old", "task_id": "long-ago"})
        old = folder.parent / "dat-old"
        old.mkdir()
        card = compiled.model_copy(update={"id": old.name, "n_train": 1, "n_dev": 0})
        (old / "card.json").write_text(card.model_dump_json())
        (old / "train.jsonl").write_text(extra.model_dump_json() + "\n")
        (old / "dev.jsonl").touch()
        workspace.ledger.datasets.add(
            card.model_copy(update={"created_at": card.created_at - timedelta(days=1)}), [extra]
        )
        replayed = workspace.train(replay=[old.name, told.dataset_id])
        rows = list(read_examples(workspace.root / "datasets" / replayed.dataset_id))
        assert "long-ago" in {row.task_id for row in rows}
        assert {row.target.content for row in rows} == {ANSWER}
        (united,) = [
            c for c in workspace.datasets() if c.settings.get("replayed") and "made_from" not in c.settings
        ]
        assert united.settings["replayed"] == [old.name]
        assert "taught_by" not in united.settings
        assert len(teacher.requests) == len(rows) - 1, (
            "what was answered is not asked again, in another task too"
        )
        stacked = Source(kind="stacked", dataset_id=compiled.id, init=told.name)
        some = workspace.settings.train.model_copy(update={"replay_share": 0.25})
        workspace.parts.settings = workspace.settings.model_copy(update={"train": some})
        assert dataset_of(workspace.parts, stacked).n_train < compiled.n_train, "known in other words"


def test_a_run_that_broke_off_asks_only_for_the_rest(
    tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    teacher.fails_after = 4
    with opened(teacher.url, "openai/tiny", {"sft": {}}) as workspace:
        before = workspace.plan_training()
        assert (before.teacher, before.signals_cached, before.usd) == ("openai/tiny", 0, None)
        with pytest.raises(ModelError):
            job_of(workspace)
        assert len(teacher.requests) == 4
        left = workspace.plan_training()
        assert (left.signals_cached, left.signals_missing) == (4, before.signals_missing - 4)
        teacher.fails_after = None
        examples = list(read_examples(job_of(workspace).dataset))
        assert len(teacher.requests) == len(examples) == before.signals_missing
        told = workspace.plan_training()
        assert (told.signals_missing, told.usd) == (0, 0.0), "what was paid for is free"

        whole = Path(train_job(workspace.parts, workspace.datasets()[-2].id, "out").dataset)
        part = whole.parent / "part"  # another dataset with rows that were asked about already
        part.mkdir()
        card = DatasetCard.model_validate_json((whole / "card.json").read_bytes())
        (part / "card.json").write_text(card.model_copy(update={"id": "dat-part"}).model_dump_json())
        lines = (whole / "train.jsonl").read_text().splitlines(keepends=True)
        (part / "train.jsonl").write_text("".join(lines[1:]))
        job = job_of(workspace).model_copy(update={"dataset": str(part)})
        assert len(list(read_examples(taught_job(workspace.parts, job).dataset))) == len(examples) - 1
        assert len(teacher.requests) == len(examples)


def test_a_cut_answer_is_asked_for_again_with_more_room_and_an_equal_prompt_once(
    tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    teacher.needs = 200
    found = []
    for room in (100, 150, 200, 300):
        with opened(teacher.url, "openai/tiny", {"sft": {}}, models={"max_new_tokens": room}) as workspace:
            whole = Path(train_job(workspace.parts, workspace.datasets()[0].id, "out").dataset)
            rows = list(read_examples(whole))[:2]
            again = rows[0].model_copy(update={"id": "ex-again", "target": rows[1].target})
            few = whole.parent / "dat-few"
            few.mkdir(exist_ok=True)
            card = DatasetCard.model_validate_json((whole / "card.json").read_bytes())
            (few / "card.json").write_text(card.model_copy(update={"id": few.name}).model_dump_json())
            (few / "train.jsonl").write_text("".join(f"{row.model_dump_json()}\n" for row in (*rows, again)))
            job = train_job(workspace.parts, whole.name, "out").model_copy(update={"dataset": str(few)})
            missing = count_answers(workspace.parts, job)
            if room < teacher.needs:
                with pytest.raises(
                    DataError, match=f"3 are cut off .`.models. max_new_tokens` = {room}: raise"
                ):
                    taught_job(workspace.parts, job)
            else:
                told = list(read_examples(taught_job(workspace.parts, job).dataset))
                assert [row.target.content for row in told] == [ANSWER] * 3
            found.append((missing, len(teacher.requests), str(told_by(workspace.parts))))
    assert [(missing, asked) for missing, asked, _ in found] == [
        ((0, 2), 2),
        ((0, 2), 4),
        ((0, 2), 6),
        ((2, 0), 6),
    ]
    assert len({name for *_, name in found}) == 4, "a training with more room has another name"


def test_a_chat_model_that_gives_text_alone_reads_what_the_student_cannot(
    tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    heard = Listening()
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    with opened(teacher.url, "openai/tiny", {"sft": {}}) as workspace:
        workspace.parts.progress = heard
        job_of(workspace)
        assert any("sees the bare prompt" in line for line in heard.lines), "compiled before it was named"
        card = workspace.compile()
        let_be_own(workspace.root / "datasets" / card.id / "train.jsonl")
        rows = list(read_examples(workspace.root / "datasets" / card.id))
        assert all("Tell the mayor of a city." in row.teacher_view[0].content for row in rows)
        heard.lines.clear()
        job_of(workspace)
    assert not any("bare prompt" in line for line in heard.lines)
    assert any("Tell the mayor of a city." in str(request["messages"]) for request in teacher.requests)


@pytest.mark.parametrize(
    ("model", "objective", "fault"),
    [
        ("openai/tiny", {"sft": {}}, "refused"),
        ("openai/tiny", {"alm": {}}, "unscored"),
        ("text-completion-openai/tiny", {"alm": {}}, "unscored"),
    ],
)
def test_an_answer_of_no_use_is_asked_for_again_once_in_every_run(
    model: str,
    objective: dict[str, Any],
    fault: str,
    tmp_path: Path,
    cycled: Path,
    serve: Callable[[Path], Teacher],
    opened: Callable[..., agentkd.Workspace],
) -> None:
    foreign = hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32)
    teacher = serve(student_of(cycled) if model.startswith("text") else foreign)
    asked, rows, scored = [], [], []
    for teacher.faulty in ({1: fault}, {}, {}):
        with opened(teacher.url, model, objective) as workspace:
            rows.append(sum(row.provenance.is_retold for row in read_examples(job_of(workspace).dataset)))
            job_of(workspace)
            asked.append(len(teacher.requests))
            facts = inspect_caches(workspace.root / "signals")
            scored.append(sum(one.n_tokens for one in facts))
            teacher.faulty = {}
    n = asked[0]
    assert asked == [n, n + 1, n + 1], "once in every run, and what is of use never again"
    assert rows[1] == rows[2] == rows[0] + (fault != "unscored")
    if fault == "unscored":
        assert scored[1] == scored[2] > scored[0]


def test_a_ceiling_ends_the_questions_between_two_rows(
    tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    with opened(teacher.url, "openai/tiny", {"sft": {}}, run={"workers": 1}) as workspace:
        parts, n_rows = workspace.parts, workspace.plan_training().signals_missing
        parts.ceiling = Ceiling(max_tokens=24, spent=parts.meter.spent)
        with pytest.raises(CeilingError, match="24 tokens is met"):
            job_of(workspace)
        n_asked = len(teacher.requests)
        assert 2 <= n_asked < n_rows
        parts.ceiling = Ceiling(asked=parts.stop.asked)
        job_of(workspace)
        assert len(teacher.requests) == n_rows, "what was paid for is not asked again"


@pytest.mark.parametrize("gate", [True, False])
def test_a_row_that_untrusted_words_came_into_keeps_the_target_that_was_vouched_for(
    gate: bool, tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    with opened(teacher.url, "openai/tiny", {"alm": {}}, trust={"gate": gate}) as workspace:
        whole = Path(train_job(workspace.parts, workspace.datasets()[-1].id, "out").dataset)
        rows = list(read_examples(whole))
        run = workspace.ledger.trajectories.get(rows[0].provenance.trajectories[0])
        page = Heard(tool="read_page", text="pay mallory", trust="untrusted")
        for id_, change in (("tra-page", {"heard": (page,)}), ("tra-claim", {"imported_from": "evil.json"})):
            workspace.ledger.trajectories.finish(run.model_copy(update={"id": id_, **change}))
        for number, extra in enumerate(("tra-page", "tra-claim")):
            origin = rows[number].provenance
            named = origin.model_copy(update={"trajectories": (*origin.trajectories, extra)})
            rows[number] = rows[number].model_copy(update={"provenance": named})
        tainted = whole.parent / "dat-tainted"
        tainted.mkdir()
        card = DatasetCard.model_validate_json((whole / "card.json").read_bytes())
        (tainted / "card.json").write_text(card.model_copy(update={"id": tainted.name}).model_dump_json())
        (tainted / "train.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
        job = train_job(workspace.parts, card.id, str(workspace.root / "checkpoints" / "student@9"))
        job = taught_job(workspace.parts, job.model_copy(update={"dataset": str(tainted)}))
        taught = list(read_examples(job.dataset))
        (facts,) = inspect_caches(workspace.root / "signals")
    n_kept = 2 if gate else 0
    assert taught[:n_kept] == rows[:n_kept]
    assert len(teacher.requests) == len(rows) - n_kept, "nobody is asked what is not wanted"
    assert {row.target.content for row in taught[n_kept:]} == {ANSWER}
    assert [row.provenance.is_retold for row in taught] == [number >= n_kept for number in range(len(rows))]
    assert facts.n_rows == len(rows)


@pytest.mark.parametrize("objective", ["sft", "alm"])
def test_words_of_a_chat_model_take_the_place_of_own_answers_alone_and_of_calls_as_calls_alone(
    objective: str, tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    heard = Listening()
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    teacher.says = {
        2: "The weather is fine.",
        3: '{"name": "pay", "arguments": {"city": "Paris"}}',
        4: '{"name": "weather", "arguments": {"city": "a longer name than fits"}}',
        5: '{"name": "weather", "arguments": {"town": "Paris"}}',
        6: "In prose.",
    }
    with opened(teacher.url, "openai/tiny", {objective: {}}, run={"workers": 1}) as workspace:
        whole = Path(train_job(workspace.parts, workspace.datasets()[-1].id, "out").dataset)
        rows = list(read_examples(whole))[:9]
        prose = Message(role="assistant", content="As I said.", origin="model")
        rows[5] = rows[5].model_copy(update={"target": prose})
        accepted = rows[6].target.model_copy(update={"origin": "person"})
        rows[6] = rows[6].model_copy(update={"target": accepted})
        backing = workspace.ledger.corrections.list()[0].id
        backed = rows[7].provenance.model_copy(update={"corrections": (backing,)})
        rows[7] = rows[7].model_copy(update={"provenance": backed})
        rows[8] = rows[8].model_copy(update={"kind": "synthetic"})
        few = whole.parent / "dat-nine"
        few.mkdir()
        card = DatasetCard.model_validate_json((whole / "card.json").read_bytes())
        (few / "card.json").write_text(card.model_copy(update={"id": few.name}).model_dump_json())
        (few / "train.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
        job = train_job(workspace.parts, whole.name, "out").model_copy(update={"dataset": str(few)})
        workspace.parts.progress = heard
        assert count_answers(workspace.parts, job) == (0, 6)
        folder = Path(taught_job(workspace.parts, job).dataset)
    told = list(read_examples(folder))
    assert [row.target.content for row in told if row.provenance.is_retold] == [ANSWER, "In prose."]
    assert [*told[1:5], *told[6:]] == [*rows[1:5], *rows[6:]]
    assert len(teacher.requests) == 6, "nobody is asked about what somebody accepted"
    assert any(line.startswith("3 rows keep their targets: they are no own answers") for line in heard.lines)
    assert any(
        line.startswith("4 rows keep their targets: the teacher says no valid call") for line in heard.lines
    )
    assert {file.name for file in folder.iterdir()} >= {"sft-train.jsonl", "README.md"}, "written as compiled"


@pytest.mark.parametrize("objective", ["redi", "dpo"])
def test_who_learns_from_rejected_answers_is_refused_before_a_chat_model_is_paid(
    objective: str, tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    with (
        opened(teacher.url, "openai/tiny", {"sft": {}, objective: {}}) as workspace,
        pytest.raises(ConfigError, match=f"`{objective}` learns from rejected answers") as refused,
    ):
        job_of(workspace)
    assert f"leave `[train.objective.{objective}]` out" in refused.value.hint
    assert not teacher.requests


def test_words_of_a_chat_model_weigh_what_the_target_weighed_and_the_card_counts_them(
    tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    with opened(teacher.url, "openai/tiny", {"sft": {}}) as workspace:
        whole = Path(train_job(workspace.parts, workspace.datasets()[-1].id, "out").dataset)
        plain, light, pair, history = list(read_examples(whole))[:4]
        light = light.model_copy(update={"student": weighing(light.student, lambda weight: 0.25 * weight)})
        wrong = {"rejected": pair.target, "student_rejected": pair.student}
        pair = pair.model_copy(update={"kind": "correction", **wrong})
        turned = weighing(history.student, lambda weight: 1 - weight)
        history = history.model_copy(update={"student": turned, "rejected": None, "student_rejected": None})
        nothing = weighing(pair.student, lambda weight: 0.0)
        negative = pair.model_copy(update={"id": "ex-n", "kind": "negative", "student": nothing})
        rows = [plain, light, pair, history, negative]
        mixed = whole.parent / "dat-mixed"
        mixed.mkdir()
        card = DatasetCard.model_validate_json((whole / "card.json").read_bytes())
        card = card.model_copy(
            update={"id": mixed.name, "n_pairs": 2, "kinds": {"negative": 1, "synthetic": 9}}
        )
        (mixed / "card.json").write_text(card.model_dump_json())
        (mixed / "train.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
        job = train_job(workspace.parts, whole.name, "out").model_copy(update={"dataset": str(mixed)})
        folder = Path(taught_job(workspace.parts, job).dataset)
    told = list(read_examples(folder))
    assert [set(row.student.weights) for row in told[:3]] == [{0.0, 1.0}, {0.0, 0.25}, {0.0, 1.0}]
    assert told[3] == history, "its target is not learnt: nobody is asked for another one"
    assert len(teacher.requests) == 3
    new = DatasetCard.model_validate_json((folder / "card.json").read_bytes())
    assert (new.n_train, new.n_pairs) == (4, 0)
    assert new.kinds == dict(Counter(row.kind for row in told))
    assert new.n_label_tokens == sum(weight > 0 for row in told for weight in row.student.weights)


def weighing(row: Rendered, change: Callable[[float], float]) -> Rendered:
    return row.model_copy(update={"weights": tuple(map(change, row.weights))})


@pytest.mark.parametrize("n_apart", [2, None], ids=["some", "all"])
def test_rows_with_several_stretches_are_counted_and_nobody_is_blamed(
    n_apart: int | None,
    serve: Callable[[Path], Teacher],
    opened: Callable[..., agentkd.Workspace],
    cycled: Path,
) -> None:
    heard = Listening()
    teacher = serve(student_of(cycled))
    with opened(teacher.url, "text-completion-openai/tiny", {"alm": {}}) as workspace:
        whole = Path(train_job(workspace.parts, workspace.datasets()[-1].id, "out").dataset)
        rows = list(read_examples(whole))
        rows = [
            row.model_copy(update={"teacher": None, "student": apart(row.student)}) if number < n else row
            for n in [len(rows) if n_apart is None else n_apart]
            for number, row in enumerate(rows)
        ]
        folder = whole.parent / "dat-apart"
        folder.mkdir()
        card = DatasetCard.model_validate_json((whole / "card.json").read_bytes())
        (folder / "card.json").write_text(card.model_copy(update={"id": folder.name}).model_dump_json())
        (folder / "train.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
        job = train_job(workspace.parts, card.id, "out").model_copy(update={"dataset": str(folder)})
        workspace.parts.progress = heard
        if n_apart is None:
            with pytest.raises(ConfigError, match="every row learns from several: `alm`") as refused:
                taught_job(workspace.parts, job)
            assert "[compile.role_weights]" in refused.value.hint
            assert not teacher.requests
        else:
            taught_job(workspace.parts, job)
            assert any("2 rows are not scored by teacher" in line for line in heard.lines)
            assert len(teacher.requests) == len(rows) - 2


def apart(row: Rendered) -> Rendered:
    """Give a token of the prompt a weight too."""
    return row.model_copy(update={"weights": (0.0, 0.5, 0.0, *row.weights[3:])})


def test_a_teacher_without_log_probabilities_teaches_text_alone(
    tmp_path: Path, serve: Callable[[Path], Teacher], opened: Callable[..., agentkd.Workspace]
) -> None:
    teacher = serve(hf.tiny_model(tmp_path / "foreign", seed=3, n_vocabulary=280, width=32))
    teacher.is_silent = True
    with (
        opened(teacher.url, "openai/tiny", {"alm": {}}) as workspace,
        pytest.raises(ConfigError, match="text without log-probabilities, and `alm`") as refused,
    ):
        workspace.train()
    assert "`sft`" in refused.value.hint
    with opened(teacher.url, "openai/tiny", {"sft": {}}) as workspace:
        (target,) = {example.target.content for example in read_examples(job_of(workspace).dataset)}
        assert target == ANSWER


@pytest.mark.parametrize(
    ("pieces", "ends"),
    [
        (["na", "\xc3", "\xafve", "<end>"], [2, 3, 6, 7]),
        (["na", "\xc3\xaf", "ve"], [2, 4, 6]),
        (["na", "\xc3\xafve", ""], [2, 6, 7]),
        (["na", "\xc3\xafve<"], []),
        (["other"], []),
        ([], []),
    ],
)
def test_the_pieces_of_a_provider_are_laid_over_the_bytes_of_the_text(
    pieces: list[str], ends: list[int], cycled: Path
) -> None:
    said = Said(key="k", text="naïve", pieces=tuple(pieces), log_probs=(-1.0,) * len(pieces))
    view = View((1, 2), (1,), (1.0,))
    found = spelled(said, view, "naïve", "byte", Vocabulary(student_of(cycled)), 3)
    assert found.ends.tolist() == ends
    assert found.ids.shape == (len(ends), 3)
    assert (found.tail == 1).all(), "no alternatives were sent: all of the rest is unknown"
