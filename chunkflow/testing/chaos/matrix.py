"""Cases by promise, and the table of how they went."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

PROMISES = {
    "P1": "any number of attempts, in any order, leaves the same bytes",
    "P2": "kill anything, run the same command: the bytes of an uninterrupted run",
    "P3": "no silent fill: what is gone or damaged is an error or is computed again",
    "P4": "done means all done",
    "P5": "a poison block is set aside, the rest completes, innocents never",
    "P6": "two runs never write one output",
    "P7": "a result never mixes settings or kinds of compute",
    "P8": "nothing starts that cannot end",
    "P9": "disk full is a clean stop, and resumes",
    "P10": "memory is bounded",
    "P11": "progress or a diagnosis, never a hang",
    "P12": "merges restart and do not depend on order",
    "P13": "files from strangers run no code",
}


class CannotRunError(Exception):
    """What a case needs is not here; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fault or a family of them.

    run : works in an empty folder, returns how many faults fired, raises where a promise is broken
    quick : whether it belongs to the subset of a few minutes
    """

    promise: str
    name: str
    run: Callable[[Path], int]
    quick: bool = True


@dataclass(slots=True)
class Row:
    """How the cases of a promise went. skipped : cases with what they lack"""

    promise: str
    cases: int = 0
    faults: int = 0
    failures: int = 0
    seconds: float = 0.0
    skipped: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {
            "promise": self.promise,
            "says": PROMISES[self.promise],
            "cases": self.cases,
            "faults": self.faults,
            "failures": self.failures,
            "seconds": round(self.seconds, 1),
            "skipped": self.skipped,
            "errors": self.errors,
        }


def run_case(case: Case) -> int:
    """Run one case in a folder of its own; returns how many faults fired.

    Raises
    ------
    AssertionError : no fault fired; or whatever the case raises.
    """
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        faults = case.run(Path(folder))
    if not faults:
        raise AssertionError(f"{case.promise} {case.name}: no fault fired, so nothing is shown")
    return faults


def run_matrix(cases: Iterable[Case], say: Callable[[str], None]) -> list[Row]:
    """Run cases, and tell each as it ends."""
    rows: dict[str, Row] = {}
    for case in cases:
        row = rows.setdefault(case.promise, Row(case.promise))
        began = perf_counter()
        try:
            faults = run_case(case)
        except CannotRunError as error:
            row.skipped.append(f"{case.name}: {error}")
            say(f"skipped {case.promise:<4} {case.name}: {error}")
            continue
        except Exception as error:  # a broken promise, in whatever way
            faults, last = 0, traceback.format_exception(error)[-1].strip()
            row.failures += 1
            row.errors.append(f"{case.name}: {last}")
            say(f"FAILED  {case.promise:<4} {case.name}\n{traceback.format_exc()}")
        else:
            say(f"ok      {case.promise:<4} {case.name}: {faults} faults, {perf_counter() - began:.1f} s")
        row.cases += 1
        row.faults += faults
        row.seconds += perf_counter() - began
    return sorted(rows.values(), key=lambda row: int(row.promise[1:]))


def table(rows: Sequence[Row]) -> list[str]:
    """The matrix as lines of text."""
    lines = [f"{'promise':<8}{'cases':>6}{'faults fired':>14}{'failures':>10}{'seconds':>9}  what must hold"]
    for row in rows:
        numbers = f"{row.cases:>6}{row.faults:>14}{row.failures:>10}{row.seconds:>9.1f}"
        lines.append(f"{row.promise:<8}{numbers}  {PROMISES[row.promise]}")
    total = [sum(getattr(row, name) for row in rows) for name in ("cases", "faults", "failures")]
    seconds = sum(row.seconds for row in rows)
    lines.append(f"{'all':<8}{total[0]:>6}{total[1]:>14}{total[2]:>10}{seconds:>9.1f}")
    lines += [f"skipped: {row.promise} {text}" for row in rows for text in row.skipped]
    lines += [f"failed: {row.promise} {text}" for row in rows for text in row.errors]
    return lines
