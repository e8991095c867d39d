"""Every error chunkflow raises on purpose, and the exit code each one ends a command with.

    ChunkflowError                    1   something unexpected; the base of all
    |- UsageError (ValueError)        2   what the user asked for cannot be done
    |  |- ConfigError                 2   a pipeline file or a parameter
    |  |- InputError                  2   a file or array that cannot be used as it is
    |  |  `- InputNotFoundError       2   ... because it is not there (FileNotFoundError)
    |  |- PlanError                   2   parameters that are fine alone, not together
    |  `- ModelError                  2   a network that cannot be loaded or applied
    |- BlockError                     3   one block of the data cannot be computed
    |  |- NotANumberError             3   ... because it holds NaN or infinity
    |  `- BlockMemoryError            3   ... because it does not fit the memory
    |- IncompleteError                3   blocks were set aside, or a result is not certified
    |- DiskFullError (OSError)        4   no space left where the run writes
    |- OutputInUseError               5   another run holds the output
    |- InputChangedError              6   the input is not the one the run started with
    |- ClusterError                   7   the cluster is gone, or gives no workers; the same command goes on
    |- StoreError                     1   an object store that does not answer
    |  `- AccessError                 2   ... or refuses access
    `- IntegrityError                 1   something this run wrote is missing or damaged

A message says what is wrong, shows the value, and names the remedy. All arguments are positional facts, so
every error pickles and can cross a cluster. Each class has a section in docs/troubleshooting.md, which `page` names.
"""

from __future__ import annotations

import difflib
import errno
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

    @property
    def page(self) -> str:
        """Where the documentation says more; of an error of another module, about the nearest class of this one."""
        named = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        return page_of(named)

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

    def __new__(cls, *facts: str) -> InputNotFoundError:
        """By the base that has fields: what unpickles errors of a cluster would ask ValueError, which refuses."""
        return FileNotFoundError.__new__(cls, *facts)

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


class BlockMemoryError(BlockError):
    """A block does not fit the memory, alone in its process."""


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


class ClusterError(ChunkflowError):
    """A scheduler that is gone or silent, or a cluster that gives no workers. What is done is kept."""

    exit_code = 7


class StoreError(ChunkflowError):
    """An object store does not answer, or not as one should. No OSError: nobody is to take it for an absent file."""


class AccessError(StoreError):
    """A store refuses access, or there are no credentials for it."""

    exit_code = 2


class IntegrityError(ChunkflowError):
    """Something this run wrote is missing or damaged."""


def page_of(kind: type) -> str:
    """The section of the documentation about a class of errors."""
    return f"docs/troubleshooting.md#{kind.__name__.lower()}"


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy that names the known word nearest to a misspelt one, and all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    listed = ", ".join(words)
    return f"Did you mean {close[0]!r}? Known: {listed}" if close else f"Known: {listed}"


def is_disk_full(error: BaseException) -> bool:
    """Whether the system says with this error that no space is left, or that the user may take no more."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
