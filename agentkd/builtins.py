"""The built-in components: they come in by the same road as those of third parties."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from agentkd import __version__  # noqa: F401 - the host reads it
from agentkd.hookspecs import hookimpl
from agentkd.plugins import Component, NoSettings

__all__ = ["components"]


def _maker(made: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    return lambda settings, kit: made()


@hookimpl
def components() -> Iterable[Component[Any]]:
    """Offer every built-in component; nothing heavy is imported before one is built."""
    yield from _models()
    yield from _stores()
    yield from _recallers()
    yield from _refiners()
    yield from _suites()
    yield from _distillers()
    yield from _synthesizers()
    yield from _training()
    yield from _evaluators()
    yield from _acting()


def _models() -> Iterable[Component[Any]]:
    from agentkd.models import litellm, local, scripted

    yield Component(
        "model", "litellm", "Any provider that LiteLLM knows.", litellm.build, litellm.LiteLLMSettings
    )
    yield Component(
        "model", "local", "A transformers model on this machine, bare or with an adapter.",
        local.build, local.LocalSettings,
    )  # fmt: skip
    yield Component(
        "model", "scripted", "Fixed answers, for tests.", scripted.build, scripted.ScriptedSettings
    )


def _stores() -> Iterable[Component[Any]]:
    from agentkd.embedders import hashing, minilm, remote
    from agentkd.memory import index_chroma, index_exact

    yield Component(
        "embedder",
        "minilm-onnx",
        "all-MiniLM-L6-v2 (int8) through onnxruntime.",
        minilm.build,
        minilm.MiniLmSettings,
    )
    yield Component(
        "embedder",
        "hashing",
        "Hashed words: no model, no meaning; for tests.",
        hashing.build,
        hashing.HashingSettings,
    )
    yield Component("embedder", "litellm", "Embeddings of a provider.", remote.build, remote.RemoteSettings)
    yield Component(
        "index",
        "chroma",
        "Chroma, embedded or a server by URL.",
        index_chroma.build,
        index_chroma.ChromaSettings,
    )
    yield Component(
        "index", "exact", "Exact search in memory, rebuilt at every start.", index_exact.build, NoSettings
    )


def _refiners() -> Iterable[Component[Any]]:
    from agentkd.memory import corroborate, merge, prune, redistil, refine, supersede

    yield Component(
        "refiner", "utility-prune", "Quarantine memories that harm or idle.", prune.build,
        prune.UtilityPruneSettings,
    )  # fmt: skip
    yield Component(
        "refiner", "corroborate", "Let near copies become one memory with all their evidence.",
        corroborate.build, corroborate.CorroborateSettings,
    )  # fmt: skip
    yield Component(
        "refiner", "supersede", "Let the right one of two contradicting lessons take the other's place.",
        supersede.build, supersede.SupersedeSettings,
    )  # fmt: skip
    yield Component(
        "refiner", "merge", "Merge lessons of like situations; a model may word them, none is needed.",
        merge.build, merge.MergeSettings,
    )  # fmt: skip
    yield Component(
        "refiner", "redistil", "Let a teacher reword what many runs support (needs a model).",
        redistil.build, redistil.RedistilSettings,
    )  # fmt: skip
    yield Component(
        "refiner", "ttl", "Quarantine memories that have grown old.", refine.build_ttl, refine.TtlSettings
    )


def _recallers() -> Iterable[Component[Any]]:
    from agentkd.memory import recaller

    for stage in (recaller.LlmRerank, recaller.LlmRewrite):
        summary = (stage.__doc__ or "").split("\n", maxsplit=1)[0]
        yield Component("recaller", stage.name, summary, stage.build, stage.Settings)


def _suites() -> Iterable[Component[Any]]:
    from agentkd import evaluate

    yield Component(
        "suite", "jsonl", "Tasks of your own, one JSON object a line.", evaluate.build_jsonl_suite,
        evaluate.JsonlSettings,
    )  # fmt: skip
    for scorer in (evaluate.ExactScorer, evaluate.ContainsScorer, evaluate.RegexScorer, evaluate.CallsScorer):
        summary = (scorer.__doc__ or "").split("\n", maxsplit=1)[0]
        yield Component("scorer", scorer.name, summary, _maker(scorer))


def _distillers() -> Iterable[Component[Any]]:
    from agentkd import distill

    lesson = distill.LessonSettings
    yield Component(
        "distiller", "success", "What made runs succeed (needs a model).", distill.build_success, lesson
    )
    yield Component(
        "distiller", "failure", "The first wrong key step (needs a model).", distill.build_failure, lesson
    )
    yield Component(
        "distiller", "contrast", "Best run against worst (needs a model).", distill.build_contrast,
        distill.ContrastSettings,
    )  # fmt: skip
    yield Component(
        "distiller", "case", "The accepted call of a run as an exemplar; needs no model.", distill.build_case,
        distill.CaseSettings,
    )  # fmt: skip
    yield Component(
        "distiller",
        "correction",
        "A person's words as a rule; a model may word it, none is needed.",
        distill.build_correction,
        distill.CorrectionSettings,
    )
    yield Component(
        "distiller", "strategy", "Guidance that makes failing tasks succeed (needs a model).",
        distill.build_strategy, distill.StrategySettings,
    )  # fmt: skip
    yield Component(
        "distiller", "tool-notes", "How each tool is used and where it fails; needs no model.",
        distill.build_tool_notes, distill.ToolNotesSettings,
    )  # fmt: skip


def _synthesizers() -> Iterable[Component[Any]]:
    from agentkd import synthesize

    yield Component(
        "synthesizer", "tailored", "New requests like those that the student gets wrong.",
        synthesize.build_tailored, synthesize.WriteSettings,
    )  # fmt: skip
    yield Component(
        "synthesizer", "rationale", "Step-by-step explanations of what the student got wrong.",
        synthesize.build_rationale, synthesize.RationaleSettings,
    )  # fmt: skip
    yield Component(
        "synthesizer", "paraphrase", "Rewordings of requests, with the accepted answer.",
        synthesize.build_paraphrase, synthesize.ParaphraseSettings,
    )  # fmt: skip
    yield Component(
        "synthesizer", "random", "New requests like randomly drawn ones: the control of `tailored`.",
        synthesize.build_random, synthesize.WriteSettings,
    )  # fmt: skip


def _training() -> Iterable[Component[Any]]:
    from agentkd import compiler, train
    from agentkd.train import objectives

    yield Component("selector", "success-only", "Rows of successful runs only.", compiler.build_success_only)
    yield Component(
        "selector", "support", "Rows whose memories rest on enough runs.", compiler.build_support,
        compiler.SupportSettings,
    )  # fmt: skip
    yield Component(
        "selector", "lift", "Weights by what trials say of a row's memories.", compiler.build_lift,
        compiler.LiftSettings,
    )  # fmt: skip
    yield Component(
        "selector", "correction", "Rows that a correction taught, alone or weighed.",
        compiler.build_correction, compiler.CorrectionSettings,
    )  # fmt: skip
    yield Component(
        "selector", "difficulty", "Weights by how often the student succeeds at such tasks.",
        compiler.build_difficulty, compiler.DifficultySettings,
    )  # fmt: skip
    yield Component(
        "selector", "divergence", "Weights by what the memories add to what the base model says.",
        _divergence, compiler.DivergenceSettings,
    )  # fmt: skip
    yield from objectives.components()
    yield Component(
        "trainer", "lora", "Our LoRA loop in a process of its own.",
        lambda settings, kit: train.LoraTrainer(settings), train.LoraTrainerSettings,
    )  # fmt: skip


def _acting() -> Iterable[Component[Any]]:
    from agentkd import sandbox, tools
    from agentkd.sandbox import bubblewrap, landlock

    yield Component(
        "tool", "fetch", "Reads public web pages; what they say is untrusted.", tools.build_fetch,
        tools.FetchSettings,
    )  # fmt: skip
    yield Component(
        "tool", "run-python", "Runs Python code that the model wrote, in a sandbox.", tools.build_run_python
    )
    yield Component(
        "sandbox", "sandlock", "Landlock and seccomp through the package sandlock.", landlock.build,
        sandbox.SandboxSettings,
    )  # fmt: skip
    yield Component(
        "sandbox", "bubblewrap", "Namespaces and seccomp through the program bwrap.", bubblewrap.build,
        sandbox.SandboxSettings,
    )  # fmt: skip


def _evaluators() -> Iterable[Component[Any]]:
    from agentkd import evaluate

    yield Component(
        "evaluator", "calibration", "Expected calibration error of replies, before and after.",
        lambda settings, kit: evaluate.Calibration(settings), evaluate.CalibrationSettings,
    )  # fmt: skip
    yield Component(
        "evaluator", "provenance", "Each sentence by its likelihood under teacher, old and new student.",
        lambda settings, kit: evaluate.Provenance(settings), evaluate.ProvenanceSettings,
    )  # fmt: skip
    yield Component(
        "evaluator", "difference", "KL and agreement on general texts, text by text.",
        lambda settings, kit: evaluate.Difference(settings), evaluate.DifferenceSettings,
    )  # fmt: skip
    yield Component(
        "evaluator", "hacking", "The training loss against its power law (teacher hacking).",
        _maker(evaluate.HackingAlarm),
    )  # fmt: skip
    yield Component(
        "evaluator", "backdoor", "Strings of the training rows that bring one odd answer to any request.",
        lambda settings, kit: evaluate.Backdoor(settings), evaluate.BackdoorSettings,
    )  # fmt: skip
    yield Component("evaluator", "canary", "Secrets in the training rows.", _maker(evaluate.Canary))
    yield Component(
        "evaluator", "ablation", "Memory, prompt and weights per task.", _maker(evaluate.Ablation)
    )


def _divergence(settings: Any, kit: Any) -> Any:
    from agentkd import compiler
    from agentkd.models.gguf import resolve_model

    models, source = kit.settings.models, kit.settings.roles.student
    return compiler.DivergenceSelector(
        settings, folder=lambda: resolve_model(source, cache_dir=kit.cache_dir, progress=kit.progress).path,
        dtype=models.dtype, device=models.device, progress=kit.progress,
    )  # fmt: skip
