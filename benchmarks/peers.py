"""The systems that agentkd is compared with: each set, pinned, in a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

from measure import WORK

__all__ = ["peers_folder", "peers_python"]


def peers_folder(name: str) -> Path:
    """Return where the environment of `requirements-NAME.txt` lies, or would."""
    return Path(os.environ.get("AGENTKD_BENCH_VENV") or WORK / f"venv-{name}")


def peers_python(name: str, *, sees_ours: bool = False) -> str:
    """Return the Python of `requirements-NAME.txt`; makes its environment where a pin is missing.

    `sees_ours` lets it import what this Python has, such as torch, after what it has itself.
    """
    folder, wanted = peers_folder(name), Path(__file__).with_name(f"requirements-{name}.txt")
    python, stamp = folder / "bin" / "python", folder / wanted.name
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted.read_text(encoding="utf-8"):
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "--upgrade", "pip>=25.1"], check=True)  # an older one resolves for minutes
        if sees_ours:
            (site,) = folder.glob("lib/python*/site-packages")
            ours = sysconfig.get_paths()["purelib"]
            (site / "agentkd-bench.pth").write_text(ours + "\n", encoding="utf-8")
        subprocess.run([*install, "--requirement", str(wanted)], check=True)
        shutil.copy(wanted, stamp)
    return str(python)
