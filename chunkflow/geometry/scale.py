"""Where voxels lie: voxel size and origin in micrometers, per axis z, y, x.

Voxel i is centred at `translation + i * voxel`, the convention of OME-Zarr, so a coarser level that averages f voxels
is shifted by half of what its voxels grew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from chunkflow.errors import InputError

MicrometerTriple = tuple[float, float, float]

# Names as OME-Zarr, OME-TIFF, ImageJ and people write them, in lower case.
_UM_PER_UNIT = {
    1e-6: ("picometer", "picometre", "pm"),
    1e-4: ("angstrom", "å"),
    1e-3: ("nanometer", "nanometre", "nanometers", "nanometres", "nm"),
    1.0: ("micrometer", "micrometre", "micrometers", "micrometres", "micron", "microns", "um", "\u00b5m", "\u03bcm"),
    1e3: ("millimeter", "millimetre", "millimeters", "millimetres", "mm"),
    1e4: ("centimeter", "centimetre", "centimeters", "centimetres", "cm"),
    1e6: ("meter", "metre", "meters", "metres", "m"),
    25400.0: ("inch", "inches", "in"),
}
PLAUSIBLE_UM = (1e-4, 100.0)
"""Sides of voxels that nobody asks about: from an angstrom (cryo-EM) to a tenth of a millimeter (whole animals)."""
MOST_ANISOTROPIC = 30.0
"""Longest side of a voxel over its shortest that nobody asks about."""
_UM_OF = {name: um for um, names in _UM_PER_UNIT.items() for name in names}


def um_per(unit: str) -> float | None:
    """Micrometers in one `unit` of length; None for a word that is not one."""
    return _UM_OF.get(unit.strip().lower())


def micrometer_triple(values: Sequence[float], what: str = "voxel size") -> MicrometerTriple:
    """Three finite numbers for z, y, x.

    Raises
    ------
    InputError : if they are not.
    """
    numbers = tuple(float(value) for value in values)
    if len(numbers) != 3 or not all(isfinite(number) for number in numbers):
        raise InputError(f"{what} {values!r} is not a number for each of z, y, x", "Give three numbers in um")
    return numbers[0], numbers[1], numbers[2]


def doubt_of(voxel_um: Sequence[float], shape: Sequence[int]) -> str:
    """A sentence about a voxel size, z, y, x, that is more likely a wrong unit than true; empty for others.

    An axis one voxel long is not looked at: a plane is as thick as it is said to be.
    """
    sides = [um for um, length in zip(voxel_um, shape, strict=True) if length > 1] or voxel_um
    low, high = min(sides), max(sides)
    size = " x ".join(f"{v:g}" for v in voxel_um)
    remedy = "if a unit is wrong, give the size with --voxel-um Z Y X"
    if low < PLAUSIBLE_UM[0] or high > PLAUSIBLE_UM[1]:
        return f"voxels of {size} um (z y x) are unusual for a microscope; {remedy}"
    if high > MOST_ANISOTROPIC * low:
        return f"voxels of {size} um (z y x) are {high / low:.0f} times as long as wide; {remedy}"
    return ""


@dataclass(frozen=True, slots=True)
class Scale:
    """Voxel size and position of voxel 0."""

    voxel_um: MicrometerTriple
    """Distance between neighbouring voxels along z, y, x in um, > 0."""
    translation_um: MicrometerTriple = (0.0, 0.0, 0.0)
    """Centre of voxel (0, 0, 0) in um."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "voxel_um", micrometer_triple(self.voxel_um, "voxel size"))
        object.__setattr__(self, "translation_um", micrometer_triple(self.translation_um, "translation"))
        if min(self.voxel_um) <= 0:
            raise InputError(f"voxel size {self.voxel_um} um is not positive", "Give three numbers above 0, as z y x")

    def coarsened(self, factors: Sequence[int]) -> Scale:
        """The scale of voxels that each cover `factors` (z, y, x) of these."""
        voxel = [v * f for v, f in zip(self.voxel_um, factors, strict=True)]
        shift = [(f - 1) / 2 * v for v, f in zip(self.voxel_um, factors, strict=True)]
        origin = [t + s for t, s in zip(self.translation_um, shift, strict=True)]
        return Scale(micrometer_triple(voxel, "voxel size"), micrometer_triple(origin, "translation"))

    def moved(self, start: Sequence[int]) -> Scale:
        """The scale of the same voxels where voxel `start` (z, y, x) is the first."""
        origin = [t + n * v for t, n, v in zip(self.translation_um, start, self.voxel_um, strict=True)]
        return Scale(self.voxel_um, micrometer_triple(origin, "translation"))

    def shrunk(self, factor: float) -> Scale:
        """The scale with all lengths divided by a factor."""
        voxel = [v / factor for v in self.voxel_um]
        return Scale(
            micrometer_triple(voxel, "voxel size"),
            micrometer_triple([t / factor for t in self.translation_um], "translation"),
        )

    def to_json(self) -> dict[str, list[float]]:
        """The same facts as JSON values."""
        return {"voxel_um": list(self.voxel_um), "translation_um": list(self.translation_um)}
