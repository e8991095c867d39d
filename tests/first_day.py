"""What a newcomer brings: two-channel TIFFs as ImageJ saves them, with a known difference between two conditions.

    data/{ctrl,drug}/{day1,day2,day3}/field{1..5}.tif       24 x 2 x 96 x 96 uint16, voxels of 0.2, 0.08, 0.08 um

Channel 1 holds straight tubes, whose number is the effect: `COUNTS[condition] + day`, so that replicates scatter alike
in both conditions and the drug adds `EFFECT` of them. Their brightness changes from day to day and with no condition.
Channel 0 is a nucleus. One file is cut short, as by a full disk, and one states no voxel size.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from chunkflow.synth import optics

SHAPE = (24, 96, 96)
VOXEL_UM = (0.2, 0.08, 0.08)
CONDITIONS, DAYS, FIELDS = ("ctrl", "drug"), ("day1", "day2", "day3"), 5
COUNTS = {"ctrl": 4, "drug": 8}
EFFECT = COUNTS["drug"] - COUNTS["ctrl"]
BRIGHTNESS = {"day1": 0.8, "day2": 1.0, "day3": 1.2}
UNITS = {"\\u00B5m": 1.0, "micron": 1.0, "um": 1.0, "nm": 1e-3, "inch": 25400.0}
"""Units as ImageJ writes them, and what each is in um."""
TRUNCATED, UNSIZED = "drug/day2/field3.tif", "ctrl/day3/field5.tif"
TUBE_UM = 42 * VOXEL_UM[2]
CHUNKFLOW = Path(sys.executable).with_name("chunkflow")


def tubes(count: int, seed: int, brightness: float = 1.0) -> NDArray[np.uint16]:
    """(Z, Y, X) photons of `count` tubes along x, `TUBE_UM` long, which do not touch; at most 12."""
    random = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint16)
    cells = random.permutation(12)[:count]
    for number, (row, column) in enumerate(zip(*np.divmod(cells, 2), strict=True), start=1):
        y, x = 8 + 16 * int(row), 1 + 48 * int(column)
        z = 12 + int(random.integers(-3, 4))
        bent = np.round(3 * np.sin(np.linspace(0, 2, round(TUBE_UM / VOXEL_UM[2])) * random.uniform(1, 2))).astype(int)
        for step, shift in enumerate(bent, start=2):
            labels[z - 1 : z + 1, y + shift - 2 : y + shift + 3, x + step] = number
    return optics.acquire(labels, voxel_um=VOXEL_UM, photons=250 * brightness, seed=seed)


def nucleus(seed: int) -> NDArray[np.uint16]:
    """(Z, Y, X) photons of one ellipsoid."""
    z, y, x = np.ogrid[tuple(slice(n) for n in SHAPE)]
    inside = ((z - 12) / 8) ** 2 + ((y - 48) / 30) ** 2 + ((x - 48) / 30) ** 2 < 1
    return np.random.default_rng(seed).poisson(np.where(inside, 120, 10)).astype(np.uint16)


def write_imagej(path: Path, image: NDArray[np.uint16], unit: str | None, axes: str = "ZCYX") -> None:
    """Write an image of two channels as an ImageJ hyperstack; without a unit, without any size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = {"axes": axes, "mode": "composite"}
    if unit is None:
        tifffile.imwrite(path, image, imagej=True, metadata=described)
        return
    z, y, x = (size / UNITS[unit] for size in VOXEL_UM)
    tifffile.imwrite(
        path, image, imagej=True, resolution=(1 / x, 1 / y), metadata={**described, "unit": unit, "spacing": z}
    )


def write_first_day(folder: Path) -> dict[str, int]:
    """Write all files; the number of tubes of each, by its path below the folder."""
    truth = {}
    units = list(UNITS)
    for condition in CONDITIONS:
        for day, name in enumerate(DAYS):
            for number in range(FIELDS):
                file = f"{condition}/{name}/field{number + 1}.tif"
                seed = 100 * CONDITIONS.index(condition) + 10 * day + number
                truth[file] = COUNTS[condition] + day
                image = np.stack([nucleus(seed), tubes(truth[file], seed, BRIGHTNESS[name])], axis=1)
                write_imagej(folder / file, image, None if file == UNSIZED else units[seed % len(units)])
    whole = (folder / TRUNCATED).read_bytes()
    (folder / TRUNCATED).write_bytes(whole[: len(whole) // 2])
    return truth


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Terminal:
    """A user's terminal in a folder: runs `chunkflow` as they type it, and notes how long each command took."""

    folder: Path
    command: Path = CHUNKFLOW
    environment: Mapping[str, str] | None = None
    rows: list[tuple[str, float, int]] = field(default_factory=list)

    def __call__(self, step: str, *words: str, timeout: float = 300) -> Done:
        """Run a command; its exit code, and what it printed, lines joined as a wide terminal would show them."""
        began = time.perf_counter()
        found = subprocess.run(
            [str(self.command), *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        self.rows.append((step, time.perf_counter() - began, found.returncode))
        return Done(found.returncode, f"{found.stdout}\n{found.stderr}")

    def table(self) -> str:
        """Step, seconds, exit code."""
        lines = [f"{step:<44} {seconds:7.1f} s   exit {code}" for step, seconds, code in self.rows]
        return "\n".join([*lines, f"{'all':<44} {sum(seconds for _, seconds, _ in self.rows):7.1f} s"])
