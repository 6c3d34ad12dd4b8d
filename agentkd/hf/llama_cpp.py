"""Ask llama.cpp what it would say after each position of a prompt, where `xllamacpp` is installed.

Run as `python -m agentkd.hf.llama_cpp JOB` it answers in a process of its own: a file that llama.cpp cannot
stand ends that process and not ours. Several prompts are decoded side by side, each in a slot of its own, so
that every position costs one token.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentkd.errors import CheckpointError, MissingExtraError
from agentkd.hf.parity import Answers, Parity

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

__all__ = ["compare_llama_cpp", "has_llama_cpp"]

N_POSITIONS = 64
"""Positions that are asked for at the end of each prompt: each one is a token to decode."""

TOKENS_BAR = 0.999
"""Least share of tokens that the file's own tokenizer has in the same place."""

_TOP = 20
_SLOTS = 8


def has_llama_cpp() -> bool:
    """Whether `xllamacpp` can be imported."""
    return importlib.util.find_spec("xllamacpp") is not None


def compare_llama_cpp(
    wanted: Sequence[Answers],
    model: Path,
    *,
    adapter: Path | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    bar: float,
    furthest: float | None = None,
) -> list[Parity]:
    """Ask llama.cpp with the file `model` (and a GGUF adapter) the same prompts.

    With a `tokenizer` the file's own must cut the prompts' texts as it does: a second figure. Raises
    MissingExtraError without `xllamacpp`, CheckpointError where llama.cpp does not read the files.
    """
    if not has_llama_cpp():
        raise MissingExtraError.of("xllamacpp", "llama", "reading an export with llama.cpp")
    texts = [tokenizer.decode(list(answers.ids)) for answers in wanted] if tokenizer else []
    reply = _ask([answers.ids for answers in wanted], texts, model, adapter)
    same = n = 0
    largest = 0.0
    for answers, rows in zip(wanted, reply["said"], strict=True):
        first = len(answers.ids) - len(rows)
        for position, row in enumerate(rows, start=first):
            same += int(row[0][0]) == int(answers.top[position, 0])
            n += 1
            largest = max(largest, _difference(answers, position, row))
    found = [
        Parity(
            reader="llama.cpp",
            n_prompts=len(wanted),
            n_tokens=n,
            agreement=same / n,
            largest=largest,
            bar=bar,
            furthest=furthest,
        )
    ]
    return [*found, _compare_tokens(tokenizer, texts, reply["ids"])] if tokenizer else found


def _compare_tokens(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], found: Sequence[Sequence[int]]
) -> Parity:
    """Return the share of tokens of the texts that both tokenizers have in the same place."""
    same = n = 0
    for text, ids in zip(texts, found, strict=True):
        wanted = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        same += sum(one == other for one, other in zip(wanted, ids, strict=False))
        n += max(len(wanted), len(ids))
    return Parity(
        reader="llama.cpp's tokenizer", n_prompts=len(texts), n_tokens=n, agreement=same / n, bar=TOKENS_BAR
    )


def _difference(answers: Answers, position: int, row: Sequence[tuple[int, float]]) -> float:
    """Return the largest difference of log-probabilities over the tokens that both name."""
    log_probs: torch.Tensor = answers.logits[position] - answers.norm[position]
    ours = dict(zip(answers.top[position, :_TOP].tolist(), log_probs.tolist(), strict=False))
    return max((abs(ours[int(token)] - value) for token, value in row if int(token) in ours), default=0.0)


def _ask(
    prompts: Sequence[Sequence[int]], texts: Sequence[str], model: Path, adapter: Path | None
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.json", Path(folder) / "out.json"
        facts = {"model": str(model), "adapter": str(adapter or ""), "texts": list(texts), "out": str(out)}
        job.write_text(json.dumps({**facts, "prompts": [list(p) for p in prompts]}), encoding="utf-8")
        roots = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        finished = subprocess.run(
            [sys.executable, "-m", "agentkd.hf.llama_cpp", str(job)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, roots))},
            capture_output=True,
            text=True,
            errors="replace",
        )
        if finished.returncode or not out.is_file():
            lines = (finished.stderr or finished.stdout).strip().splitlines() or ["no message"]
            raise CheckpointError(
                f"llama.cpp does not read `{model.name}`: {lines[-1]}",
                hint="nothing was exported; update xllamacpp, or export as `merged`",
            )
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def _serve(job: dict[str, Any]) -> dict[str, Any]:
    """Answer a job in this process."""
    from concurrent.futures import ThreadPoolExecutor

    xllamacpp: Any = importlib.import_module("xllamacpp")

    prompts = job["prompts"]
    n_slots = min(_SLOTS, len(prompts))
    params = xllamacpp.CommonParams()
    params.model.path = job["model"]
    params.n_parallel = n_slots
    params.n_ctx = n_slots * (max(map(len, prompts)) + 16)
    params.cpuparams.n_threads = 1  # its threads spin: on a shared machine more of them are slower
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.swa_full = True  # the cache of a sliding window is else thrown away between two requests
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.kv_unified = False
    params.warmup = False
    params.verbosity = -1
    if job["adapter"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(job["adapter"], 1.0)]
    server = xllamacpp.Server(params)
    letter = _tokenize(server, "a")[0]

    def answer(slot: int) -> dict[int, list[list[tuple[int, float]]]]:
        numbers = range(slot, len(prompts), n_slots)
        return {i: [_next(server, head, slot, letter) for head in _heads(prompts[i])] for i in numbers}

    found: dict[int, list[list[tuple[int, float]]]] = {}
    with ThreadPoolExecutor(n_slots) as pool:
        for part in pool.map(answer, range(n_slots)):
            found |= part
    return {
        "said": [found[i] for i in range(len(prompts))],
        "ids": [_tokenize(server, t) for t in job["texts"]],
    }


def _tokenize(server: Any, text: str) -> list[int]:
    body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
    request = urllib.request.Request(
        f"{server.listening_address}/tokenize", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return [int(token) for token in json.loads(reply.read())["tokens"]]


def _heads(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[:n] for n in range(max(1, len(ids) - N_POSITIONS + 1), len(ids) + 1)]


def _next(server: Any, ids: Sequence[int], slot: int, letter: int) -> list[tuple[int, float]]:
    """Return the most likely tokens after `ids` with their log-probabilities, best first."""
    # A token that ends the reply, or half a character, comes without probabilities. They are of the bare
    # logits, so letting a plain letter be drawn, whatever they are, changes none of them.
    request = {
        "prompt": ids,
        "n_predict": 1,
        "n_probs": _TOP,
        "temperature": 0.0,
        "logit_bias": [[letter, 1e6]],
    }
    reply = server.handle_completions({**request, "cache_prompt": True, "id_slot": slot})
    if isinstance(reply, str):
        reply = json.loads(reply)
    (said,) = reply["choices"][0]["logprobs"]["content"]
    return [(token["id"], token["logprob"]) for token in said["top_logprobs"]]


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(asked["out"]).write_text(json.dumps(_serve(asked)), encoding="utf-8")
