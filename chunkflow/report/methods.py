"""A methods paragraph to paste: what was done, with parameters, units, versions and the papers to cite.

    plan.json of a run  -->  a sentence per stage, in the order they ran  -->  text with [1], [2] ... and the references

Sentences say what a reader needs to do the same: every parameter that a stage used and that changes its result. The
references are those of the methods the run used, in the order they are first cited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from textwrap import fill
from typing import Any

from chunkflow.report.html import counted, short, sides
from chunkflow.storage.stores import place_of

REFERENCES = dict(
    line.split(": ", 1)
    for line in files("chunkflow.report").joinpath("references.txt").read_text(encoding="utf-8").splitlines()
)
"""By the names that sentences cite them by."""

NAMES = {
    "otsu": "Otsu's method",
    "li": "Li's minimum cross entropy",
    "isodata": "the isodata method",
    "yen": "Yen's method",
    "kapur": "Kapur's maximum entropy",
    "triangle": "the triangle method",
    "huang": "Huang's fuzzy method",
    "multi-otsu": "Otsu's method for several classes",
    "kmeans": "k-means of the grey values",
    "sauvola": "Sauvola's method",
    "niblack": "Niblack's method",
    "adaptive-mean": "the local mean",
    "adaptive-gaussian": "the local Gaussian mean",
}
ALGORITHM_REFERENCES = {
    "richardson-lucy": ("richardson", "lucy"),
    "richardson-lucy-tv": ("richardson", "lucy", "tv"),
    "wiener-butterworth": ("guo",),
    "masked-wiener": ("ruan",),
    "ista": ("fista",),
    "fista": ("fista",),
}


@dataclass(slots=True)
class Citations:
    """Numbers of references in the order they are first cited."""

    keys: list[str] = field(default_factory=list)

    def __call__(self, *keys: str) -> str:
        """[1, 2], or nothing where there is no reference."""
        known = [key for key in keys if key in REFERENCES]
        self.keys += [key for key in known if key not in self.keys]
        return f" [{', '.join(str(self.keys.index(key) + 1) for key in known)}]" if known else ""

    def text(self) -> str:
        """The list of references."""
        return "\n".join(f"[{number}] {REFERENCES[key]}" for number, key in enumerate(self.keys, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a paragraph is about.

    images : how many were run alike
    shared_threshold : the value they share, and the rule it is from
    more : sentences to end with, each made with the same citations
    """

    images: int = 1
    shared_threshold: tuple[float, str] | None = None
    more: tuple[Callable[[Citations], str], ...] = ()


def methods_text(stored: Mapping[str, Any], scope: Scope | None = None, *, width: int = 0) -> str:
    """A paragraph and its references, plain text.

    Parameters
    ----------
    stored : what run/plan.json of a result holds.
    width : columns to fill; 0 leaves the paragraph on one line, as text fields want it.
    """
    scope = scope or Scope()
    cite = Citations()
    sentences = [_input(stored, scope, cite)]
    for entry in stored["pipeline"]["stages"]:
        for key, values in entry.items():
            make = STAGES.get(key)
            sentences.append(make(values, stored, scope, cite) if make else _other(key, values))
    sentences += [make(cite) for make in scope.more]
    sentences.append(_versions(stored, cite))
    paragraph = " ".join(sentence for sentence in sentences if sentence)
    return f"{fill(paragraph, width) if width else paragraph}\n\nReferences\n{cite.text()}\n"


def methods_section(stored: Mapping[str, Any]) -> str:
    """The paragraph and its references as HTML, for the report of a run."""
    paragraph, _, listed = methods_text(stored).partition("\n\nReferences\n")
    references = "<br>".join(escape(line) for line in listed.strip().splitlines())
    return f"<p>To paste, and to check:</p><p>{escape(paragraph)}</p><p class='caption'>{references}</p>"


def _input(stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    plan, options = stored["plan"], stored["pipeline"]["input"]
    what = {"mask": "Masks", "labels": "Label images"}.get(options["kind"], "Images")
    channel = "" if options.get("channel") is None else f", channel {options['channel']}"
    number = f" ({scope.images} of them{channel})" if scope.images > 1 else f" ({channel[2:]})" if channel else ""
    voxel = sides(plan["input"]["voxel_um"])
    text = f"{what}{number} with voxels of {voxel} µm (z × y × x) were processed with chunkflow {stored['chunkflow']}"
    text += f", which computes in blocks what a whole-volume run would give{cite('ome-zarr')}."
    if options.get("expansion", 1.0) != 1.0:
        text += f" Lengths are those before expansion ({short(options['expansion'])} times)."
    if options.get("region"):
        text += f" The region {options['region']} was analysed."
    if options.get("mask"):
        text += f" Only voxels inside the mask {place_of(str(options['mask'])).name} were used."
    if options.get("nodata") is not None:
        text += f" Voxels of the value {short(options['nodata'])} were left out."
    if options.get("nan") == "zero":
        text += " Voxels without a number were read as 0."
    return text


def _correct(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    parts = [f"{name.replace('_', ' ')} {_value(value)}" for name, value in values.items() if _is_set(value)]
    return f"Uneven light was corrected ({', '.join(parts)})." if parts else ""


def _deconvolve(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    name = str(values["algorithm"])
    times = values.get("iterations")
    parts = [counted(times, "iteration")] if isinstance(times, int | float) and times else []
    parts += [f"regularization {short(values['regularization'])}"] if values.get("regularization") is not None else []
    parts += [f"background {short(values['background'])}"] if values.get("background") else []
    words = {"richardson-lucy": "the Richardson-Lucy algorithm"}.get(name, f"the {name} algorithm")
    text = f"Images were deconvolved with {words}{cite(*ALGORITHM_REFERENCES.get(name, ()))}"
    text += f" ({', '.join(parts)})" if parts else ""
    return f"{text} and a point spread function {_psf(values['psf'], stored, cite)}."


def _psf(psf: Mapping[str, Any], stored: Mapping[str, Any], cite: Citations) -> str:
    if psf.get("path"):
        return "that was measured"
    facts = stored["plan"]["facts"].get("psf") or {}
    widths = facts.get("fwhm_um", [None])[0]
    fwhm = f" of {sides(widths)} µm full width at half maximum" if widths and None not in widths else ""
    if facts.get("model", [""])[0] in ("", "gaussian"):
        return f"that is a Gaussian{fwhm}"
    words = {
        "na": "NA {}",
        "immersion_index": "refractive index {} of the immersion",
        "emission_nm": "emission {} nm",
        "pinhole_um": "pinhole {} µm",
    }
    words |= {"pinhole_au": "pinhole {} AU", "sample_index": "refractive index {} of the sample"}
    given = [text.format(_value(facts[name][0])) for name, text in words.items() if _is_set(facts.get(name, [None])[0])]
    kind = str(psf.get("microscope") or facts["model"][0])
    return f"computed for a {kind} microscope{cite('gibson')} ({', '.join(given)}){fwhm}"


def _resample(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    return f"They were resampled linearly to voxels of {sides(stored['plan']['output']['voxel_um'])} µm."


def _vesselness(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    radii = ", ".join(short(radius) for radius in values["radii_um"])
    return f"Tubes of {radii} µm radius were enhanced with the {values['filter']} filter{cite(str(values['filter']))}."


def _predict(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    facts = stored["plan"]["facts"].get("network") or {}
    digest = f" (SHA-256 {facts['digest'][:16]})" if "digest" in facts else ""
    cut = facts.get("threshold")
    above = "" if cut is None else f" Foreground is what lies above {short(cut)} of its output."
    channels = f" to the channels {', '.join(facts['channels'])}" if facts.get("channels") else ""
    return f"A neural network{digest} was applied{channels}{cite('torch')}.{above}"


def _pixels(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    cut = values.get("threshold")
    above = "" if cut is None else f" Foreground is what has a probability above {short(cut)}."
    return f"Voxels were classified by a random forest on multi-scale features{cite('forest')}.{above}"


def _threshold(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    smooth = values.get("smooth_um") or 0
    before = f"After smoothing with a Gaussian (σ = {short(smooth)} µm), foreground" if smooth else "Foreground"
    if scope.shared_threshold is not None:
        value, method = scope.shared_threshold
        return (
            f"{before} was what lies above {short(value, 5)}, the threshold of {NAMES.get(method, method)}"
            f"{cite(method)} for the histograms of all images added up."
        )
    method = str(values["method"])
    if method == "fixed":
        return f"{before} was what lies above the grey value {short(values['value'], 5)}, the same for all."
    local = f" in a window of {short(values['window_um'])} µm" if values.get("window_um") else ""
    extra = [
        f"{name} = {short(values[name])}" for name in ("classes", "k", "offset", "floor") if _is_set(values.get(name))
    ]
    more = f" ({', '.join(extra)})" if extra else ""
    each = " of each image" if scope.images > 1 and not local else ""
    return f"{before} was found by {NAMES.get(method, method)}{cite(method)}{local}{each}{more}."


def _label(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    text = f"Objects are {values['connectivity']}-connected components"
    border = "; those at the border were left out" if values.get("clear_border") else ""
    return f"{text}{_least(values)}{border}.{_holes(values)}"


def _holes(values: Mapping[str, Any]) -> str:
    if not values.get("fill_holes"):
        return ""
    most = f" of at most {short(values['max_hole_um3'])} µm³" if values.get("max_hole_um3") else ""
    return f" Background{most} that one of them encloses was made a part of it."


def _least(values: Mapping[str, Any]) -> str:
    if values.get("min_volume_um3"):
        return f" of at least {short(values['min_volume_um3'])} µm³"
    return f" of at least {counted(values['min_voxels'], 'voxel')}" if values.get("min_voxels") else ""


def _instances(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    on = {"distance": "the distance to the background"}.get(str(values["on"]), f"{values['on']}".replace("-", " "))
    depth = "" if values.get("h") is None else f" (seeds of a depth above {short(values['h'])})"
    text = f"Touching objects were separated by a watershed on {on}{cite('watershed')}{depth}{_least(values)}."
    return text + _holes(values)


def _skeleton(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    text = f"Objects were thinned to skeletons that keep their topology{cite('thinning')}"
    radii = values.get("prune_radii")
    if radii:
        word = "radius" if radii == 1 else "radii"
        text += f", and end branches shorter than {short(radii)} local {word} were removed"
    return text + "; lengths are those of branches smoothed over five points."


def _measure(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    text = "Volumes are sums of voxels; surfaces are Crofton estimates"
    text += cite("surface")
    has_image = stored["pipeline"]["input"]["kind"] == "image"
    of = {"raw": " of the raw image", "image": " of the image that was segmented"} if has_image else {}
    if values.get("image"):
        of["raw"] = f" of the image {place_of(values['image']).name}"
    raw = of.get(str(values.get("intensity")), "")
    text += f"; intensities are those{raw}" if raw else ""
    text += _channels(values, cite)
    if values.get("graph_metrics"):
        text += f"; networks were compared with random graphs and lattices of the same degrees{cite('maslov', 'omega')}"
    return text + "."


def _channels(values: Mapping[str, Any], cite: Citations) -> str:
    """Which channels were measured beside the intensity."""
    named, other = list(values.get("channels") or ()), values.get("image")
    first = ""
    if other and values.get("intensity") == "raw":
        first, named = (f" (channel {named[0]})" if named else ""), named[1:]
    elif other:
        named = named or [0]
    if not named:
        return first
    of = f" of {place_of(other).name}" if other and values.get("intensity") != "raw" else ""
    word = "channel" if len(named) == 1 else "channels"
    was = "was" if len(named) == 1 else "were"
    return f"{first}; {word} {', '.join(map(str, named))}{of} {was} measured in the same objects{cite('manders')}"


def _apply(values: Mapping[str, Any], stored: Mapping[str, Any], scope: Scope, cite: Citations) -> str:
    options = ", ".join(f"{key} {_value(value)}" for key, value in (values.get("options") or {}).items())
    return f"The function {values['function']} was applied{f' ({options})' if options else ''}."


def _other(key: str, values: Mapping[str, Any]) -> str:
    """A stage without a sentence of its own: its name and what it was given."""
    parts = [f"{name} {_value(value)}" for name, value in values.items() if _is_set(value)]
    given = ", ".join(parts)
    return f"Stage {key} was applied ({given})." if parts else f"Stage {key} was applied."


STAGES: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any], Scope, Citations], str]] = {
    "correct": _correct,
    "deconvolve": _deconvolve,
    "resample": _resample,
    "apply": _apply,
    "predict": _predict,
    "pixels": _pixels,
    "vesselness": _vesselness,
    "threshold": _threshold,
    "label": _label,
    "instances": _instances,
    "skeleton": _skeleton,
    "measure": _measure,
}


def _versions(stored: Mapping[str, Any], cite: Citations) -> str:
    """Python and the libraries that the kind of compute names."""
    names = [part.strip() for part in str(stored["kind"]).rpartition("; ")[2].split(",")]
    cited = cite(*[name.split()[0] for name in names if name and name.split()[0] in ("numpy", "scipy", "numba")])
    listed = ", ".join(["Python " + str(stored["python"]), *[name for name in names if not name.startswith("torch")]])
    return f"Computation used {listed}{cited}."


def _is_set(value: Any) -> bool:
    return value is not None and value is not False and value != "none" and value != [] and value != {}


def _value(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return short(value)
    return ", ".join(map(_value, value)) if isinstance(value, list | tuple) else str(value)
