"""``./ordinaut bench NAME [options]``: run one of the benchmarks beside this file."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

PARTS = ("celeryapp", "contenders", "graphile", "peers", "pgbench")  # of other benchmarks


def names() -> list[str]:
    """Return what can be run."""
    found = (path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return sorted(name for name in found if name not in PARTS)


def main() -> None:
    known = names()
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.exit(f"usage: ./ordinaut bench {{{'|'.join(known)}}} [--help]")
    name = sys.argv.pop(1)
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
