"""One whole cycle on real requests with a real model: `make demo` runs this; `SMALL=1 make demo` a short one.

    python examples/demo/demo.py demo            # 491 requests to learn from, 200 held out
    python examples/demo/demo.py demo --small    # fewer of both

It is what `agentkd init demo --suite bfcl-live`, `agentkd -C demo cycle` and `agentkd -C demo report` do.
Started again after an interruption it goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agentkd import Workspace
from agentkd.cli.invocation import stdout_console
from agentkd.cli.progress import RichProgress
from agentkd.cli.render import print_cycle

SMALL = ("cycle.n=160", "evaluate.n=60", "train.epochs=3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="workspace of the demo")
    parser.add_argument("--small", action="store_true", help="fewer tasks, under five minutes")
    options = parser.parse_args()
    if not (options.folder / "agentkd.toml").exists():
        Workspace.create(options.folder, suite="bfcl-live").close()
    settings = SMALL if options.small else ()
    with Workspace(options.folder, assignments=settings, progress=RichProgress()) as workspace:
        report = workspace.cycle()
        print_cycle(report, stdout_console())
        print(f"\nThe readable report: {workspace.report_path(report.number)}")


if __name__ == "__main__":
    main()
