"""The tool `run_python`: code that the model wrote, in a sandbox and nowhere else."""

from __future__ import annotations

from typing import Any

from agentkd.protocols import Sandbox
from agentkd.schema import ToolResult
from agentkd.tools.function import FunctionTool

__all__ = ["RUN_PYTHON", "build_run_python", "run_python"]

RUN_PYTHON = "run_python"


def run_python(sandbox: Sandbox) -> FunctionTool[[str], ToolResult]:
    """Return the tool that runs Python code in `sandbox`; what it prints goes back to the model.

    Its output is trusted as far as the conversation is: it comes of the model's own words alone.
    """

    def run(code: str) -> ToolResult:
        """Run a Python program and return what it prints: no network, no files of the user, ten seconds.

        Args:
            code: The program; it must print what you want to know.
        """
        ran = sandbox.run(code)
        if ran.ended != "exit":
            what = "ran too long" if ran.ended == "timeout" else "printed too much"
            return ToolResult(error=f"the program {what} and was ended; so far it printed:\n{ran.output}")
        if ran.exit_code:
            return ToolResult(error=f"the program ended with code {ran.exit_code}:\n{ran.output}")
        return ToolResult(content=ran.output or "(it printed nothing)")

    return FunctionTool(run, name=RUN_PYTHON, trust="trusted")


def build_run_python(settings: Any, kit: Any) -> FunctionTool[[str], ToolResult]:
    """Make it over the workspace's sandbox; raises ConfigError where none works here."""
    return run_python(kit.sandbox())
