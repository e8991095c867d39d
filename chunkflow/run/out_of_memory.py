"""What is said of a unit that does not fit a memory, by whichever library says it."""

from __future__ import annotations

from math import prod

from chunkflow.backend import is_out_of_device_memory, is_out_of_memory
from chunkflow.errors import BlockMemoryError
from chunkflow.run.failures import said_by
from chunkflow.run.resident import resident_bytes


def ran_out(error: BaseException) -> bool:
    """Whether memory was short, as a library says it or a step in words of its own."""
    return isinstance(error, BlockMemoryError) or is_out_of_memory(error)


def is_of_device(error: BaseException) -> bool:
    """Whether it was a GPU's: steps have words of their own for that alone."""
    return isinstance(error, BlockMemoryError) or is_out_of_device_memory(error)


def refusal(error: BaseException, *, is_of_gpu: bool, needs_bytes: int) -> BlockMemoryError:
    """What is said of a unit for which memory was short twice, the second time alone. Holds no frames.

    needs_bytes : of a worker process, as the plan projects
    """
    if isinstance(error, BlockMemoryError):
        return BlockMemoryError(error.what, error.remedy)
    return _gpu_refused(error) if is_of_gpu else _host_refused(error, needs_bytes)


def _gpu_refused(error: BaseException) -> BlockMemoryError:
    had, asked = getattr(error, "_total", 0), getattr(error, "_size", 0)  # cupy's: in use, and asked for
    figures = f"{had / 2**20:.0f} MiB of the GPU were taken and {asked / 2**20:.0f} more asked for" if asked else ""
    return BlockMemoryError(
        f"the block does not fit the GPU, alone in its process ({figures or said_by(error)})",
        "Use a smaller block or tile, or --on-oom host to compute such blocks on the CPU",
    )


def _host_refused(error: BaseException, needs_bytes: int) -> BlockMemoryError:
    """With the memory that would have been enough."""
    enough = max(needs_bytes, resident_bytes() + _asked_bytes(error))
    return BlockMemoryError(
        f"the block does not fit the memory, alone in its process ({said_by(error)})",
        f"A worker of {enough / 2**20:.0f} MiB would do: use fewer workers, or a smaller block or tile",
    )


def _asked_bytes(error: BaseException) -> int:
    """Bytes of the array that numpy could not allocate; 0 where the error does not tell."""
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    return prod(shape) * dtype.itemsize if shape is not None and dtype is not None else 0
