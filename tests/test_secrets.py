"""Secrets come in by every door and are on no disk: placeholders stand in their place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import agentkd
from agentkd.agents import open_checkpointer
from agentkd.agents.review import Approve
from agentkd.errors import ModelError
from agentkd.graph import AgentkdStore
from agentkd.interop import admit_imported, read_foreign, read_openai_traces
from agentkd.ledger.redact import redact_json, redact_secrets, redactor
from agentkd.models.scripted import ScriptedModel
from agentkd.schema import Memory, MemoryKeys, Scope, ToolCall, ToolResult, memory_id
from agentkd.testing import SeededSecret, seeded_secrets

CLEAN = (
    "The order mem-0123456789abcdef0123 was shipped to 221B Baker Street on 2024-03-05 at 19:30.",
    "Use get_user_account_balance_by_customer_id_v2(customerId=1234567890123) and read the next_token field.",
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 is the digest of the wheel",
    "https://example.org:8080/api/v1/items/550e8400-e29b-41d4-a716-446655440000?page=2&sort=asc#top",
    "The password is required. The token must be a string; the secret of success is patience.",
    "Call +49 30 901820 or (555) 010-9999; the ISBN is 978-3-16-148410-0, the parcel 1Z999AA10123456784.",
    "def getUserAccountBalanceByCustomerIdentifier2024(maximumNumberOfTokens: int = 128) -> dict: ...",
    "pi is 3.14159265358979323846 and e is 2.71828182845904523536",
)


def settings(**more: Any) -> dict[str, Any]:
    return {
        "memory": {"embedder": "hashing", "index": "exact", "min_score": -1.0},
        "roles": {"student": "scripted:none", "actor": "scripted:none"},
        **more,
    }


def on_disk(root: Path, secrets: Sequence[SeededSecret]) -> list[str]:
    """Return (format: file) of every secret that a file below a folder holds."""
    files: dict[Path, bytes] = {}
    for path in root.rglob("*"):
        with suppress(FileNotFoundError):  # an index joined its files meanwhile: what is gone holds nothing
            if path.is_file():
                files[path] = path.read_bytes()
    return sorted(
        f"{one.format}: {path.name}" for one in secrets for path, data in files.items()
        if one.secret.encode() in data
    )  # fmt: skip


def test_every_format_is_taken_out_in_prose_json_and_headers() -> None:
    missed = [
        (one.format, text)
        for one in seeded_secrets(10, seed=3)
        for text in (one.text, f"I wrote: {one.text} and then?", f"({one.text})", json.dumps({"a": one.text}))
        if one.secret in redact_secrets(text)
    ]
    assert missed == []


def test_a_named_field_is_taken_out_whatever_it_looks_like() -> None:
    headers = {
        "Authorization": "Token swordfish",
        "X-Api-Key": "sesame",
        "Accept": "text/html",
        "key": "C major",
    }
    clean, changed = redact_json({"headers": headers, "password": "swordfish", "n": 3}, redact_secrets)
    assert changed
    assert clean["headers"] == {
        "Authorization": "[redacted:secret]", "X-Api-Key": "[redacted:secret]", "Accept": "text/html",
        "key": "C major",
    }  # fmt: skip
    assert (clean["password"], clean["n"]) == ("[redacted:password]", 3)
    assert redact_json({"password": {"type": "string"}, "api_key": "$API_KEY"}, redact_secrets)[1] is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "$uperS3cret!"), ("password", "$uperS3cret"), ("api_key", "<9sk2kd9"),
        ("Authorization", "{abc} def"), ("secret_access_key", "swordfish"), ("db_pass", "hunter2"),
        ("dbPassword", "swordfish"), ("token", "hunter2abc9"), ("access_key", "hunter2abc9"),
    ],
)  # fmt: skip
def test_a_named_field_that_only_begins_as_a_placeholder_is_taken_out(name: str, value: str) -> None:
    told, has_changed = redact_json({"headers": [{name: value}]}, redact_secrets)
    assert has_changed
    assert value not in json.dumps(told)
    if len(value) >= 10:
        assert value not in redact_secrets(f"{name.replace('_access', '')}={value}")


@pytest.mark.parametrize(
    "value",
    ["$API_KEY", "${API_KEY_2}", "$api_key", "<your-key-1>", "<token 1>", "{token1234}", "{{ token1234 }}",
     "$(get-token1)", "%(token1)s", "$env:TOKEN1", "{tokens[0]}", "<|reserved_token_12|>"],
)  # fmt: skip
def test_a_whole_placeholder_stays(value: str) -> None:
    assert redact_json({"password": value, "token": value}, redact_secrets)[1] is False
    for text in (f"password={value}", f'"api_key": "{value}"', f"(token={value})"):
        assert redact_secrets(text) == text


def test_a_field_called_token_holds_a_word_or_a_number_of_them() -> None:
    kept = {"token": "swordfish", "tokens": 1234567890, "next_token": "page-2-of-30", "boarding_pass": "A12"}
    assert redact_json(kept, redact_secrets) == (kept, False)
    assert redact_secrets("login?password%3Dhunter2abc9") == "login?password%3D[redacted:password]"


@pytest.mark.parametrize(
    "name", ["password", "PASSWD", "pa\u017f\u017fword", "api_\u212aey", "Ap\u0131-key", "toKEN"]
)
def test_a_name_is_known_in_every_case_in_which_a_pattern_knows_it(name: str) -> None:
    assert redact_secrets(f"{name}: hunter2-hunter2").endswith("]")
    told, has_changed = redact_json({"note": f'{name}="hunter2-hunter2"'}, redact_secrets)
    assert has_changed
    assert "hunter2" not in told["note"]


@pytest.mark.parametrize("text", CLEAN)
def test_ordinary_text_stays(text: str) -> None:
    assert redact_secrets(text) == text


def test_check_digits_tell_cards_and_accounts_from_other_numbers() -> None:
    assert redact_secrets("4111 1111 1111 1111") == "[redacted:card]"
    assert redact_secrets("4111 1111 1111 1112") == "4111 1111 1111 1112"
    assert redact_secrets("DE89 3704 0044 0532 0130 00") == "[redacted:iban]"
    assert redact_secrets("DE88 3704 0044 0532 0130 00") == "DE88 3704 0044 0532 0130 00"


def test_a_plugin_finds_what_the_core_does_not_know(tmp_path: Path) -> None:
    class Staff:
        @agentkd.hookimpl
        def find_secrets(self, text: str) -> list[tuple[int, int, str]]:
            return [(m.start(), m.end(), "staff-number") for m in re.finditer(r"STAFF-\d{6}", text)]

    with agentkd.Workspace(tmp_path, settings=settings(), plugins=[Staff()]) as shop:
        agent = shop.agent(model=ScriptedModel(["Of course, STAFF-123456."]), recall=False)
        run = agent.run("I am STAFF-654321 with sk-" + "a1" * 20)
        stored = shop.ledger.trajectories.get(run.id)
    assert stored.task.prompt == "I am [redacted:staff-number] with [redacted:api-key]"
    assert stored.answer == "Of course, [redacted:staff-number]."
    assert b"STAFF-" not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert redactor([])("STAFF-123456") == "STAFF-123456"


class Doors:
    """Brings secrets in by every entry point."""

    def __init__(self, shop: agentkd.Workspace, folder: Path) -> None:
        self.shop = shop
        self.folder = folder
        self.doors: dict[str, Callable[[SeededSecret], None]] = {
            "prompt and answer": self.prompt,
            "tool arguments, result and headers": self.tool,
            "tool error": self.error,
            "model error": self.model_error,
            "correction": self.correction,
            "store": self.store,
            "memory": self.memory,
            "reason": self.reason,
            "traces": self.traces,
            "foreign memories": self.foreign,
            "checkpointer": self.checkpointer,
        }

    def run(self, prompt: str, *answers: Any, tools: Sequence[Any] = ()) -> agentkd.Trajectory:
        return self.shop.agent(tools, model=ScriptedModel(answers)).run(prompt)

    def prompt(self, one: SeededSecret) -> None:
        self.run(f"Remember {one.text} for me", f"I will keep {one.text}")

    def tool(self, one: SeededSecret) -> None:
        @agentkd.tool
        def call_api(note: str, headers: dict[str, str]) -> dict[str, Any]:
            """Call an API."""
            return {"echo": note, "Set-Cookie": one.text}

        call = ToolCall(name="call_api", arguments={"note": one.text, "headers": {"Authorization": one.text}})
        self.run("Call it.", call, "done", tools=[call_api])

    def error(self, one: SeededSecret) -> None:
        @agentkd.tool
        def fail(note: str) -> ToolResult:
            """Fail."""
            raise RuntimeError(f"401 for {one.text}")

        self.run("Try it.", ToolCall(name="fail", arguments={"note": "x"}), "no", tools=[fail])

    def model_error(self, one: SeededSecret) -> None:
        self.run("Ask.", ModelError(f"the provider refused {one.text}", model="m"))

    def correction(self, one: SeededSecret) -> None:
        run = self.run("Book a table.", "done")
        call = ToolCall(name="book", arguments={"note": one.text})
        self.shop.correct(run, f"Use {one.text}", call=call)
        self.shop.correct(run, "Say it.", answer=f"It is {one.text}")

    def store(self, one: SeededSecret) -> None:
        AgentkdStore(self.shop).put(
            ("users", "ann"), "fact", {"content": one.text, "deep": [{"a": one.text}]}
        )

    def memory(self, one: SeededSecret) -> None:
        when = f"somebody says {one.text}"
        self.shop.memory.admit([
            Memory(id=memory_id("insight", when, one.text, Scope()), kind="insight", when_to_use=when,
                   content=f"answer {one.text}", keys=MemoryKeys(situation=when), extras={"note": one.text})
        ])  # fmt: skip

    def reason(self, one: SeededSecret) -> None:
        [first, *_] = self.shop.ledger.memories.list(status="active")
        self.shop.memory.set_status(first.id, "quarantined", f"it leaked {one.text}")
        self.shop.memory.activate(first.id, f"no, {one.text} is old")
        self.shop.memory.undo(first.id, f"yes, {one.text} is new")
        self.shop.memory.activate(first.id, "fine")

    def traces(self, one: SeededSecret) -> None:
        file = self.folder / "traces.json"
        messages = [{"role": "user", "content": one.text}, {"role": "assistant", "content": one.text}]
        file.write_text(json.dumps([{"task_id": one.format, "messages": messages, "reward": 1}]))
        for trajectory in read_openai_traces(file):
            self.shop.ledger.trajectories.finish(trajectory)

    def foreign(self, one: SeededSecret) -> None:
        file = self.folder / "mem0.json"
        file.write_text(json.dumps({"results": [{"id": "1", "memory": f"Ann has {one.text}"}]}))
        admit_imported(read_foreign(file), self.shop.memory, self.shop.ledger)

    def checkpointer(self, one: SeededSecret) -> None:
        @agentkd.tool
        def pay(note: str) -> str:
            """Pay."""
            return f"paid with {note}"

        saver = open_checkpointer(self.shop.root / "waiting.db")
        model = ScriptedModel([ToolCall(name="pay", arguments={"note": one.text}), f"paid {one.text}"])
        agent = self.shop.agent([pay], model=model, interrupt_on=["pay"], checkpointer=saver)
        paused = agent.run(f"Pay with {one.text}")
        assert on_disk(self.shop.root, [one]) == []
        done = agent.resume(paused.thread_id, Approve())
        assert done.steps[0].results[0].content == f"paid with {one.text}"  # it went on as it was
        saver.conn.close()


def test_no_secret_that_comes_in_by_any_door_is_on_a_disk(tmp_path: Path) -> None:
    secrets = seeded_secrets(2, seed=11)
    outside = tmp_path / "outside"
    outside.mkdir()
    with agentkd.Workspace(tmp_path / "shop", settings=settings()) as shop:
        doors = Doors(shop, outside)
        for one in secrets:
            for door in doors.doors.values():
                door(one)
        shop.distill()
        assert on_disk(shop.root, secrets) == []
        assert len(shop.ledger.trajectories.list()) > len(secrets)
    assert on_disk(tmp_path / "shop", secrets) == []
    found = b"".join(path.read_bytes() for path in (tmp_path / "shop").rglob("*") if path.is_file())
    assert found.count(b"[redacted:") > 10 * len(secrets)


def test_the_search_finds_what_is_not_redacted(tmp_path: Path) -> None:
    from agentkd.ledger import Ledger
    from agentkd.testing import example_trajectory

    secrets = seeded_secrets(1, seed=5)
    with Ledger.open(tmp_path / "ledger.db", redact=lambda text: text) as ledger:
        for one in secrets:
            ledger.trajectories.finish(example_trajectory(f"Keep {one.text}"))
    assert (
        len({line.partition(":")[0] for line in on_disk(tmp_path, secrets)}) >= len(secrets) - 1
    )  # PEM is cut


def test_after_a_restart_a_call_that_lost_its_secret_is_not_run(tmp_path: Path) -> None:
    made: list[str] = []

    @agentkd.tool
    def pay(note: str) -> str:
        """Pay."""
        made.append(note)
        return "paid"

    [one] = [s for s in seeded_secrets(1, seed=2) if s.format == "api-key"]
    call = ToolCall(name="pay", arguments={"note": one.text})
    with agentkd.Workspace(tmp_path / "shop", settings=settings()) as shop:
        file = tmp_path / "waiting.db"
        first = shop.agent(
            [pay], model=ScriptedModel([call]), interrupt_on=["pay"], checkpointer=open_checkpointer(file)
        )
        paused = first.run("Pay.")
        second = shop.agent(
            [pay], model=ScriptedModel(["no"]), interrupt_on=["pay"], checkpointer=open_checkpointer(file)
        )
        done = second.resume(paused.thread_id, Approve())
    assert made == []
    assert "stands in the arguments for a secret" in done.steps[0].results[0].error


def test_a_clean_serializer_is_narrowed_as_any_other_and_encrypts_what_is_clean() -> None:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    from agentkd.agents.serializer import clean_serializer, is_clean_serializer

    class Cipher:
        def encrypt(self, data: bytes) -> tuple[str, bytes]:
            return "none", data

        def decrypt(self, name: str, data: bytes) -> bytes:
            return data

    secret = "sk-" + "A1b2" * 8
    plain = JsonPlusSerializer(allowed_msgpack_modules=[("a", "B")])
    for inner in (plain, EncryptedSerializer(Cipher(), plain)):
        saver: Any = BaseCheckpointSaver(serde=clean_serializer(inner))
        narrowed = saver.with_allowlist({("c", "D")}).serde
        assert is_clean_serializer(narrowed)
        written = narrowed.dumps_typed({"note": secret, "n": 1})
        assert secret.encode() not in written[1]
        assert narrowed.loads_typed(written) == {"note": secret, "n": 1}
        assert inner.loads_typed(written) == {"note": "[redacted:api-key]", "n": 1}
    assert not is_clean_serializer(plain)


def test_what_a_person_is_asked_is_cleaned_by_the_names_of_its_fields() -> None:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.types import Interrupt

    from agentkd.agents.serializer import clean_serializer

    key = "AKIA" + "IOSFODNN7EXAMPLE"
    arguments = {
        "Authorization": ["Token swordfish"],
        "cookie": ("swordfish",),
        key: {"password": "swordfish"},
    }
    asked = [Interrupt(value={"waiting": [{"name": "pay", "arguments": arguments}]}, id="one")]
    serde = clean_serializer(JsonPlusSerializer())
    written = serde.dumps_typed(asked)
    assert b"swordfish" not in written[1]
    assert key.encode() not in written[1]
    assert serde.loads_typed(written) == asked


def test_a_checkpointer_of_the_application_is_cleaned_too_and_stays_its_own(tmp_path: Path) -> None:
    import sqlite3

    from langgraph.checkpoint.sqlite import SqliteSaver

    saver = SqliteSaver(sqlite3.connect(tmp_path / "own.db", check_same_thread=False))
    serde = saver.serde
    [one] = [s for s in seeded_secrets(1, seed=2) if s.format == "github"]
    with agentkd.Workspace(tmp_path / "shop", settings=settings()) as shop:
        agent = shop.agent(model=ScriptedModel([f"I keep {one.text}"]), checkpointer=saver)
        agent.run(f"Keep {one.text}")
        assert on_disk(tmp_path, [one]) == []
    assert saver.serde is serde
