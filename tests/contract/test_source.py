"""The size and the habits of the source: budgets, names, and what must never stand in it."""

from __future__ import annotations

import ast
import re

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
FORBIDDEN_WORDS = {
    "utils", "util", "helpers", "helper", "common", "misc", "manager", "handler", "processor",
}  # fmt: skip
FORBIDDEN_CODE = {
    r"\bimport pickle\b|\bfrom pickle\b|\bpickle\.loads?\(": "pickle runs code when it is read",
    r"\btorch\.load\(": "torch.load reads pickles; use safetensors",
    r"trust_remote_code\s*=\s*True": "a model must not bring code",
    r"\bshell\s*=\s*True": "no shell",
    r"(?<![.\w])eval\(|(?<![.\w])exec\(": "no eval, no exec",
    r"\byaml\.load\(": "yaml.load runs code",
}


def functions_of(text: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_no_module_is_longer_than_its_budget(sources: dict[str, str]) -> None:
    long = {path: n for path, text in sources.items() if (n := len(text.splitlines())) > MAX_MODULE_LINES}
    assert long == {}


def test_no_function_is_longer_than_its_budget(sources: dict[str, str]) -> None:
    long = {
        f"{path}:{node.name}": length
        for path, text in sources.items()
        for node in functions_of(text)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_functions_are_short_as_a_rule(sources: dict[str, str]) -> None:
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1 for text in sources.values() for node in functions_of(text)
    )
    assert lengths[len(lengths) // 2] <= 15
    assert lengths[len(lengths) * 9 // 10] <= 40


def test_no_module_has_a_name_that_says_nothing(sources: dict[str, str]) -> None:
    words = {path: set(re.split(r"[/_.]", path)) for path in sources}
    assert {path for path, found in words.items() if found & FORBIDDEN_WORDS} == set()


def test_no_class_has_a_name_that_says_nothing(sources: dict[str, str]) -> None:
    named = [
        f"{path}:{node.name}"
        for path, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
        and re.search(r"(Utils?|Helpers?|Manager|Handler|Processor)$", node.name)
    ]
    assert named == []


def test_every_module_says_what_it_is_for(sources: dict[str, str]) -> None:
    silent = [
        path
        for path, text in sources.items()
        if not (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].rstrip().endswith((".", ":"))
    ]
    assert silent == []


def test_nothing_unsafe_stands_in_the_source(sources: dict[str, str]) -> None:
    found = [
        f"{path}:{number}: {why}"
        for path, text in sources.items()
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, why in FORBIDDEN_CODE.items()
        if re.search(pattern, line.split("#")[0]) and not line.lstrip().startswith(('"""', "* ", "``"))
    ]
    assert found == []


def test_there_is_no_import_cycle(sources: dict[str, str]) -> None:
    """Runtime imports at module level only: those under TYPE_CHECKING and in functions do not count."""
    modules = {
        path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): t for path, t in sources.items()
    }
    edges = {name: imports_of(name, text, set(modules)) for name, text in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in edges[name]:
                visit(target, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def imports_of(name: str, text: str, known: set[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper in known else node.module)
    return {target for target in found & known if target != name}
