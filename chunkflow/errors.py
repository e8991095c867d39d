"""Every error chunkflow raises on purpose, and the exit code each one ends a command with.

    ChunkflowError                    1   something unexpected; the base of all
    |- UsageError (ValueError)        2   what the user asked for cannot be done
    |  |- ConfigError                 2   a pipeline file or a parameter
    |  |- InputError                  2   a file or array that cannot be used as it is
    |  |  `- InputNotFoundError       2   ... because it is not there (FileNotFoundError)
    |  |- PlanError                   2   parameters that are fine alone, not together
    |  `- ModelError                  2   a network that cannot be loaded or applied
    |- BlockError                     3   one block of the data cannot be computed
    |  `- NotANumberError             3   ... because it holds NaN or infinity
    |- IncompleteError                3   blocks were set aside, or a result is not certified
    |- DiskFullError (OSError)        4   no space left where the run writes
    |- OutputInUseError               5   another run holds the output
    |- InputChangedError              6   the input is not the one the run started with
    `- IntegrityError                 1   something this run wrote is missing or damaged

A message says what is wrong, shows the value, and names the remedy. All arguments are positional facts, so
every error pickles and can cross a cluster.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ChunkflowError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    what : what is wrong, with the value that is.
    remedy : what the user can do about it; empty if nothing sensible can be named.
    """

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}".strip() if self.remedy else self.what


class UsageError(ChunkflowError, ValueError):
    """What the user asked for cannot be done."""

    exit_code = 2


class ConfigError(UsageError):
    """A pipeline file or a parameter is wrong."""


class InputError(UsageError):
    """A file or an array cannot be used as it is."""


class InputNotFoundError(InputError, FileNotFoundError):
    """A file or an array is not there."""

    def __str__(self) -> str:  # FileNotFoundError would print the errno form
        return ChunkflowError.__str__(self)


class PlanError(UsageError):
    """Parameters that are fine alone do not work together."""


class ModelError(UsageError):
    """A network cannot be loaded or applied."""


class BlockError(ChunkflowError):
    """One block of the data cannot be computed; the others can."""

    exit_code = 3


class NotANumberError(BlockError):
    """A block holds NaN or infinity."""


class IncompleteError(ChunkflowError):
    """Blocks were set aside, or a result is not certified."""

    exit_code = 3


class DiskFullError(ChunkflowError, OSError):
    """No space is left where the run writes."""

    exit_code = 4

    def __str__(self) -> str:
        return ChunkflowError.__str__(self)


class OutputInUseError(ChunkflowError):
    """Another run holds the output."""

    exit_code = 5


class InputChangedError(ChunkflowError):
    """The input is not the one this output was started with."""

    exit_code = 6


class IntegrityError(ChunkflowError):
    """Something this run wrote is missing or damaged."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy that names the known word nearest to a misspelt one, and all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    listed = ", ".join(words)
    return f"Did you mean {close[0]!r}? Known: {listed}" if close else f"Known: {listed}"
