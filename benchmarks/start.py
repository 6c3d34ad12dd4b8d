"""How long the library and its command line take to start, in CPU seconds of a fresh process.

python benchmarks/start.py            # the median of 15 starts
python benchmarks/start.py --small    # of 5
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from measure import Row, at_most, children_cpu_seconds, publish

IMPORT_BAR, HELP_BAR = 0.3, 0.5
STARTS = {
    "an empty Python": ["-c", "pass"],
    "import agentkd": ["-c", "import agentkd"],
    "agentkd --help": ["-m", "agentkd.cli", "--help"],
}


def cpu_seconds(arguments: list[str], n: int) -> list[float]:
    """Return the CPU seconds of `n` starts after one that warms the disk cache."""
    found = []
    for _ in range(n + 1):
        before = children_cpu_seconds()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=60)
        found.append(children_cpu_seconds() - before)
    return found[1:]


def main() -> int:
    """Measure the starts and publish them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="fewer starts")
    n = 5 if parser.parse_args().small else 15
    seconds = {name: cpu_seconds(arguments, n) for name, arguments in STARTS.items()}
    median = {name: statistics.median(found) for name, found in seconds.items()}
    spread = {name: {"low": min(found), "high": max(found), "n": n} for name, found in seconds.items()}
    empty, imported, helped = STARTS
    peer = {"peer": median[empty], "peer_name": empty}
    rows = [
        Row(f"CPU seconds: {empty}", median[empty], **spread[empty]),
        at_most(f"CPU seconds: {imported}", median[imported], IMPORT_BAR, **peer, **spread[imported]),
        at_most(f"CPU seconds: {helped}", median[helped], HELP_BAR, **peer, **spread[helped]),
    ]
    return publish("start", rows, {"n": n, "low_and_high": "least and most of the n starts"})


if __name__ == "__main__":
    sys.exit(main())
