"""What an image's own metadata says of the optics it was taken with, for each channel.

    OME-XML (of an OME-TIFF, or beside the series of bioformats2raw) -> facts -> attributes of the OME-Zarr image

| fact | from |
|---|---|
| na, magnification | the Objective that the Image's ObjectiveSettings name; a calibrated magnification wins |
| immersion | Medium of these settings, else Immersion of the objective, as one word of `IMMERSIONS` |
| immersion_index | RefractiveIndex of these settings |
| emission_nm, excitation_nm, pinhole_um, mode | the Channel; mode is one word of `MODES`, for fluorescence alone |

Only what is stated and can be meant is a fact; a value that cannot is left out with a warning, and metadata never stops
anything. An objective that no setting names is not the image's: nothing is guessed. Elements are known by their names
without namespace, so any schema from 2010 on is read. The XML is parsed whole: seconds for plates of 10^5 planes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import TypeAlias
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from chunkflow.geometry.scale import um_per

log = logging.getLogger(__name__)

Optics: TypeAlias = Mapping[str, float | str]
"""Name of a fact -> number in the unit of the name, or word; only what is known."""

MODES = ("widefield", "confocal", "spinning-disk", "light-sheet")
IMMERSIONS = {"air": 1.0, "water": 1.34, "silicone": 1.42, "glycerol": 1.48, "oil": 1.8}
"""Immersion media, and the index that none of their kind reaches: an objective's NA is below it."""

_RANGES: dict[str, tuple[float, float]] = {
    "na": (0.0, 1.7),
    "emission_nm": (200.0, 2000.0),
    "excitation_nm": (200.0, 2000.0),
    "immersion_index": (1.0, 1.7),
    "magnification": (0.0, 1000.0),
    "pinhole_um": (0.0, 10000.0),
}
"""Of each number: it is above 0, and these ends are inside."""

# Slit-scanning and swept-field confocals, and "laser scanning" alone, could be read as more than one of ours.
_MODE_OF = {
    "widefield": "widefield",
    "laserscanningconfocalmicroscopy": "confocal",
    "spinningdiskconfocal": "spinning-disk",
    "spim": "light-sheet",
}
_TRANSMITTED = {
    "brightfield",
    "phase",
    "dic",
    "hoffmanmodulation",
    "obliqueillumination",
    "polarizedlight",
    "darkfield",
}
_IMMERSION_OF = {"waterdipping": "water", "dry": "air", "glycerine": "glycerol", "glycerin": "glycerol"}
_UNSTATED = ("", "other", "multi", "unknown")


def ome_optics(xml: str | bytes, image: int, channels: int, where: str) -> tuple[Optics, ...]:
    """Facts of each channel of one image of an OME-XML.

    Parameters
    ----------
    image : number of the Image element.
    channels : how many the image has; where the XML describes another number, none is told from the others.
    where : names the XML in warnings.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter for encodings it does not know
        log.warning("%s: no optics are read, this is not valid XML (%s)", where, error)
        return ({},) * channels
    images = list(_children(root, "Image"))
    if image >= len(images):
        return ({},) * channels
    objective = _of_objective(root, images[image])
    described = [_of_channel(channel) for channel in _channels(images[image])]
    if len(described) != channels:
        described = [{} for _ in range(channels)]
    return sane_optics([objective | facts for facts in described], channels, where)


def sane_optics(stated: object, channels: int, where: str) -> tuple[Optics, ...]:
    """The facts of each channel among what foreign metadata states: a list of mappings, or anything else.

    One warning names all that is left out: what is no number or absurd, and an immersion that the NA excludes.
    """
    listed = stated if isinstance(stated, Sequence) and len(stated) == channels else None
    if listed is None or not all(isinstance(entry, Mapping) for entry in listed):
        log.warning("%s: the optics are not a list of facts for each of %d channels and are left out", where, channels)
        return ({},) * channels
    kept, rejected = [], []
    for entry in listed:
        facts = {name: value for name, check in _CHECKS.items() if (value := check(entry.get(name))) is not None}
        _drop_excluded(facts)
        kept.append(facts)
        rejected += [f"{name} {entry[name]!r}" for name in _CHECKS if entry.get(name) is not None and name not in facts]
    if rejected:
        log.warning("%s: optics that cannot be meant are left out: %s", where, ", ".join(dict.fromkeys(rejected)))
    return tuple(kept)


def _number_in(low: float, high: float) -> Callable[[object], float | None]:
    def check(value: object) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        return number if number > 0 and low <= number <= high else None

    return check


def _word_of(words: Iterable[str]) -> Callable[[object], str | None]:
    known = frozenset(words)
    return lambda value: value if isinstance(value, str) and value in known else None


_CHECKS: dict[str, Callable[[object], float | str | None]] = {
    **{name: _number_in(low, high) for name, (low, high) in _RANGES.items()},
    "immersion": _word_of(IMMERSIONS),
    "mode": _word_of(MODES),
}


def _drop_excluded(facts: dict[str, float | str]) -> None:
    """Light of a numerical aperture needs a medium of a higher index; the NA is what objectives are known by."""
    na = float(facts.get("na", 0.0))
    if float(facts.get("immersion_index", inf)) <= na:
        del facts["immersion_index"]
    if IMMERSIONS.get(str(facts.get("immersion")), inf) <= na:
        del facts["immersion"]


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if _local(child) == name)


def _channels(image: Element) -> Iterator[Element]:
    """One element per channel of the voxels: the samples of a colour channel count one by one."""
    for pixels in _children(image, "Pixels"):
        for channel in _children(pixels, "Channel"):
            samples = channel.get("SamplesPerPixel", "1")
            yield from [channel] * (int(samples) if samples.isdecimal() and len(samples) < 3 else 1)


def _of_objective(root: Element, image: Element) -> dict[str, object]:
    """What is stated for every channel alike."""
    settings = next(_children(image, "ObjectiveSettings"), None)
    if settings is None:
        return {}
    objectives = [objective for part in _children(root, "Instrument") for objective in _children(part, "Objective")]
    named = [objective for objective in objectives if objective.get("ID") == settings.get("ID")]
    objective = named[0] if len(named) == 1 else Element("Objective")
    calibrated = objective.get("CalibratedMagnification")
    return {
        "na": objective.get("LensNA"),
        "magnification": objective.get("NominalMagnification") if calibrated is None else calibrated,
        "immersion": _immersion(settings.get("Medium")) or _immersion(objective.get("Immersion")),
        "immersion_index": settings.get("RefractiveIndex"),
    }


def _of_channel(channel: Element) -> dict[str, object]:
    return {
        "emission_nm": _length(channel, "EmissionWavelength", "nm", per_um=1000.0),
        "excitation_nm": _length(channel, "ExcitationWavelength", "nm", per_um=1000.0),
        "pinhole_um": _length(channel, "PinholeSize", "um", per_um=1.0),
        "mode": _mode(channel),
    }


def _length(element: Element, name: str, default_unit: str, *, per_um: float) -> float | str | None:
    """An attribute in the unit of which there are `per_um` in a um; its text where that is no length."""
    text = element.get(name)
    if text is None:
        return None
    unit = element.get(f"{name}Unit", default_unit)
    um = um_per(unit)
    try:
        return f"{text} {unit}" if um is None else float(text) * (um * per_um)
    except ValueError:
        return text


def _word(text: str | None) -> str:
    """Lower case, letters only: schemas differ in hyphens and spaces."""
    return re.sub("[^a-z]", "", (text or "").lower())


def _immersion(text: str | None) -> str | None:
    word = _word(text)
    return None if word in _UNSTATED else _IMMERSION_OF.get(word, word)


def _mode(channel: Element) -> str | None:
    """How fluorescence was collected; a channel of transmitted light has none, though its microscope is confocal."""
    if _word(channel.get("ContrastMethod")) in _TRANSMITTED:
        return None
    return _MODE_OF.get(_word(channel.get("AcquisitionMode")))
