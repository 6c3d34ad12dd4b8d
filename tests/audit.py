"""Ask for known vulnerabilities of every pinned package: part of `make check`.

Where nobody answers (no network, or a registry without that interface) it says so within seconds and passes.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
SECONDS = 40
ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that do not concern us, each with the reason."""


def audit(lock: Path, seconds: float) -> list[dict[str, Any]]:
    """Return what is known of every package of a lock file; raises OSError where nobody answers."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(lock), "--disable-pip", "--require-hashes"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        raise OSError(f"pip-audit got no answer: {type(error).__name__}") from error
    if found and all("skip_reason" in each for each in found):
        raise OSError("the registry here knows of no vulnerabilities")
    return found


def faults(found: list[dict[str, Any]]) -> list[str]:
    """Return a line per vulnerability that nobody has accepted."""
    return [
        f"{each['name']} {each['version']}: {known['id']} (fixed in {', '.join(known['fix_versions'])})"
        for each in found
        for known in each.get("vulns", ())
        if known["id"] not in ACCEPTED
    ]


def first_entry(text: str) -> str:
    """Return the first package of a lock file with its hashes: enough to see whether anybody answers."""
    lines = text.splitlines()
    end = next((n for n, line in enumerate(lines) if n and line[:1].isalnum()), len(lines))
    return "\n".join(lines[:end]) + "\n"


def main() -> int:
    """Audit the lock file."""
    if importlib.util.find_spec("pip_audit") is None:
        print("audit skipped: pip-audit is not installed")
        return 0
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as probe:
            probe.write(first_entry(LOCK.read_text(encoding="utf-8")))
            probe.flush()
            audit(Path(probe.name), 15)
        found = audit(LOCK, SECONDS)
    except OSError as error:
        print(f"audit skipped: {error}")
        return 0
    bad = faults(found)
    print("\n".join(bad) or f"audit: nothing known against {len(found)} packages")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
