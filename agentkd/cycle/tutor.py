"""A remote teacher is asked before training starts: for signals on the rows, or for targets of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.cycle.accepted import kept_targets, no_calls
from agentkd.cycle.parts import Parts
from agentkd.cycle.teach import SCORES_TEXT, is_remote, writes_text
from agentkd.errors import ConfigError, DataError
from agentkd.schema import DatasetCard, Example, Reply, TrainJob, content_id

if TYPE_CHECKING:
    from agentkd.train.remote import Answers, Said, Vocabulary
    from agentkd.train.rows import Row, View

__all__ = ["compiled_folder", "count_answers", "taught_job"]

_MOST_TOP = 20  # what providers send at most
_LATER = timedelta(microseconds=1)  # listed behind what it was made from, and no newer: its rows are as old


def taught_job(parts: Parts, job: TrainJob) -> TrainJob:
    """Return the job with all that its remote teacher says on disk; any other job as it is.

    A `text-completion-...` teacher scores the targets. A chat model answers in its own words: the job gets a
    new dataset with them, which the ledger knows. Rows keep what somebody accepted or vouched for, and a call
    where the teacher says none that the tools would take. Raises ConfigError where an objective asks for
    log-probabilities and the provider sends none, and, before a chat model is asked anything, where one
    learns from rejected answers: its dataset has none.
    """
    teacher = job.settings.teacher
    if not is_remote(teacher):
        return job
    lesson = _lesson(parts, job)
    if writes_text(teacher):
        return lesson.answer()
    if lesson.top_k:
        lesson.score()
    return lesson.job


def count_answers(parts: Parts, job: TrainJob) -> tuple[int, int] | None:
    """Return how many prompts a chat teacher has answered, and how many it would be asked; asks nobody.

    None for a teacher that does not answer in its own words.
    """
    teacher = job.settings.teacher
    if not writes_text(teacher):
        return None
    lesson = _lesson(parts, job)
    examples = lesson.examples()
    kept = set[str]().union(*kept_targets(parts, examples).values())
    asked, log = set(_prompts(examples, kept).values()), lesson.log("answer")
    n_missing = sum(log.lacks(key, lesson.limit) for key in asked)
    return len(asked) - n_missing, n_missing


def _lesson(parts: Parts, job: TrainJob) -> _Tutor:
    from agentkd.train.prepare import build_objectives
    from agentkd.train.teacher import wanted_top_k

    objectives = build_objectives(job)
    top_k = wanted_top_k(objectives)
    asking = [w.name for w in objectives if any(need.startswith("teacher") for need in w.objective.requires)]
    if writes_text(job.settings.teacher):
        for weighted in objectives:
            if "rejected" in weighted.objective.requires:
                raise _pairs_refused(job.settings.teacher, weighted.name)
    job = job.model_copy(update={"dataset": str(compiled_folder(Path(job.dataset)))})
    return _Tutor(parts, job, top_k, asking)


@dataclass(frozen=True)
class _Tutor:
    parts: Parts
    job: TrainJob
    top_k: int
    asking: Sequence[str]

    def score(self) -> None:
        """Let the teacher score the target of every row that has one text to score."""
        from agentkd.train.remote import Vocabulary

        rows, vocabulary = self._rows(self.job.dataset), Vocabulary(self.job.base)
        model: Any = self.parts.model(self.job.settings.teacher)
        wanted: dict[str, Callable[[], Reply]] = {}
        for key, (_, view) in rows.items():
            first, last = view.labels[0], view.labels[-1]
            if last - first + 1 != len(view.labels):
                continue  # several stretches in one row: no one text to score
            asked = vocabulary.text(view.ids[:first]), vocabulary.text(view.ids[first : last + 1])
            wanted[key] = partial(model.score, *asked, top_k=min(self.top_k, _MOST_TOP))
        self._tell_unscored(len(rows), len(wanted))
        answers = self._ask("score", wanted)
        if wanted and not any(said.pieces for said in answers.values()):
            self.log("score").file.unlink()  # a server that was set right since is asked again
            self._refuse_silence(answers.values())
        texts = {key: _target_text(answers[key].text, view, vocabulary) for key, (_, view) in rows.items()
                 if key in answers}  # fmt: skip
        self._store(self.job, rows, answers, texts, vocabulary)

    def answer(self) -> TrainJob:
        """Let the teacher answer every prompt; return the job on the dataset of its answers."""
        from agentkd.train.remote import Vocabulary, with_end

        examples = self.examples()
        reasons = kept_targets(self.parts, examples)
        kept = set[str]().union(*reasons.values())
        model: Any = self.parts.model(self.job.settings.teacher)
        sampling: dict[str, Any] = {"temperature": 0.0, "purpose": "teacher"}
        if self.top_k:
            sampling["top_log_probs"] = min(self.top_k, _MOST_TOP)
        keys = _prompts(examples, kept)
        if keys and not any(e.teacher_view for e in examples if e.id in keys):
            self.parts.progress.say(
                f"teacher `{self.job.settings.teacher}` sees the bare prompt of the student, no memories "
                "and no tools: the rows were compiled without this teacher; `agentkd compile` makes its views"
            )
        wanted = {
            keys[e.id]: partial(model.reply, e.teacher_view or e.student_view, **sampling)
            for e in examples
            if e.id in keys
        }
        found = self._ask("answer", wanted, self.limit)
        answers = {id_: found[key] for id_, key in keys.items()}
        if self.top_k and wanted:
            self._refuse_silence(answers.values())
        no_call = no_calls(self.parts, examples, answers)
        reasons["the teacher says no valid call of an offered tool in the place of theirs"] = no_call
        for why, ids in reasons.items():
            if why and ids:
                self.parts.progress.say(f"{len(ids)} rows keep their targets: {why}")
        answers = {id_: said for id_, said in answers.items() if id_ not in no_call}
        job, origin = self._retell(examples, answers, kept | no_call)
        if self.top_k:
            rows, vocabulary = self._rows(job.dataset), Vocabulary(job.base)
            origins = {key: origin[row.id] for key, (row, _) in rows.items()}
            said = {
                key: with_end(answers[id_], rows[key][1], vocabulary)
                for key, id_ in origins.items()
                if id_ in answers
            }
            texts = {key: one.text for key, one in said.items()}
            self._store(job, rows, said, texts, vocabulary)
        return job

    def examples(self) -> list[Example]:
        """Return the rows that anything is learnt from."""
        from agentkd.train.view import read_examples

        return [e for e in read_examples(self.job.dataset) if e.weight and any(e.student.weights)]

    def log(self, way: str) -> Answers:
        """Return what the teacher said when it was asked in this way, whatever the dataset: paid once."""
        from agentkd.train.remote import Answers

        name = content_id("remote", self.job.teacher_id, way, self.top_k)
        tried = self.parts.tried.setdefault(name, set())
        file = Path(self.job.signals) / "remote" / f"{name}.jsonl"
        return Answers(file, is_scored=bool(self.top_k), tried=tried)

    def _rows(self, folder: str) -> dict[str, tuple[Row, View]]:
        """Return the taught rows of a dataset with what the teacher sees, by key."""
        from agentkd.train.artefact import row_key
        from agentkd.train.rows import load_dataset
        from agentkd.train.view import with_own_views

        dataset = with_own_views(load_dataset(folder, self.job.settings.max_tokens_per_row))
        return {row_key(row.teacher): (row, row.teacher) for row in dataset.train if row.teacher is not None}

    @property
    def limit(self) -> int:
        """Tokens that a chat teacher's answer has room for."""
        return self.parts.settings.models.max_new_tokens

    def _ask(self, way: str, wanted: Mapping[str, Callable[[], Reply]], limit: int = 0) -> dict[str, Said]:
        """Ask what was not asked before, up to the ceiling of the cycle; say what it cost.

        An answer that was cut off with room for fewer tokens than `limit` is asked for again, and one of no
        use once in every run.
        """
        from agentkd.train.remote import cost_text

        teacher, log = self.job.settings.teacher, self.log(way)
        progress = self.parts.ceiling.watching(self.parts.progress)
        n = sum(log.lacks(key, limit) for key in wanted)
        progress.say(f"teacher `{teacher}`: {n} of {len(wanted)} prompts to ask")
        workers = self.parts.settings.run.workers
        log.ask(wanted, limit=limit, workers=workers, progress=progress, label="teacher")
        found = {key: log.found[key] for key in wanted}
        if n:
            progress.say(f"teacher `{teacher}` has cost {cost_text(said.usage for said in found.values())}")
        return found

    def _tell_unscored(self, n_rows: int, n_wanted: int) -> None:
        """Say how many rows are not scored; raises ConfigError where none would be."""
        if n_wanted == n_rows:
            return
        teacher = self.job.settings.teacher
        if not n_wanted:
            raise ConfigError(
                f"teacher `{teacher}` scores one stretch of text a row, and every row learns from several: "
                f"{self._named} would learn nothing",
                hint="set `history` and `observation` of `[compile.role_weights]` to 0 and compile again, or "
                "take a teacher on this machine",
                key="compile.role_weights",
            )
        self.parts.progress.say(
            f"{n_rows - n_wanted} rows are not scored by teacher `{teacher}`: they learn from several "
            "stretches of text"
        )

    @property
    def _named(self) -> str:
        return ", ".join(f"`{name}`" for name in self.asking)

    def _refuse_silence(self, answers: Collection[Said]) -> None:
        if any(said.pieces for said in answers):
            return
        if any(said.log_probs for said in answers):
            raise ConfigError(
                f"teacher `{self.job.settings.teacher}` does not score the text that it is sent: its server "
                "adds tokens, hides those of the template or joins prompt and target in one, and "
                f"{self._named} cannot be computed",
                hint="let the server echo the prompt as it is (no tokens added, special ones shown), or take "
                "a teacher on this machine",
                key="train.teacher",
            )
        raise ConfigError(
            f"teacher `{self.job.settings.teacher}` sends text without log-probabilities, and {self._named} "
            "cannot be computed from text alone",
            hint="train on its text with `sft`, or take a teacher that sends `top_logprobs`",
            key="train.teacher",
        )

    def _store(
        self,
        job: TrainJob,
        rows: Mapping[str, tuple[Row, View]],
        answers: Mapping[str, Said],
        texts: Mapping[str, str],
        vocabulary: Vocabulary,
    ) -> None:
        """Write the signals of rows that the cache lacks; a row without a usable answer gets empty ones."""
        from agentkd.train.remote import Said, spelled, unit_of
        from agentkd.train.rows import load_dataset
        from agentkd.train.teacher import signal_cache

        unit = unit_of([(said, rows[key][1]) for key, said in answers.items()], vocabulary)
        template = load_dataset(job.dataset, job.settings.max_tokens_per_row).card.template_hash
        cache = signal_cache(job, template, self.top_k, unit)
        cached = cache.read(rows.keys())
        missing = [key for key in rows if key not in cached or not len(cached[key].ends)]
        made = {
            key: spelled(
                answers.get(key) or Said(key=key, text=""), rows[key][1], texts.get(key, ""), unit,
                vocabulary, self.top_k,
            )
            for key in sorted(missing)
        }  # fmt: skip
        if new := {key: row for key, row in made.items() if key not in cached or len(row.ends)}:
            cache.write(new)
        silent = sum(not len(row.ends) for key, row in made.items() if key in answers)
        if silent:
            self.parts.progress.say(f"{silent} rows: the teacher's tokens cannot be laid over the target")

    def _retell(
        self, examples: Sequence[Example], answers: Mapping[str, Said], kept: Collection[str]
    ) -> tuple[TrainJob, dict[str, str]]:
        """Write and register a dataset of the teacher's words; return its job and each row's origin."""
        from agentkd.train.remote import retold

        teacher, settings = self.job.settings.teacher, self.job.settings
        pairs = retold(examples, answers, self.job.base, teacher, settings.max_tokens_per_row, kept=kept)
        n_cut = sum(said.is_cut for said in answers.values())
        cure = f" (`[models] max_new_tokens` = {self.limit}: raise it)" if n_cut else ""
        why = f"the answers of {n_cut} are cut off{cure}, the others' empty, too long or not to render"
        if left_out := len(examples) - len(pairs):
            self.parts.progress.say(f"{left_out} rows are left out: {why}")
        if not pairs:
            raise DataError(
                f"no answer of teacher `{teacher}` can be learnt from: {why}",
                hint="raise `[models] max_new_tokens` or `[train] max_tokens_per_row`",
            )
        card = _write(self.job, [row for _, row in pairs])
        if card.id not in {known.id for known in self.parts.ledger.datasets.list()}:
            self.parts.ledger.datasets.add(card, [row for _, row in pairs])
        folder = Path(self.job.dataset).parent / card.id
        return self.job.model_copy(update={"dataset": str(folder)}), {row.id: key for key, row in pairs}


def _prompts(examples: Sequence[Example], kept: Collection[str]) -> dict[str, str]:
    """Return the key of each row's prompt by the row's id, without the rows in `kept`."""

    def key(example: Example) -> str:
        seen = example.teacher_view or example.student_view
        return content_id("prompt", [message.model_dump(mode="json", exclude={"origin"}) for message in seen])

    return {example.id: key(example) for example in examples if example.id not in kept}


def _pairs_refused(teacher: str, objective: str) -> ConfigError:
    return ConfigError(
        f"`{objective}` learns from rejected answers, and rows that `{teacher}` answers have none",
        hint=f"leave `[train.objective.{objective}]` out, or take a teacher that leaves rows as they are: a "
        f"`{SCORES_TEXT}...` model, a local one or the base",
        key=f"train.objective.{objective}",
    )


def compiled_folder(folder: Path) -> Path:
    """Return the dataset as it was compiled, where a teacher's words stand in the place of its targets.

    It is the given folder where they do not, and where what they were made from is not there any more.
    """
    if not (folder / "card.json").is_file():
        return folder
    card = DatasetCard.model_validate_json((folder / "card.json").read_bytes())
    origin = folder.parent / str(card.settings.get("made_from", ""))
    return origin if origin != folder.parent and (origin / "card.json").is_file() else folder


def _target_text(completion: str, view: View, vocabulary: Vocabulary) -> str:
    """Return the completion without the token that ends the turn."""
    end = view.ids[view.labels[-1]]
    return completion.removesuffix(vocabulary.text([end])) if end in vocabulary.ends else completion


def _write(job: TrainJob, rows: Sequence[Example]) -> DatasetCard:
    """Write the rows and the dev rows of the job's dataset as another one beside it; return its card."""
    from agentkd import hf
    from agentkd.compiler import read_examples
    from agentkd.compiler.write import Split, Tally, write_dataset

    old = Path(job.dataset)
    card = DatasetCard.model_validate_json((old / "card.json").read_bytes())

    def split() -> Iterator[tuple[Example, Split]]:
        yield from ((row, "train") for row in rows)
        if (old / "dev.jsonl").is_file():
            yield from ((row, "dev") for row in read_examples(old / "dev.jsonl"))

    def finish(tally: Tally) -> DatasetCard:
        told = {"taught_by": job.settings.teacher, "made_from": card.id}
        return card.model_copy(
            update={
                "id": content_id("dat", card.id, job.settings.teacher, sorted(tally.train)),
                **tally.counts(),
                "created_at": card.created_at + _LATER,
                "settings": {**card.settings, **told},
            }
        )

    return write_dataset(old.parent, split(), finish, hf.load_tokenizer(job.base))
