"""How commands end: every error is a sentence on stderr, the page that says more, and an exit code.

0 complete and checked, 1 unexpected, 2 bad usage or configuration, 3 blocks set aside or a result that is not
certified (or a demo outside its tolerance), 4 disk full, 5 output in use, 6 input changed, 7 no cluster,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import NoReturn, ParamSpec

import typer

from chunkflow.errors import ChunkflowError, DiskFullError, UsageError, is_disk_full, page_of

P = ParamSpec("P")

INTERRUPTED = 130


class Settings:
    """What the options before the command say."""

    debug = False


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose errors become a sentence on stderr and an exit code."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        with _terminated_like_interrupted():
            try:
                command(*args, **kwargs)
            except (typer.Exit, typer.Abort):
                raise
            except KeyboardInterrupt as error:
                _fail("interrupted; the same command goes on where this one stopped", INTERRUPTED, error)
            except ChunkflowError as error:
                _fail(str(error), error.exit_code, error, page=error.page)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    raise
                _fail_of_system(error)
            except Exception as error:
                _unexpected(error)

    return wrapper


def _fail_of_system(error: OSError) -> NoReturn:
    """Full disks and paths that cannot be used are the user's to change; everything else is unexpected."""
    named = error.filename2 or error.filename  # of a rename, the target: what it is renamed from is ours
    said = f"{named}: {error.strerror}" if named else str(error.strerror or error)
    if is_disk_full(error):
        said = f"{said}. Free some space and run the same command again"
        _fail(said, DiskFullError.exit_code, error, page=page_of(DiskFullError))
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        said = f"{said}. Choose another path, or change its permissions"
        _fail(said, UsageError.exit_code, error, page=page_of(UsageError))
    if error.errno == errno.ENOENT and error.filename:
        folder = Path(os.fsdecode(error.filename)).absolute()
        folder = next(parent for parent in folder.parents if parent.exists())
        if os.statvfs(folder).f_blocks == 0:  # where the system shows itself as files: /proc, /sys
            said = f"nothing can be written to {folder}, whose file system holds no files. Choose another path"
            _fail(said, UsageError.exit_code, error, page=page_of(UsageError))
    _unexpected(error)


def _fail(message: str, code: int, error: BaseException, *, page: str = "") -> NoReturn:
    if Settings.debug:
        traceback.print_exception(error)
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    if page:
        typer.echo(f"more: {page}", err=True)
    raise typer.Exit(code)


def _unexpected(error: Exception) -> NoReturn:
    traceback.print_exception(error)
    typer.echo(
        f"error: unexpected {type(error).__name__}; this is a fault of chunkflow, please report the lines above",
        err=True,
    )
    typer.echo(f"more: {page_of(ChunkflowError)}", err=True)
    raise typer.Exit(ChunkflowError.exit_code)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which schedulers send, ends a command as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
