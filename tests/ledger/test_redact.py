"""Secrets are gone before anything is stored for the first time."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from agentkd.ledger import Ledger, redact_secrets
from agentkd.ledger.redact import redact_json
from agentkd.schema import Evidence, Memory, MemoryKeys, Message, Span, TokenTrace, ToolCall, ToolResult

Make = Any

SECRETS = {
    "api-key": "sk-" + "proj-Ab12" * 5,
    "aws-key": "AKIA" + "IOSFODNN7EXAMPLE",
    "github-token": "ghp_" + "a1B2c3D4e5" * 4,
    "google-key": "AIza" + "Sy0" * 11 + "ab",
    "slack-token": "xoxb-" + "123456789012-abcdef",
    "hub-token": "hf_" + "AbCdEfGhIj" * 4,
    "jwt": "eyJhbGciOiJIUzI1" + "." + "eyJzdWIiOiIxMjM0" + "." + "SflKxwRJSMeKKF2QT4",
    "private-key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nAbc/+=\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_becomes_a_typed_placeholder(kind: str) -> None:
    text = f"the key is {SECRETS[kind]}, keep it"
    assert redact_secrets(text) == f"the key is [redacted:{kind}], keep it"


def test_the_rest_of_a_url_and_a_header_stays_readable() -> None:
    url = "postgresql://ada:hunter2@db.example.org/shop"
    assert redact_secrets(url) == "postgresql://ada:[redacted:url-password]@db.example.org/shop"
    header = "Authorization: Bearer 0123456789abcdef.0123"
    assert redact_secrets(header) == "Authorization: Bearer [redacted:bearer-token]"


@pytest.mark.parametrize(
    "text",
    [
        "ask-for-the-long-address-first and risk-taking-is-not-needed",
        "https://example.org:8080/a@b?c=d",
        "mem-0123456789abcdef0123 trj-0123456789abcdef0123 skip-this-one-please-now",
        "bearer of good news, AKIA is a prefix, ghp_ too",
        "student@1-0123abcd",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact_secrets(text) == text


@pytest.mark.parametrize("id_", ["tra-fb42026074783338ab66", "mem-6a2754349294090e6ada"])
def test_an_id_whose_digits_check_as_a_card_stays_whole(id_: str) -> None:
    assert redact_secrets(id_) == id_
    assert redact_json({"seeds": [id_]}, redact_secrets) == ({"seeds": [id_]}, False)
    assert redact_secrets(f"{id_} paid with 4111 1111 1111 1111") == f"{id_} paid with [redacted:card]"
    assert redact_secrets("visa4111111111111111") == "visa[redacted:card]"
    assert redact_secrets("id-41111111111111111111") == "id-41111111111111111111"  # 20 digits are no card


def test_redaction_takes_linear_time() -> None:
    started = time.process_time()
    for text in (
        "-----BEGIN PRIVATE KEY-----" * 20_000,
        "sk-" * 200_000,
        "://a:" * 100_000,
        "eyJ." * 100_000,
        "password=" * 50_000,
        "1 " * 200_000,
        "AB12 " * 100_000,
        "aA1" * 200_000,
    ):
        redact_secrets(text)
    assert time.process_time() - started < 5


def test_no_secret_reaches_the_disk(path: Path, make: Any) -> None:
    secret = SECRETS["github-token"]
    call = ToolCall(name="login", arguments={"token": secret, secret: [f"nested {secret}"]})
    step = make.step(
        0,
        f"I use {secret}",
        accepted_calls=(call,),
        tokens=TokenTrace(prompt_ids=(1, 2), completion_ids=(3,)),
    ).model_copy(update={"results": (ToolResult(error=f"denied {secret}", value={"echo": secret}),)})
    message = Message(role="user", content=f"my token is {secret}")
    with Ledger.open(path) as ledger:
        ledger.trajectories.begin(make.trajectory(1, success=None, messages=(message,), steps=()))
        ledger.trajectories.add_step("trj-1", step)
        assert not is_on_disk(path, secret)
        ledger.trajectories.finish(make.trajectory(1, messages=(message,), steps=(step, make.step(1))))
        ledger.corrections.add(make.correction(1, "trj-1", f"never show {secret}"))
        ledger.memories.admit([memory := make.memory(f"log in with {secret}", "trj-1")])
        assert ledger.memories.get(memory.id).content == "log in with [redacted:github-token]"
        assert ledger.corrections.get("cor-1").text == "never show [redacted:github-token]"
        stored = ledger.trajectories.get("trj-1")
        assert stored.steps[0].accepted_calls[0].arguments["token"] == "[redacted:github-token]"
        assert [s.tokens for s in stored.steps] == [None, None], "token ids would spell the secret out"
        assert not is_on_disk(path, secret)
    assert not is_on_disk(path, secret)


def test_a_step_after_a_secret_loses_its_tokens_too(ledger: Ledger, make: Any) -> None:
    trace = TokenTrace(prompt_ids=(1,), completion_ids=(2,))
    ledger.trajectories.begin(make.trajectory(1, success=None, steps=()))
    ledger.trajectories.add_step("trj-1", make.step(0, tokens=trace))
    ledger.trajectories.add_step("trj-1", make.step(1, SECRETS["api-key"], tokens=trace))
    ledger.trajectories.add_step("trj-1", make.step(2, tokens=trace))
    assert [s.tokens for s in ledger.trajectories.get("trj-1").steps] == [trace, None, None]


def test_another_redaction_can_be_given(path: Path, make: Any) -> None:
    with Ledger.open(path, redact=lambda text: re.sub("Ada", "[redacted:name]", text)) as ledger:
        ledger.trajectories.finish(make.trajectory(1, answer="Hello Ada"))
        assert ledger.trajectories.get("trj-1").answer == "Hello [redacted:name]"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("password:\thunter2abc9", "password:\t[redacted:password]"),
        ("IBAN:\nDE89370400440532013000", "IBAN:\n[redacted:iban]"),
        ("card\u00a04111111111111111", "card\u00a0[redacted:card]"),
        ("card\u20264111111111111111", "card\u2026[redacted:card]"),
        ("key\nsk-" + "a1" * 20, "key\n[redacted:api-key]"),
    ],
)
def test_what_json_makes_of_a_space_hides_no_secret(path: Path, make: Any, text: str, clean: str) -> None:
    assert redact_json({"prompt": text}, redact_secrets) == ({"prompt": clean}, True)
    assert redact_json([{text: 1}], redact_secrets) == ([{clean: 1}], True)
    with Ledger.open(path) as ledger:
        ledger.memories.admit([memory := make.memory(text)])
        assert ledger.memories.get(memory.id).content == clean


def test_the_words_that_a_memory_rests_on_hold_no_secret(path: Path, make: Any) -> None:
    token, card = SECRETS["github-token"], "4111 1111 1111 1111"
    odd = "trj-fb42026074783338ab66"  # its digits check as a card's do

    def resting_on(text: str, *quotes: str) -> Memory:
        spans = [Span(trajectory=odd, origin="tool", quote=quote, principal="user:ann") for quote in quotes]
        evidence = Evidence(trajectories=(odd,), steps=(f"{odd}:0",), spans=tuple(spans))
        return make.memory(text, evidence=evidence)

    with Ledger.open(path) as ledger:
        ledger.trajectories.finish(make.trajectory(1).model_copy(update={"id": odd}))
        first, second = resting_on("a", f"denied {token}"), resting_on("b", "plain")
        ledger.memories.admit([first, second])
        ledger.memories.admit([resting_on("a", f"paid with {card}")])
        ledger.memories.corroborate(first.id, resting_on("a", f"again {token}").evidence)
        ledger.memories.supersede(first.id, resting_on("a", f"once more {token}"))
        union = resting_on("b", f"for all {card}").model_copy(update={"keys": MemoryKeys(query=f"by {card}")})
        ledger.memories.replace([first.id, second.id], union, "alike")
        assert not any(is_on_disk(path, secret) for secret in (token, card))
        stored = ledger.memories.get(second.id)
        found = {span.quote for span in stored.evidence.spans}
    assert found == {
        "denied [redacted:github-token]", "paid with [redacted:card]", "again [redacted:github-token]",
        "once more [redacted:github-token]", "plain", "for all [redacted:card]",
    }  # fmt: skip
    assert stored.keys.query == "by [redacted:card]"
    assert {span.trajectory for span in stored.evidence.spans} == {odd}
    assert (stored.evidence.trajectories, stored.evidence.steps) == ((odd,), (f"{odd}:0",))


def is_on_disk(path: Path, text: str) -> bool:
    return any(text.encode() in file.read_bytes() for file in path.parent.iterdir())


def test_numbers_and_lists_hide_no_secret_and_lose_nothing_else():
    told = {"card": 4111111111111111, "password": 48151623, "cvv": [123], "authorization": ["hunter2 plain"]}
    clean, has_changed = redact_json({"arguments": told}, redact_secrets)
    assert has_changed
    assert clean == {
        "arguments": {
            "card": "[redacted:card]",
            "password": "[redacted:password]",
            "cvv": ["[redacted:secret]"],
            "authorization": ["[redacted:secret]"],
        }
    }
    kept = {
        "tokens": 4096, "seconds": 0.4111111111111111, "happened": 1764470000, "seed": 2**40, "ok": True,
        "password": None, "secret": False, "cookie": "", "api_key": "$OPENAI_API_KEY", "n": [1, 2.5, -3],
    }  # fmt: skip
    assert redact_json(kept, redact_secrets) == (kept, False)
