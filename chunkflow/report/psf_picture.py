"""A PSF as one picture: three sections that meet along their edges, and the profiles behind its widths.

    what it is                                       Sections and profiles run through the brightest voxel, as widths
    [  xy  ] [ zy ]    z  --/\\--  FWHM 0.55 um       do. A section shows voxels as they are, in the proportions of the
    [  xz  ]           y  --/\\--                     sample, and the line of half the maximum; colour goes with a
    colours            x  --/\\--                     power of the light, so that rings of 1 % are seen.

Drawn twice as large and averaged, which smooths lines. Made for PSFs, at most some hundred voxels along an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from chunkflow.report.charts import round_length, tick_text
from chunkflow.report.page import ACCENT, FAINT, FINER, INK, Page, Pixels
from chunkflow.report.pictures import PLANES

TripleUm: TypeAlias = tuple[float, float, float]

SIZE = (1500, 940)
"""Pixels of the picture."""
SECTIONS = (40, 96, 740, 740)
"""Left, top, and the width and height that the sections may take."""
PROFILES = (870, 96, 580, 226)
"""Left and top of the first profile, its width and height."""
PROFILE_STEP = 274
GAP = 6
PROFILE_WIDTHS = 3.0
"""A profile reaches so many widths to each side, or to the end of the PSF."""

LADDER = np.array(
    [
        (0, 0, 4), (27, 12, 65), (74, 12, 107), (120, 28, 109), (165, 44, 96),
        (207, 68, 70), (237, 105, 37), (251, 155, 6), (247, 209, 61), (252, 255, 164),
    ]
)  # fmt: skip
"""Colours from no light to the peak, in even steps of what the eye calls brighter."""
GAMMA = 0.4
"""Power of the light that steps on the ladder: 0.01 of the peak is 0.16 of the way up."""


def png_of_psf(psf: NDArray[np.float32], voxel_um: TripleUm, fwhm_um: TripleUm, title: str) -> bytes:
    """The picture of a (Pz, Py, Px) PSF as the bytes of a PNG.

    Parameters
    ----------
    fwhm_um : widths as they were measured, infinite where they could not be.
    title : what the PSF is, one sentence.
    """
    page = Page.blank(SIZE)
    page.paragraph((SECTIONS[0], 24), title, SIZE[0] - 2 * SECTIONS[0], rows=2, size=19)
    peak = np.unravel_index(int(psf.argmax()), psf.shape)
    _draw_sections(page, psf / psf.max(), voxel_um, peak)
    left, top, width, height = PROFILES
    shown = [axis for axis in range(3) if psf.shape[axis] > 1]
    for row, axis in enumerate(shown):
        line = psf[tuple(slice(None) if a == axis else p for a, p in enumerate(peak))].astype(np.float64)
        profile = _Profile.of_line(line / line.max(), voxel_um[axis], float(fwhm_um[axis]))
        _draw_profile(page, profile, "zyx"[axis], (left, top + row * PROFILE_STEP, width, height))
    return page.png()


def _draw_sections(page: Page, psf: NDArray[np.float32], voxel_um: TripleUm, peak: Sequence[Any]) -> None:
    """xy, zy to its right and xz below it, all at one scale, with a bar of it and one of the colours."""
    size = [n * v for n, v in zip(psf.shape, voxel_um, strict=True)]
    depth = size[0] if psf.shape[0] > 1 else 0.0
    left, top, width, height = SECTIONS
    scale = min((width - GAP) / (size[2] + depth), (height - GAP) / (size[1] + depth))
    for normal, rows, columns in PLANES if depth else PLANES[:1]:
        section = psf[tuple(int(peak[normal]) if axis == normal else slice(None) for axis in range(3))]
        section = section if rows < columns else section.T
        shape = (max(1, round(size[rows] * scale * FINER)), max(1, round(size[columns] * scale * FINER)))
        at = (
            left + (size[2] * scale + GAP if columns == 0 else 0),
            top + (size[1] * scale + GAP if rows == 0 else 0),
        )
        page.paste(section_pixels(section, shape), at)
        page.text((at[0] + 9, at[1] + 6), "zyx"[columns] + "zyx"[rows], (255, 255, 255), size=18)
    length = round_length(size[2] / 4)
    end, foot = left + size[2] * scale - 14, top + size[1] * scale - 16
    page.line([(end - length * scale, foot), (end, foot)], (255, 255, 255), 4)
    page.text((end - length * scale / 2, foot - 8), f"{tick_text(length)} um", (255, 255, 255), size=16, anchor="md")
    voxels = f"Voxels: {_by(psf.shape)} of {_by(voxel_um)} um (z y x)."
    _draw_ladder(page, (left, top + (size[1] + depth) * scale + GAP + 22, (size[2] + depth) * scale + GAP), voxels)


def section_pixels(section: NDArray[np.float32], shape: tuple[int, int]) -> Pixels:
    """(rows, columns, 3) of voxels as tiles, and the line of half the maximum between their centres."""
    index = [np.arange(size) * count // size for size, count in zip(shape, section.shape, strict=True)]
    pixels = _colors(section[np.ix_(*index)])
    position = [(np.arange(s) + 0.5) * n / s - 0.5 for s, n in zip(shape, section.shape, strict=True)]
    between = ndimage.map_coordinates(section, np.meshgrid(*position, indexing="ij"), order=3, mode="nearest")
    inside = between >= 0.5
    pixels[ndimage.binary_dilation(inside, iterations=FINER) & ~inside] = 255
    return pixels


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _colors(light: NDArray[Any]) -> Pixels:
    """(..., 3) from parts of the peak."""
    step = light.clip(0, 1) ** GAMMA * (len(LADDER) - 1)
    mixed = [np.interp(step, range(len(LADDER)), LADDER[:, channel]) for channel in range(3)]
    return np.round(np.stack(mixed, axis=-1)).astype(np.uint8)


def _draw_ladder(page: Page, place: tuple[float, float, float], voxels: str) -> None:
    left, top, width = place
    ramp = np.linspace(0, 1, round(width * FINER)) ** (1 / GAMMA)
    page.paste(np.broadcast_to(_colors(ramp), (12 * FINER, len(ramp), 3)).copy(), (left, top))
    for value in (0, 0.001, 0.01, 0.1, 0.25, 0.5, 1):
        anchor = "la" if value == 0 else "ra" if value == 1 else "ma"
        page.text((left + width * value**GAMMA, top + 18), tick_text(value), size=14, anchor=anchor)
    page.text((left, top + 40), f"Colours: part of the peak; white line: half of it. {voxels}", FAINT, size=14)


@dataclass(frozen=True, slots=True)
class _Profile:
    """Light along an axis in um from the peak, the curve between voxels, and where it crosses half."""

    position: NDArray[np.float64]
    value: NDArray[np.float64]
    curve: NDArray[np.float64]
    half: tuple[float, float] | None
    fwhm_um: float
    reach: tuple[float, float]

    @classmethod
    def of_line(cls, line: NDArray[np.float64], voxel_um: float, fwhm_um: float) -> _Profile:
        """`curve` is (2, N): position and value of the spline that widths are read from."""
        position = (np.arange(len(line), dtype=np.float64) - int(line.argmax())) * voxel_um
        fine = np.linspace(position[0], position[-1], 4001)
        order = 5 if len(line) > 5 else 3 if len(line) > 3 else 1
        value = np.asarray(make_interp_spline(position, line, k=order)(fine))
        furthest = PROFILE_WIDTHS * fwhm_um if isfinite(fwhm_um) else np.inf
        reach = (max(float(position[0]), -furthest), min(float(position[-1]), furthest))
        half = _crossings(fine, value) if isfinite(fwhm_um) else None
        return cls(position, line, np.stack([fine, value]), half, fwhm_um, reach)


def _crossings(position: NDArray[np.float64], value: NDArray[np.float64]) -> tuple[float, float] | None:
    """Where a curve falls below half of its maximum on both sides of it."""
    top = int(value.argmax())
    below = value < value[top] / 2
    left, right = np.flatnonzero(below[:top]), np.flatnonzero(below[top:])
    return (float(position[left[-1]]), float(position[top + right[0]])) if len(left) and len(right) else None


def _draw_profile(page: Page, profile: _Profile, letter: str, place: tuple[float, float, float, float]) -> None:
    left, top, width, height = place
    low, high = profile.reach
    margin = 0.03 * (high - low)

    def x(um: float) -> float:
        return left + width * (um - low + margin) / (high - low + 2 * margin)

    def y(value: float) -> float:
        return top + height * (1 - max(value, 0.0) / 1.08)

    _draw_axes(page, profile, x, y, place)
    inside = (profile.curve[0] >= low) & (profile.curve[0] <= high)
    page.line([(x(u), y(v)) for u, v in profile.curve[:, inside].T], INK, 1.5)
    for um, value in zip(profile.position, profile.value, strict=True):
        if low <= um <= high:
            page.dot((x(um), y(value)), 3.2, INK)
    page.text((left + 10, top + 2), f"{letter} (um)", size=19)
    if profile.half is not None:
        half = y(float(profile.curve[1].max()) / 2)
        ends = [(x(um), half) for um in profile.half]
        page.line(ends, ACCENT, 2.5)
        for at, _ in ends:
            page.line([(at, half - 7), (at, half + 7)], ACCENT, 2.5)
        page.text((ends[1][0] + 12, half), f"FWHM {profile.fwhm_um:.3g} um", ACCENT, size=19, anchor="lm")


def _draw_axes(
    page: Page,
    profile: _Profile,
    x: Callable[[float], float],
    y: Callable[[float], float],
    place: tuple[float, float, float, float],
) -> None:
    left, _, width, _ = place
    low, high = profile.reach
    page.line([(left, y(0)), (left + width, y(0))], INK)
    for value in (0.5, 1.0):
        page.line([(left, y(value)), (left + width, y(value))], (225, 225, 225))
        page.text((left - 8, y(value)), tick_text(value), FAINT, size=14, anchor="rm")
    step = round_length((high - low) / 4)
    for k in range(ceil(low / step), floor(high / step) + 1):
        page.line([(x(k * step), y(0)), (x(k * step), y(0) + 5)], INK)
        page.text((x(k * step), y(0) + 8), tick_text(k * step), size=14, anchor="ma")
