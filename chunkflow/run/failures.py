"""What is said of a unit that failed, made where it failed: a sentence that crosses a cluster whatever was raised.

    an error of ours                      as it is: it has what and remedy
    no space on a disk                    DiskFullError, for the whole run
    anything else that code can raise     StepError: kind, message, where, remedy

The errors that user code raises may not pickle, may hold arrays in their frames, may have no text or megabytes of it,
and may be none of `Exception`: an exit, an interrupt or a cancellation that a block raises would end the worker, whose
other blocks would be blamed, or the run. Only the text of the trace goes on, as a note of what is raised.

A real interrupt (Ctrl-C, SIGTERM) reaches the main thread of the driver alone. There it ends the run, which is
journaled; in any other thread and in every worker it was raised by the block.
"""

from __future__ import annotations

import sysconfig
import threading
import traceback
from asyncio import CancelledError
from collections.abc import Iterator
from pathlib import Path

from chunkflow.errors import BlockError, ChunkflowError, DiskFullError, is_disk_full

MOST_CHARACTERS = 500
"""Of the message of an error: some print the arrays that they are about."""
MOST_TRACE = 8000
"""Characters of a trace: two functions that call each other leave a thousand frames."""

OURS = Path(__file__).parents[1]
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


class StepError(ChunkflowError):
    """Something that is no error of ours was raised in a unit. It may pass: the unit is tried once more.

    kind : the class of what was raised
    """

    def __init__(self, what: str, remedy: str, kind: str) -> None:
        super().__init__(what, remedy)
        self.args = (what, remedy, kind)
        self.kind = kind


class EndingError(StepError, BlockError):
    """The code of a unit meant to end its process, or the run: it would do so again."""


def is_of_the_run(error: BaseException) -> bool:
    """Whether somebody interrupts the run, rather than a unit failing."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def failure_of(error: BaseException) -> ChunkflowError:
    """What is raised in place of an error of a unit: pickles, holds no frames, has the trace as a note."""
    trace = "".join(traceback.format_exception(error))
    found = error if isinstance(error, ChunkflowError) else _translated(error)
    found.__cause__ = found.__context__ = None  # of kinds that may not pickle
    if len(trace) > MOST_TRACE:
        trace = f"{trace[: MOST_TRACE // 2]}\n...\n{trace[-MOST_TRACE // 2 :]}"
    found.add_note(trace)
    return found.with_traceback(None)


def kind_of_failure(error: BaseException) -> str:
    """The class of what was raised in a unit."""
    return str(getattr(error, "kind", type(error).__name__))


def trace_of(error: BaseException) -> str:
    """The trace of an error of a unit, from wherever it was raised."""
    notes = getattr(error, "__notes__", ())
    return "\n".join(notes) or "".join(traceback.format_exception(error))


def said_by(error: BaseException) -> str:
    """Class and message of any error, in one line: some have no message, some cannot say theirs."""
    kind = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:  # whatever a class of somebody's own does there
        return f"{kind}, whose message cannot be made"
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}..."
    return f"{kind}: {text}" if text else f"{kind}, without a message"


def _translated(error: BaseException) -> ChunkflowError:
    if is_disk_full(error):
        return DiskFullError(f"no space left ({error})", "Free some space and run the same command again")
    kind, what = type(error).__name__, f"{said_by(error)}, {_where(error)}"
    if not isinstance(error, Exception) or isinstance(error, CancelledError):
        return EndingError(
            f"the block meant to end its process or the run ({what})",
            "Correct the function: it may raise errors, and may not exit, interrupt or cancel",
            kind,
        )
    if isinstance(error, RecursionError):
        remedy = "The function calls itself without end, or deeper than Python allows: use a loop there"
    elif _is_of_user(error):
        remedy = "Correct it there, and run the same command again"
    else:
        remedy = "Run the same command again; if it comes back, report it with chunkflow doctor --bundle OUT"
    return StepError(what, remedy, kind)


def _where(error: BaseException) -> str:
    """The line that raised it: the last one that is not of a library, where there is one."""
    frames = list(_frames(error))
    told = [frame for frame in frames if not _is_library(frame.filename)] or frames
    if not told:
        return "nobody knows where"
    return f"in {told[-1].name}, {Path(told[-1].filename).name} line {told[-1].lineno}"


def _is_of_user(error: BaseException) -> bool:
    """Whether code that is neither ours nor a library's stands in the trace."""
    return any(not _is_library(f.filename) and OURS not in Path(f.filename).parents for f in _frames(error))


def _is_library(file: str) -> bool:
    path = Path(file)
    if OURS in path.parents:
        return False
    return file.startswith("<") or any(folder in path.parents for folder in LIBRARIES)


def _frames(error: BaseException) -> Iterator[traceback.FrameSummary]:
    yield from traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
