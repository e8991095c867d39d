"""Batches in the order of the steps, made by threads while the network computes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chunkflow.models.distributed import Group
from chunkflow.models.recipe import Recipe

Sample: TypeAlias = tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float32]]

AHEAD = 2
"""Batches that are made while the network computes."""


class Patches(Protocol):
    """Where samples come from; called from several threads."""

    def sample(self, number: int) -> Sample:
        """Sample 0, 1, 2 ...: step s of batches of n takes s * n to s * n + n - 1. The same one whenever it is asked.

        Returns image (C, Z, Y, X) float32, target (K, Z, Y, X) float32 (for classes (1, Z, Y, X) int64), and weight
        (1 or K, Z, Y, X) float32.
        """
        ...


class Batches:
    """Batches in order, made ahead of time by threads."""

    def __init__(self, patches: Patches, recipe: Recipe, step: int, group: Group, threads: int) -> None:
        self._patches, self._recipe, self._group = patches, recipe, group
        self._next = step
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="patches")
        self._waiting: deque[list[Future[Sample]]] = deque()
        self.waited = 0.0

    def take(self, device: str) -> tuple[Tensor, Tensor, Tensor]:
        """Image, target and weight of the next step."""
        while len(self._waiting) <= AHEAD:
            self._ask()
        began = monotonic()
        samples = [future.result() for future in self._waiting.popleft()]
        image, target, weight = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
        self.waited += monotonic() - began
        if device.startswith("cuda"):
            image, target, weight = (
                tensor.pin_memory().to(device, non_blocking=True) for tensor in (image, target, weight)
            )
        return image, target, weight

    def _ask(self) -> None:
        batch = self._recipe.batch
        numbers = [self._next * batch + i for i in range(self._group.rank, batch, self._group.count)]
        wanted = numbers if self._next < self._recipe.steps else []
        self._waiting.append([self._threads.submit(self._patches.sample, number) for number in wanted])
        self._next += 1

    def close(self) -> None:
        """Leave what was not asked for."""
        self._threads.shutdown(wait=True, cancel_futures=True)
