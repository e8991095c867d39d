"""What was found beside what is known to be true, where the maker of a volume told: kept for reports written again.

run/truth.json    truth, found and tolerance by name, with the fingerprints they were found for
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from chunkflow.report.facts import QUANTITIES, RunFacts
from chunkflow.report.html import html_table, percent, short
from chunkflow.run.places import run_folder
from chunkflow.storage.files import write_atomic

FILE = "truth.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Values by the names in `QUANTITIES` or others.

    truth : known; found : measured outside the run, the others are taken from the result
    tolerance : largest difference that is accepted, relative to the truth
    """

    truth: Mapping[str, float]
    found: Mapping[str, float]
    tolerance: Mapping[str, float]


def keep_truth(run: RunFacts, known: Truth) -> None:
    """Put the values beside the run."""
    content = {"fingerprints": run.stored["fingerprints"], **asdict(known)}
    write_atomic(run_folder(run.result.path) / FILE, json.dumps(content).encode())


def kept_truth(run: RunFacts) -> Truth | None:
    """What was kept for this very result, if anything."""
    path = run_folder(run.result.path) / FILE
    if not path.is_file():
        return None
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["fingerprints"] != run.stored["fingerprints"]:
            return None
        return Truth(**{name: dict(content[name]) for name in ("truth", "found", "tolerance")})
    except (ValueError, KeyError, TypeError):
        return None  # of another version: the report is complete without it


def against_truth(run: RunFacts, known: Truth) -> str:
    """A row for each known value."""
    found = {**run.numbers, **known.found}
    head = ("quantity", "truth", "found", "difference", "difference, %", "allowed, %", "verdict")
    rows = []
    for name, true in known.truth.items():
        words, unit = QUANTITIES.get(name, (name, ""))
        value, allowed = found.get(name), known.tolerance.get(name)
        off = None if value is None else value - true
        relative = None if off is None else 0.0 if off == 0 else abs(off / true) if true else float("inf")
        verdict = ""
        if relative is not None and allowed is not None:
            # The bound is a decimal fraction; a difference of just that must not fail by its last bit.
            inside = relative <= allowed * (1 + 1e-12)
            verdict = "<span class='good-text'>within</span>" if inside else "<span class='bad-text'>outside</span>"
        cells = [short(true), short(value), short(off, sign=True), percent(relative), percent(allowed), verdict]
        rows.append([escape(f"{words}, {unit}" if unit else words), *cells])
    return html_table(head, rows, texts={0, 6})
