"""Batched, head-sharing, grammar-jumping decoding says exactly what plain decoding says."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentkd import hf
from agentkd.errors import CheckpointError, ConfigError, ModelError
from agentkd.models.local import LocalModel, LocalRequest, load
from agentkd.schema import Message, Reply, ToolSpec

HEAD = Message(role="system", content="You help customers. " * 30)
TOOLS = (
    ToolSpec(
        name="find_order",
        parameters={
            "properties": {
                "email": {"type": "string", "maxLength": 12},
                "limit": {"type": "integer", "maximum": 99},
            },
            "required": ["email"],
        },
    ),
    ToolSpec(
        name="find_order_by_name",
        parameters={"properties": {"paid": {"type": "boolean"}}, "required": ["paid"]},
    ),
)


def _ask(i: int, head: bool = True) -> list[Message]:
    words = " ".join(["order", "parcel", "weather", str(i * 37), "Friday"][: 1 + i % 5])
    user = Message(role="user", content=f"Request {i}: {words}")
    return [HEAD, user] if head else [user]


@pytest.fixture(scope="module")
def model(tiny: Path) -> LocalModel:
    return load(tiny, dtype="float32", batch_size=16, max_new_tokens=24)


def _plainly(
    folder: Path, prompt: tuple[int, ...], n: int, adapter: Path | None = None
) -> tuple[list[int], list[float]]:
    """Greedy decoding without cache, batch or grammar: the whole text anew for every token."""
    import torch

    network: Any = hf.load_model(folder, "float32")
    ends = hf.end_ids(hf.load_tokenizer(folder))
    if adapter:
        network = hf.attach_adapter(network, adapter)
    ids, log_probs = list(prompt), []
    with torch.no_grad():
        while len(ids) < len(prompt) + n and (len(ids) == len(prompt) or ids[-1] not in ends):
            scores = network(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            ids.append(int(scores.argmax()))
            log_probs.append(float(scores.max()))
    return ids[len(prompt) :], log_probs


def _same(reply: Reply, ids: list[int], log_probs: list[float]) -> bool:
    assert reply.tokens is not None
    return list(reply.tokens.completion_ids) == ids and reply.tokens.log_probs == pytest.approx(
        log_probs, abs=1e-3
    )


@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_batch_says_what_plain_decoding_says(
    model: LocalModel, tiny: Path, tiny_adapter: Path, with_adapter: bool
) -> None:
    used = model.with_adapter(tiny_adapter) if with_adapter else model
    requests = [LocalRequest(_ask(i, head=i % 3 > 0)) for i in range(9)]
    replies = used.reply_many(requests)
    for reply in replies[:4]:
        assert reply.tokens is not None
        plain = _plainly(tiny, reply.tokens.prompt_ids, 24, tiny_adapter if with_adapter else None)
        assert _same(reply, *plain)


def test_a_reply_does_not_depend_on_its_batch(model: LocalModel) -> None:
    requests = [
        LocalRequest(_ask(i), TOOLS, {"tool_choice": "required", "max_new_tokens": 60}) for i in range(12)
    ]
    together = model.reply_many(requests)
    backwards = model.reply_many(requests[::-1])[::-1]
    alone = [model.reply(r.messages, r.tools, **r.sampling) for r in requests[:3]]
    with ThreadPoolExecutor(12) as pool:
        threaded = list(pool.map(lambda r: model.reply(r.messages, r.tools, **r.sampling), requests))
    for others in (backwards, alone, threaded):
        assert [r.tokens for r in others] == [r.tokens for r in together[: len(others)]]


def test_every_required_call_parses_and_carries_its_tokens(model: LocalModel, tiny: Path) -> None:
    sampling = {"tool_choice": "required", "max_new_tokens": 120}
    replies = model.reply_many([LocalRequest(_ask(i), TOOLS, sampling) for i in range(8)])
    tokenizer = hf.load_tokenizer(tiny)
    for reply in replies:
        assert reply.finish_reason == "tool_calls"
        assert len(reply.tool_calls) == 1
        assert reply.tokens is not None
        assert reply.tokens.template_hash == hf.template_hash(tokenizer)
        assert tokenizer.decode(list(reply.tokens.completion_ids)) == reply.text
        assert (
            len(reply.tokens.log_probs) == len(reply.tokens.completion_ids) == reply.usage.completion_tokens
        )
        assert all(p <= 0 for p in reply.tokens.log_probs)


def test_jumping_over_forced_tokens_changes_no_probability(model: LocalModel, tiny: Path) -> None:
    import torch

    reply = model.reply(_ask(1), TOOLS, tool_choice="required", max_new_tokens=60)
    assert reply.tokens is not None
    prompt, said = list(reply.tokens.prompt_ids), list(reply.tokens.completion_ids)
    with torch.no_grad():
        logits = hf.load_model(tiny, "float32")(torch.tensor([prompt + said])).logits[0].log_softmax(-1)
    wanted = [float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(said)]
    assert reply.tokens.log_probs == pytest.approx(wanted, abs=1e-3)


def test_a_shared_head_is_read_once(tiny: Path) -> None:
    model = load(tiny, dtype="float32", batch_size=1, max_new_tokens=4)
    first, second = model.reply(_ask(1)), model.reply(_ask(2))
    assert first.usage.cached_tokens == 0
    assert 64 <= second.usage.cached_tokens < second.usage.prompt_tokens
    without = load(tiny, dtype="float32", batch_size=1, prefix_cache=0, max_new_tokens=4)
    assert without.reply(_ask(2)).text == second.text
    assert without.reply(_ask(2)).usage.cached_tokens == 0


def test_adapters_switch_on_one_set_of_weights(model: LocalModel, tiny_adapter: Path) -> None:
    student = model.with_adapter(tiny_adapter, "student@1")
    with ThreadPoolExecutor(2) as pool:
        base = [pool.submit(model.reply, _ask(i)) for i in range(6)]
        adapted = [pool.submit(student.reply, _ask(i)) for i in range(6)]
    texts = [f.result().text for f in base], [f.result().text for f in adapted]
    assert texts[0] != texts[1]
    assert texts[0] == [model.reply(_ask(i)).text for i in range(6)]
    assert student.base().reply(_ask(0)).text == texts[0][0]
    assert adapted[0].result().model.endswith("@student@1")


def test_sampling_is_repeatable_by_seed(model: LocalModel) -> None:
    def draw(seed: int, **more: Any) -> str:
        return model.reply(_ask(3), temperature=1.0, seed=seed, **more).text

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(4)}) > 1
    assert draw(7, top_p=1e-6) == model.reply(_ask(3)).text


def test_schema_choice_and_no_tools(model: LocalModel) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    assert model.reply(_ask(1), schema=schema).text in ('{"ok": true}', '{"ok": false}')
    assert model.reply(_ask(1), choices=("left", "right")).text in ("left", "right")
    assert model.reply(_ask(1), TOOLS, tool_choice="none").tool_calls == ()
    cut = model.reply(_ask(1), TOOLS, tool_choice="required", max_new_tokens=5)
    assert cut.finish_reason == "length"
    assert cut.tool_calls == ()
    assert cut.usage.completion_tokens == 5


def test_score_is_the_log_likelihood_of_a_reply(model: LocalModel) -> None:
    scores = model.score(_ask(1), ["left", "right", "somewhere in San Francisco"])
    assert scores == pytest.approx(
        [model.score(_ask(1), [t])[0] for t in ("left", "right", "somewhere in San Francisco")]
    )
    assert all(score < 0 and math.isfinite(score) for score in scores)
    reply = model.reply(_ask(2), max_new_tokens=200)
    if reply.finish_reason == "stop" and reply.text and reply.tokens:
        assert model.score(_ask(2), [reply.text])[0] == pytest.approx(sum(reply.tokens.log_probs), abs=1e-2)


def test_wrong_use_is_one_clear_error(model: LocalModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not fit the context"):
        model.reply([Message(role="user", content="parcel " * 7000)])
    with pytest.raises(ConfigError, match="temprature"):
        model.reply(_ask(1), temprature=1)
    with pytest.raises(ConfigError, match="no tools"):
        model.reply(_ask(1), tool_choice="required")
    with pytest.raises(CheckpointError, match="missing"):
        model.with_adapter(tmp_path)
    assert model.reply(_ask(1)).text  # and the model still answers


def test_an_unknown_architecture_runs_through_its_own_modules(tiny: Path, tiny_adapter: Path) -> None:
    from agentkd.models.network import ModuleNetwork, Piece, open_network

    slow, fast = ModuleNetwork(hf.load_model(tiny, "float32")), open_network(tiny, "float32")
    texts = [[3 + i * 7 % 300 for i in range(513)], list(range(100, 103))]  # 513 tokens: a chunk and one more
    for name in (None, "a.b"):
        outputs = []
        for network in (slow, fast):
            network.use_adapter(name, tiny_adapter)
            head = network.head(list(range(200, 270)))
            rows = [network.open(head, 600), network.open(None, 100)]
            parts = [Piece(row, ids, 2) for row, ids in zip(rows, texts, strict=True)]
            outputs.append(network.extend(parts))
            outputs[-1] = outputs[-1].sum(-1) + network.extend([Piece(rows[1], [5])]).max()
        assert outputs[0].tolist() == pytest.approx(outputs[1].tolist(), rel=1e-4)


def test_the_component_is_built_from_settings(tiny: Path, tiny_adapter: Path, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from agentkd.config import ModelSettings, Settings
    from agentkd.models.local import LocalSettings, build
    from agentkd.protocols import Model, SilentProgress

    options = Settings(models=ModelSettings(dtype="float32", max_new_tokens=3, batch_size=4))
    kit: Any = SimpleNamespace(settings=options, cache_dir=tmp_path, progress=SilentProgress())
    source = f"path:{tiny}"
    base = build(LocalSettings(source=source), kit)
    student = build(
        LocalSettings(source=source, adapter=str(tiny_adapter), adapter_name="student@1-abc"), kit
    )
    assert isinstance(base, Model)
    assert base.reply(_ask(1)).usage.completion_tokens <= 3
    assert student.reply(_ask(1)).model == f"{source}@student@1-abc"


def test_a_long_prompt_is_read_in_parts(model: LocalModel, tiny: Path) -> None:
    reply = model.reply([Message(role="user", content="parcel " * 700)], max_new_tokens=6)
    assert reply.tokens is not None
    assert len(reply.tokens.prompt_ids) > 600
    assert _same(reply, *_plainly(tiny, reply.tokens.prompt_ids, 6))
