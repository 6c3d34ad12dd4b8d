"""The lock pins every dependency by version and hash; nothing that runs at install time comes along."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from .conftest import ROOT

sys.path.insert(0, str(ROOT / "tests"))

from audit import faults, first_entry

LOCK = ROOT / "requirements.lock"


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!;~]", requirement)[0]).lower()


def locked() -> dict[str, tuple[str, list[str]]]:
    entries: dict[str, tuple[str, list[str]]] = {}
    current = ""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if matched := re.match(r"([A-Za-z0-9._-]+)==(\S+)", line):
            current = name_of(matched[1])
            entries[current] = (matched[2], [])
        elif matched := re.match(r"\s+--hash=sha256:([0-9a-f]{64})", line):
            entries[current][1].append(matched[1])
    return entries


def test_every_package_of_the_lock_has_hashes_and_the_version_of_the_constraints() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    constraints = {name_of(name): version for name, version in pins.items() if not name.startswith("#")}
    entries = locked()
    assert len(entries) > 100
    for name, (version, hashes) in entries.items():
        assert hashes, name
        if name not in ("pip", "setuptools"):  # what installs the constraints does not replace itself
            assert constraints.get(name) == version.partition("+")[0], name


def test_the_lock_covers_what_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {name_of(each) for each in (*project["dependencies"], *extras["train"], *extras["dev"])}
    assert wanted <= locked().keys()


def test_the_malicious_releases_of_litellm_cannot_be_installed() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "!=1.82.7" in project
    assert "!=1.82.8" in project
    assert locked()["litellm"][0] not in ("1.82.7", "1.82.8")


def test_the_build_runs_no_code_of_ours() -> None:
    for path in (ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")):
        build = tomllib.loads(path.read_text(encoding="utf-8"))
        assert build["build-system"] == {"requires": ["hatchling"], "build-backend": "hatchling.build"}
        assert "hooks" not in str(build.get("tool", {}).get("hatch", {}))
        assert not list(path.parent.glob("setup.*"))


def test_what_is_known_against_a_package_is_told_and_nothing_else() -> None:
    known = {"id": "PYSEC-1", "fix_versions": ["2.0"]}
    found = [
        {"name": "a", "version": "1.0", "vulns": [known]},
        {"name": "b", "version": "1.0", "vulns": []},
        {"name": "c", "skip_reason": "not found"},
    ]
    assert faults(found) == ["a 1.0: PYSEC-1 (fixed in 2.0)"]
    assert first_entry("a==1 \\\n    --hash=x\nb==2 \\\n").count("==") == 1


@pytest.mark.parametrize("index", ["http://127.0.0.1:9/simple"])
def test_the_audit_passes_quickly_where_nobody_answers(index: str) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(Path(ROOT, "tests", "audit.py"))],
        capture_output=True, text=True, check=False,
        env={"PATH": "", "http_proxy": index, "https_proxy": index, "PIP_INDEX_URL": index},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("audit skipped: ")
    assert time.monotonic() - started < 30
