"""What is here and what is missing on this machine: packages, models, disk, GPU, locks, `.pth` files."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import site
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agentkd import __version__
from agentkd.cli.check import Check
from agentkd.cli.render import bytes_text
from agentkd.errors import AgentkdError
from agentkd.stop import StopFile

if TYPE_CHECKING:
    from agentkd.config import Settings

__all__ = ["look_at_machine", "look_at_workspace", "suspicious_lines"]

NEEDED = (
    "chromadb", "jsonschema", "langgraph", "litellm", "mcp", "numpy", "onnxruntime", "pydantic", "rich",
    "sqlalchemy", "tokenizers",
)  # fmt: skip
EXTRAS = {"train": ("gguf", "llguidance", "peft", "safetensors", "torch", "transformers")}
MALICIOUS = {"litellm": ("1.82.7", "1.82.8")}
_SHAPING = {"minilm-onnx": {"model", "tokenizer", "max_tokens"}, "hashing": {"dimensions", "max_words"}}
MIN_FREE_BYTES = 2_000_000_000

# What installers write into .pth files, as whole lines; anything else that runs code there is suspicious. In
# the two of setuptools, the second for namespace packages, `<...>` stands for a name; `[...]` may be missing.
_SHIM = (
    "os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, '<word>') == 'local'; "
    "enabled and __import__('_distutils_hack').add_shim()"
)
_NAMESPACE = (
    "sys, types, os;[has_mfs = sys.version_info > (3, 5);]p = os.path.join(<root>, *<parts>);"
    "importlib = [has_mfs and ]__import__('importlib.util');[has_mfs and ]__import__('importlib.machinery');"
    "m = [has_mfs and ]sys.modules.setdefault('<name>', importlib.util.module_from_spec("
    "importlib.machinery.PathFinder.find_spec('<name>', <of>os.path.dirname(p)<fo>)));"
    "m = m or sys.modules.setdefault('<name>', types.ModuleType('<name>'));"
    "mp = (m or <of><fo>) and m.__dict__.setdefault('__path__',<of><fo>);(p not in mp) and mp.append(p)"
    "[;m and setattr(sys.modules<of>'<name>'<fo>, '<word>', m)]"
)
_VARIES = {
    r"\[": "(?:", r"\]": ")?", "<of>": r"\[", "<fo>": r"\]", "<word>": r"\w+", "<name>": r"\w+(?:\.\w+)*",
    "<root>": r"(?:sys\._getframe\(1\)\.f_locals\['sitedir'\]|'[^'\\]*')", "<parts>": r"\((?:'\w+',? ?)+\)",
}  # fmt: skip


def _pattern(line: str) -> str:
    line = re.escape(line)
    for mark, stands_for in _VARIES.items():
        line = line.replace(mark, stands_for)
    return line


_KNOWN_PTH = re.compile(
    r"import (?:_virtualenv|(__editable___\w+_finder); \1\.install\(\)"
    rf"|coverage; coverage\.process_startup\(\)|{_pattern(_SHIM)}|{_pattern(_NAMESPACE)})[ ;]*"
)
_DANGEROUS = re.compile(r"exec\(|eval\(|base64|subprocess|os\.system|urllib|socket|compile\(|__import__\(")


def look_at_machine(root: Path) -> Iterator[Check]:
    """Yield what this machine has and lacks; touches no network."""
    yield Check(
        area="machine",
        name="python",
        status="PASS",
        detail=f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores, "
        f"agentkd {__version__}",
    )
    yield from _packages()
    yield _pth_files()
    yield from _disk(root)
    yield _gpu()
    yield from _models()


def _packages() -> Iterator[Check]:
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    yield Check(
        area="machine",
        name="core packages",
        status="FAIL" if lacking else "PASS",
        detail=f"not installed: {', '.join(lacking)}" if lacking else f"all {len(NEEDED)} installed",
        hint="pip install --force-reinstall agentkd" if lacking else "",
    )
    for extra, names in EXTRAS.items():
        lacking = [name for name in names if importlib.util.find_spec(name) is None]
        yield Check(
            area="machine",
            name=f"extra [{extra}]",
            status="MISSING" if lacking else "PASS",
            detail=f"not installed: {', '.join(lacking)}" if lacking else f"all {len(names)} installed",
            hint=f"pip install 'agentkd[{extra}]'" if lacking else "",
        )
    for name, versions in MALICIOUS.items():
        found = _version(name)
        bad = found in versions
        yield Check(
            area="machine",
            name=f"{name} release",
            status="FAIL" if bad else "PASS",
            detail=f"{found} is a malicious release" if bad else f"{found or 'not installed'}",
            hint=f"uninstall it, then change every secret that this machine has seen ({name})" if bad else "",
        )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def suspicious_lines(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield (file, line) of what runs unknown code whenever Python starts.

    That is a line of a `.pth` file that no known installer writes and that looks dangerous or belongs to no
    installed package, and a `sitecustomize.py` or `usercustomize.py` that belongs to none.
    """
    for path in sorted(folder.glob("*.pth")):
        for line in path.read_text(encoding="utf-8-sig", errors="replace").split("\n"):  # as `site` reads it
            if not line.startswith(("import ", "import\t")) or _KNOWN_PTH.fullmatch(line):
                continue
            if len(line) > 300 or _DANGEROUS.search(line) or not _is_owned(path):
                yield path, line
    for name in ("sitecustomize.py", "usercustomize.py"):
        if (folder / name).exists() and not _is_owned(folder / name):
            yield folder / name, "belongs to no installed package"


def _is_owned(path: Path) -> bool:
    """Whether an installed package lists the file as its own."""
    wanted = f"\n{path.name},"
    records = path.parent.glob("*.dist-info/RECORD")
    return any(wanted in "\n" + record.read_text(encoding="utf-8", errors="replace") for record in records)


def _pth_files() -> Check:
    folders = {Path(name) for name in (*site.getsitepackages(), site.getusersitepackages())}
    found = [item for folder in sorted(folders) if folder.is_dir() for item in suspicious_lines(folder)]
    return Check(
        area="machine",
        name=".pth files",
        status="FAIL" if found else "PASS",
        detail="; ".join(f"{path}: {line[:60]}" for path, line in found) or "none runs unknown code",
        hint="such a line runs at every start of Python: find out which package brought it" if found else "",
    )


def _disk(root: Path) -> Iterator[Check]:
    from agentkd.models.source import default_cache_dir

    for name, folder in (("workspace", root), ("model cache", default_cache_dir())):
        existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        is_low = free < MIN_FREE_BYTES
        can_write = os.access(existing, os.W_OK)
        yield Check(
            area="machine",
            name=f"disk of the {name}",
            status="FAIL" if is_low or not can_write else "PASS",
            detail=f"{bytes_text(free)} free in {folder}" if can_write else f"{existing} cannot be written",
            hint=f"a cycle wants {bytes_text(MIN_FREE_BYTES)}" if is_low else "",
        )


def _gpu() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check(area="machine", name="GPU", status="MISSING", detail="unknown without torch")
    import torch

    if not torch.cuda.is_available():
        return Check(
            area="machine", name="GPU", status="MISSING", detail="none; training and local models use the CPU"
        )
    properties = torch.cuda.get_device_properties(0)
    return Check(
        area="machine",
        name="GPU",
        status="PASS",
        detail=f"{properties.name}, {bytes_text(properties.total_memory)}",
    )


def _models() -> Iterator[Check]:
    from agentkd.models.source import default_cache_dir, known_sources, list_cached

    cached = {info.source for info in list_cached(default_cache_dir())}
    for info in known_sources():
        here = any(info.source.split("==")[0] == source.split("==")[0] for source in cached)
        yield Check(
            area="machine",
            name=info.source,
            status="PASS" if here else "MISSING",
            detail=info.summary + ("" if here else f", {bytes_text(info.n_bytes)} to fetch"),
            hint="" if here else f"agentkd models pull {info.source}",
        )


def look_at_workspace(root: Path) -> Iterator[Check]:
    """Yield how the workspace at hand is: settings, plugins, ledger and lock; nothing where there is none."""
    if not any((root / name).is_file() for name in ("agentkd.toml", "ledger.db")):
        return
    from agentkd.config import load_settings
    from agentkd.plugins import PluginHost

    try:
        settings = load_settings(root)
        yield Check(area="workspace", name="settings", status="PASS", detail=str(root.resolve()))
        host = PluginHost.chosen(settings.plugins)
        yield Check(
            area="workspace",
            name="plugins",
            status="PASS",
            detail=", ".join(host.versions) or "none installed",
        )
        if settings.ledger or (root / "ledger.db").is_file():
            yield from _ledger(settings.ledger or root / "ledger.db")
            yield _thresholds(settings.ledger or root / "ledger.db", settings)
    except AgentkdError as error:
        yield Check(area="workspace", name="settings", status="FAIL", detail=error.message, hint=error.hint)
    if stopped := StopFile(root).reason():
        hint = "`agentkd stop --off` lets it go on"
        yield Check(area="workspace", name="kill switch", status="MISSING", detail=stopped, hint=hint)
    lock = root / "index" / ".lock"
    if lock.is_file():
        yield _lock(lock)


def _ledger(where: str | Path) -> Iterator[Check]:
    from agentkd.ledger import Ledger

    with Ledger.open(where, read_only=True) as ledger:
        ledger.check()
        counts, held, last = ledger.counts(), ledger.leases.holder("cycle"), ledger.leases.get("cycle")
    facts = ", ".join(f"{n} {kind}" for kind, n in counts.items() if n)
    yield Check(area="workspace", name="ledger", status="PASS", detail=facts or "empty")
    if held is not None:
        detail = f"held by {held.owner} since {held.taken_at:%Y-%m-%d %H:%M} UTC (epoch {held.epoch})"
        hint = "that process runs a cycle: wait for it or end it"
        yield Check(area="workspace", name="lease of cycles", status="MISSING", detail=detail, hint=hint)
    else:
        detail = f"free (epoch {last.epoch})" if last else "free, never taken"
        yield Check(area="workspace", name="lease of cycles", status="PASS", detail=detail)


def _thresholds(where: str | Path, settings: Settings) -> Check:
    """Say where the thresholds of similarity come from; no embedder is built, for that may cost a request."""
    from agentkd.ledger import Ledger
    from agentkd.memory.threshold import SHIPPED

    name, memory = settings.memory.embedder, settings.memory
    with Ledger.open(where, read_only=True) as ledger:
        is_measured = set(ledger.calibrations.fingerprints()) - SHIPPED.keys()
    is_plain = not settings.options("embedder", name).keys() & _SHAPING.get(name, set())
    if None not in (memory.min_score, memory.min_words, memory.merge_above):
        status, detail, hint = "PASS", "set in `[memory]`", ""
    elif name in _SHAPING and is_plain:
        status, detail, hint = "PASS", f"shipped for `{name}`, unless calibrated here", ""
    elif is_measured:
        status, detail, hint = "PASS", "calibrated here", ""
    else:
        detail = f"generic: nobody has measured what counts as similar for `{name}` with these options"
        status, hint = "MISSING", "`agentkd memory calibrate` measures it on your memories"
    check = {"area": "workspace", "name": "thresholds", "status": status, "detail": detail, "hint": hint}
    return Check.model_validate(check)


def _lock(path: Path) -> Check:
    from agentkd.errors import LockedError
    from agentkd.memory import IndexLock

    try:
        IndexLock(path).release()
    except LockedError as error:
        return Check(
            area="workspace", name="index lock", status="MISSING", detail=error.message, hint=error.hint
        )
    return Check(area="workspace", name="index lock", status="PASS", detail="free")
