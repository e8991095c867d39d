"""The promises of a run against faults on purpose: promise, cases, faults that fired, failures, seconds.

    python benchmarks/chaos.py               all cases, 20 minutes on two cores; writes results/chaos.txt and .json
    python benchmarks/chaos.py --quick       the subset of a few minutes
    python benchmarks/chaos.py --only P3     one promise, or cases whose name contains a text
    python benchmarks/chaos.py --mutants     the code with one promise broken at a time: each must be noticed

Ends with 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

from chunkflow.backend import compute_kind, find_device
from chunkflow.testing.chaos.cases import all_cases
from chunkflow.testing.chaos.matrix import run_matrix, table
from chunkflow.testing.chaos.mutants import MUTANTS, survives

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description="The promises of a run against faults on purpose.")
    parser.add_argument("--quick", action="store_true", help="the subset of a few minutes")
    parser.add_argument("--only", metavar="TEXT", default="", help="a promise, or a part of the names of cases")
    parser.add_argument("--mutants", action="store_true", help="break one promise at a time; each must be noticed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if given.mutants:
        return _mutants(given.only)
    cases = [case for case in all_cases() if not given.quick or case.quick]
    cases = [case for case in cases if given.only in ("", case.promise) or given.only in case.name]
    rows = run_matrix(cases, lambda text: print(text, flush=True))
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {compute_kind(find_device('cpu'))}",
        *table(rows),
    ]
    print("\n".join(lines))
    content = json.dumps([row.to_dict() for row in rows], indent=1)
    if not given.only:
        name = "chaos-quick" if given.quick else "chaos"
        (RESULTS / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (RESULTS / f"{name}.json").write_text(content + "\n", encoding="utf-8")
    if given.json:
        given.json.write_text(content + "\n", encoding="utf-8")
    return int(any(row.failures for row in rows))


def _mutants(only: str) -> int:
    alive = []
    for mutant in MUTANTS:
        if only in ("", mutant.promise) or only in mutant.name:
            lives = survives(mutant)
            print(f"{'SURVIVES' if lives else 'noticed':<9}{mutant.promise:<5}{mutant.name}", flush=True)
            alive += [mutant.name] if lives else []
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main())
