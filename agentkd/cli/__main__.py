"""`python -m agentkd.cli`: the same as the command `agentkd`."""

from __future__ import annotations

import sys

from agentkd.cli import main

if __name__ == "__main__":
    sys.exit(main())
