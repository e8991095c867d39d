"""What is wrong with a result, which a report says before anything else: blocks set aside, a run that did not end.

    complete, with holes    blocks stand as background: numbers leave out what is there
    not complete            how far it came, which blocks failed and why, and the command that goes on

A complete result without holes has nothing here but warnings: of its plan, of its merges, and of its last run.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from chunkflow.report.checks import verdict
from chunkflow.report.facts import RunFacts
from chunkflow.report.html import counted, html_table, number, short
from chunkflow.run.events import events_of
from chunkflow.run.places import run_folder
from chunkflow.run.status import Status, commands, status

NAMED = 25
"""Blocks that are named."""
STATES = {
    "running": "The run is going on.",
    "interrupted": "The run was interrupted.",
    "killed": "The run ended without a word: it was killed, or the machine stopped.",
    "failed": "The run ended with an error.",
    "damaged": "The run was complete, but files of it are gone.",
    "not started": "The run has not begun.",
    "holes": "The run is done but for blocks that were set aside.",
    "complete": "The passes are done.",
}


STILL = {
    "quarantined": "failed and set aside",
    "holes": "standing as background",
    "failed": "failed",
    "unknown": "not done, of passes that had begun",
    "missing": "done, and missing now",
    "waiting": "of passes that have not begun",
}
"""Words for the states of blocks that are not done."""


def trouble(run: RunFacts) -> str:
    """Blocks that were set aside, then all warnings; for a complete result."""
    return _set_aside(run) + boxes(warnings_of(run))


def warnings_of(run: RunFacts) -> list[str]:
    """What was warned of, each once: by the plan, by merges, and while the last run of the folder went on."""
    told: list[str] = []
    for event in events_of(run_folder(run.result.path)):
        if event["event"] == "device":  # a run begins
            told = []
        elif event["event"] == "warning" and event.get("of") != "report":  # which is written now
            told.append(str(event.get("text", "")))
    of_merges = run.findings.all() if run.is_complete else []
    return list(dict.fromkeys([*map(str, run.plan["warnings"]), *of_merges, *told]))


def boxes(texts: Iterable[str]) -> str:
    """A box for each warning."""
    return "".join(f"<div class='warning'>{escape(text)}</div>" for text in texts)


def unfinished(run: RunFacts) -> str:
    """How far the run came, how to go on, and what failed; for a run that is not complete."""
    found = status(run.result.path)
    done, units = sum(p.done for p in found.passes), sum(p.units for p in found.passes)
    lines = _end(run, found)
    lines += [f"{number(done)} of {counted(units, 'block')} of all passes are done, and kept."]
    for state, count, command in commands(found):
        way = f", computed by <code>{escape(command)}</code>" if command != found.command else ""
        lines.append(f"{counted(count, 'block')} {escape(STILL[state])}{way}.")
    rows = [
        [escape(p.name), escape(p.state), number(p.done), number(p.units), number(len(p.quarantined) + len(p.failed))]
        for p in found.passes
        if p.state not in ("done", "waiting")
    ]
    headline = f"This result is not complete. {STATES.get(found.state, '')}"
    table = html_table(("pass", "state", "blocks done", "of", "failed"), rows, texts={0, 1}) if rows else ""
    return verdict(headline, lines, is_good=False) + _set_aside(run) + table


def _end(run: RunFacts, found: Status) -> list[str]:
    """The error that a run ended with, and what goes on with it."""
    if found.state in ("running", "not started"):
        return []
    said = (run.journal.ended or {}).get("error", "")
    lines = [f"Error: {escape(str(said))} (exit code {found.code})"] if said else []
    way = f"<code>{escape(found.command)}</code>" if found.command else "the same call of Python"
    return [*lines, f"To go on, once the cause is gone: {way}. What is done is not computed again."]


def _set_aside(run: RunFacts) -> str:
    aside = [
        (p["name"], unit, facts, unit in run.state(p["name"]).holes)
        for p in run.plan["passes"]
        for unit, facts in sorted({**run.state(p["name"]).failed, **run.state(p["name"]).quarantined}.items())
    ]
    if not aside:
        return ""
    holes = sum(is_hole for *_, is_hole in aside)
    are = "was" if len(aside) == 1 else "were"
    headline = f"{counted(len(aside), 'block')} failed and {are} set aside"
    lines = []
    if holes:
        lines.append(
            f"{number(holes)} of them {'stands' if holes == 1 else 'stand'} as background: the numbers of this "
            "result leave out what is there. The command without --allow-holes tries them again."
        )
    else:
        folder = escape(shlex.quote(str(run.result.path)))
        lines.append(f"What depends on them is not computed. See <code>chunkflow status {folder}</code>.")
    rows = [_row(name, unit, facts) for name, unit, facts, _ in aside[:NAMED]]
    more = f"<p class='caption'>And {number(len(aside) - NAMED)} more.</p>" if len(aside) > NAMED else ""
    head = ("pass", "block", "voxels z, y, x", "tried", "peak memory, MiB", "error")
    return verdict(headline, lines, is_good=False) + html_table(head, rows, texts={0, 2, 5}) + more


def _row(name: str, unit: int, facts: Mapping[str, Any]) -> list[str]:
    peak = facts.get("peak")
    return [
        escape(name),
        str(unit),
        escape(str(facts.get("core", "unknown"))),
        number(facts.get("attempts", 1)),
        "" if not peak else short(round(int(peak) / 2**20)),
        escape(str(facts.get("error", ""))),
    ]
