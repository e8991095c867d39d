"""From what a user and an image say of a microscope to the numbers that a model of its PSF takes.

What the user leaves out is taken from the image's metadata where it is there, and else assumed; every number carries
where it came from: "given", "image" or "assumed". The numerical aperture and the wavelength are never assumed: who does
not know them is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from chunkflow.errors import ConfigError, nearest
from chunkflow.kernels.optics import AIRY_DIAMETER

Fact = tuple[Any, str]
"""A value, and where it came from."""

Model = Literal[
    "gaussian",
    "measured",
    "born-wolf",
    "gibson-lanni",
    "richards-wolf",
    "variable-index",
    "confocal",
    "spinning-disk",
    "light-sheet",
]
Microscope = Literal["widefield", "confocal", "spinning-disk", "light-sheet"]

OF_MICROSCOPE: Mapping[str, Model] = {
    "widefield": "gibson-lanni",
    "confocal": "confocal",
    "spinning-disk": "spinning-disk",
    "light-sheet": "light-sheet",
}
IMMERSION = {"air": 1.0, "dry": 1.0, "water": 1.333, "silicone": 1.406, "glycerol": 1.46, "oil": 1.515}
"""Refractive indices by the words on objectives (23 C, yellow light)."""
OBJECTIVE = re.compile(
    r"(?:(?P<magnification>\d+(?:\.\d+)?)\s*[x×]\s*/?\s*)?(?P<na>\d?\.\d+)(?:\s*/?\s*(?P<medium>[a-z]+))?", re.I
)

ASSUMED = {"pinhole_au": 1.0, "pinhole_um": 50.0, "sample_index": 1.333, "sheet_um": 2.0}
"""Taken where neither the user nor the image says: a pinhole of one Airy unit, 50 um of a spinning disk, water."""
WAVELENGTHS_NM = (200.0, 2000.0)
STOKES = 0.94
"""Excitation over emission wavelength where only the latter is known: 490 nm for 520 nm."""


def read_objective(text: str) -> dict[str, Any]:
    """Magnification, NA and immersion of "63x/1.4 oil"."""
    found = OBJECTIVE.search(text)
    if found is None:
        raise ConfigError(f"deconvolve: psf objective {text!r} cannot be read", 'Write it as "63x/1.4 oil"')
    medium = (found["medium"] or "").lower()
    if medium and medium not in IMMERSION:
        raise ConfigError(f"deconvolve: psf objective {text!r}: immersion {medium!r}", nearest(medium, IMMERSION))
    facts: dict[str, Any] = {"na": float(found["na"])}
    if found["magnification"]:
        facts["magnification"] = float(found["magnification"])
    if medium:
        facts["immersion_index"] = IMMERSION[medium]
    return facts


def settled(given: Mapping[str, tuple[Any, bool]], metadata: Mapping[str, Any]) -> dict[str, Fact]:
    """Every number of the optics with its source: the user, the image, or an assumption.

    Parameters
    ----------
    given : fields of `stages.psf.Psf` by name: value, and whether it is the default
    metadata : what the image says (`storage.volume.Volume.optics`)

    Raises
    ------
    ConfigError : something is missing that cannot be assumed.
    """
    stated = dict(metadata)
    if "immersion_index" not in stated and stated.get("immersion") in IMMERSION:
        stated["immersion_index"] = IMMERSION[stated["immersion"]]
    written = read_objective(given["objective"][0]) if given["objective"][0] else {}

    def found(name: str) -> Fact | None:
        value = given[name][0]
        if value is None:
            value = written.get(name)
        if value is not None:
            return value, "given"
        return (stated[name], "image") if name in stated else None

    chosen, microscope = given["model"][0], given["microscope"][0] or stated.get("mode")
    if chosen is None and microscope is None:
        raise ConfigError(
            "deconvolve: psf names no microscope, and the image does not tell", nearest("", OF_MICROSCOPE)
        )
    model = chosen or OF_MICROSCOPE[str(microscope)]
    facts: dict[str, Fact] = {"model": (model, "given" if chosen or given["microscope"][0] else "image")}
    for name, remedy in (
        ("na", "It is written on the objective: objective: 63x/1.4 oil, or na: 1.4"),
        ("emission_nm", "Give the wavelength that was detected: emission_nm: 525"),
    ):
        facts[name] = _asked(found(name), name, remedy)
    medium = found("immersion_index")
    if medium is None or (medium[1] == "image" and medium[0] <= facts["na"][0]):  # another objective than the image's
        medium = _immersion_of(facts["na"][0]), "assumed"
    facts["immersion_index"] = medium
    if not WAVELENGTHS_NM[0] <= float(facts["emission_nm"][0]) <= WAVELENGTHS_NM[1]:
        wavelength = float(facts["emission_nm"][0])
        remedy = f"It is in nm: {wavelength * 1000:g}?" if wavelength < 5 else "Give it in nm, for example 525"
        raise ConfigError(f"deconvolve: psf emission_nm {wavelength:g} is no wavelength of light", remedy)
    for name in _needed(str(model)):
        facts[name] = found(name) or _pinhole(name, found, facts) or _assumed(name, facts)
    for name in _layers(str(model)):
        value, is_default = given[name]
        facts[name] = value, "assumed" if is_default else "given"
    return facts


def _asked(value: Fact | None, name: str, remedy: str) -> Fact:
    if value is None:
        raise ConfigError(f"deconvolve: psf needs {name}, and the image does not tell", remedy)
    return value


def _immersion_of(na: float) -> float:
    """What most objectives of an NA are made for: air below 1, water below 1.25, oil."""
    return IMMERSION["air"] if na < 1 else IMMERSION["water"] if na < 1.25 else IMMERSION["oil"]


def _needed(model: str) -> tuple[str, ...]:
    """Numbers beside NA, wavelength and immersion that a model takes."""
    return {
        "born-wolf": (),
        "gibson-lanni": ("sample_index",),
        "richards-wolf": ("sample_index",),
        "variable-index": (),
        "confocal": ("sample_index", "excitation_nm", "pinhole_au"),
        "spinning-disk": ("sample_index", "excitation_nm", "pinhole_um", "magnification"),
        "light-sheet": ("sample_index", "sheet_um"),
    }[model]


def _layers(model: str) -> tuple[str, ...]:
    """Numbers of a model that have a default."""
    if model == "born-wolf":
        return ()
    return ("depth_um", "coverslip_um", *(("tilt_degrees",) if model == "light-sheet" else ()))


def _pinhole(name: str, found: Callable[[str], Fact | None], facts: Mapping[str, Fact]) -> Fact | None:
    """A confocal's pinhole in Airy units, where its diameter and the magnification up to it are known."""
    diameter, magnification = found("pinhole_um"), found("magnification")
    if name != "pinhole_au" or diameter is None:
        return None
    if magnification is None:
        raise ConfigError(
            f"deconvolve: psf has a pinhole of {diameter[0]:g} um and no magnification", "Give it, or pinhole_au: 1"
        )
    airy_um = AIRY_DIAMETER * float(facts["emission_nm"][0]) / 1000 / float(facts["na"][0])
    source = "given" if "given" in (diameter[1], magnification[1]) else "image"
    return round(float(diameter[0]) / float(magnification[0]) / airy_um, 3), source


def _assumed(name: str, facts: Mapping[str, Any]) -> Fact:
    if name == "excitation_nm":
        return round(STOKES * float(facts["emission_nm"][0]), 1), "assumed"
    if name == "magnification":
        raise ConfigError(
            "deconvolve: psf needs the magnification of the objective", "objective: 63x/1.4 oil, or magnification: 63"
        )
    return ASSUMED[name], "assumed"


def described(facts: Mapping[str, Any]) -> str:
    """One line for people: the optics, what of them the image said, the widths, and what was assumed."""

    def listed(source: str) -> str:
        return ", ".join(_worded(n, value) for n, (value, s) in facts.items() if s == source and n not in apart)

    apart = ("model", "fwhm_um", "shape")
    parts = [", ".join(filter(None, (str(facts["model"][0]), listed("given"), listed("computed"))))]
    if facts["model"][1] == "image" or listed("image"):
        model = str(facts["model"][0]) if facts["model"][1] == "image" else ""
        parts.append("from the image: " + ", ".join(filter(None, (model, listed("image")))))
    widths = facts["fwhm_um"][0]
    parts.append("FWHM " + " x ".join("?" if width is None else f"{width:.3g}" for width in widths) + " um")
    if listed("assumed"):
        parts.append(f"assumed: {listed('assumed')}")
    return "; ".join(parts)


def _worded(name: str, value: Any) -> str:
    """A number of the optics with its unit, as people write it: NA 1.4, emission 525 nm."""
    if name == "energy":
        return f"{value:.1%} of the light nearby kept"
    quantity, _, unit = name.rpartition("_")
    shown = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    if unit in ("nm", "um", "au"):
        return f"{quantity.replace('_', ' ')} {shown} {'AU' if unit == 'au' else unit}"
    return f"{'NA' if name == 'na' else name.replace('_', ' ')} {shown}"
