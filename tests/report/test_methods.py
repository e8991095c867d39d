import re

import pytest

import chunkflow as cf
from chunkflow.plan.pipeline import STAGES as KNOWN
from chunkflow.report.methods import NAMES, STAGES, Citations, Scope, methods_text
from chunkflow.stages.threshold import Threshold


def stored(*stages, **input):
    pipeline = cf.Pipeline.from_dict({"version": 1, "input": input, "stages": list(stages)})
    return {
        "chunkflow": "1.2.3",
        "python": "3.11.7",
        "kind": "cpu Somebody's; x86_64; numpy 2.4.6, scipy 1.17.1, numba 0.68.1",
        "pipeline": pipeline.to_dict(),
        "plan": {
            "input": {"voxel_um": [0.2, 0.056, 0.056]},
            "output": {"voxel_um": [0.056, 0.056, 0.056]},
            "facts": {"psf": {"model": ["gaussian", "given"], "fwhm_um": [[0.6, 0.25, 0.25], "given"]}},
        },
    }


WHOLE = (
    {"deconvolve": {"psf": {"fwhm_um": [0.6, 0.25, 0.25]}, "iterations": 12}},
    {"resample": {"voxel_um": "isotropic"}},
    {"threshold": {"method": "li", "smooth_um": 0.045}},
    {"label": {"min_volume_um3": 0.088}},
    {"skeleton": {"prune_radii": 1.5}},
    "measure",
)


def test_every_parameter_that_matters_is_in_the_paragraph_with_its_unit():
    text = methods_text(stored(*WHOLE, channel="mito"))
    for words in (
        "0.2 × 0.056 × 0.056 µm",
        "channel mito",
        "12 iterations",
        "0.6 × 0.25 × 0.25 µm full width",
        "voxels of 0.056 × 0.056 × 0.056 µm",
        "σ = 0.045 µm",
        "Li's minimum cross entropy",
        "at least 0.088 µm³",
        "shorter than 1.5 local radii",
        "chunkflow 1.2.3",
        "Python 3.11.7, numpy 2.4.6, scipy 1.17.1",
    ):
        assert words in text


def test_references_are_numbered_as_they_are_cited_and_none_is_without_a_citation():
    paragraph, _, listed = methods_text(stored(*WHOLE)).partition("\n\nReferences\n")
    cited = [int(n) for group in re.findall(r"\[([\d, ]+)\]", paragraph) for n in group.split(", ")]
    numbers = [int(n) for n in re.findall(r"^\[(\d+)\]", listed, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert list(dict.fromkeys(cited)) == numbers
    assert "Li CH" in listed
    assert "Richardson WH" in listed
    assert "Otsu" not in listed


def test_graph_metrics_are_told_with_where_they_are_from():
    text = methods_text(stored("threshold", "label", "skeleton", {"measure": {"graph_metrics": True}}))
    first, second = re.search(r"random graphs and lattices of the same degrees \[(\d+), (\d+)\]\.", text).groups()
    assert f"[{first}] Maslov S" in text
    assert f"[{second}] Telesford QK" in text
    assert "lattices" not in methods_text(stored(*WHOLE))


def test_voxels_that_were_left_out_are_told():
    text = methods_text(stored(*WHOLE, mask="cells/inside.ome.zarr", nodata=7, nan="zero"))
    assert "Only voxels inside the mask inside.ome.zarr were used." in text
    assert "Voxels of the value 7 were left out." in text
    assert "Voxels without a number were read as 0." in text
    assert not re.search("mask|left out|without a number", methods_text(stored(*WHOLE)))


@pytest.mark.parametrize("kind", ["labels", "mask"])
def test_of_labels_and_masks_no_intensities_are_told(kind):
    stages = ["skeleton", "measure"] if kind == "labels" else ["label", "measure"]
    text = methods_text(stored(*stages, kind=kind))
    assert "surfaces are Crofton estimates" in text and "intensities" not in text
    assert "intensities are those of the raw image" in methods_text(stored(*WHOLE))


def test_a_shared_threshold_is_told_with_its_rule():
    text = methods_text(
        stored({"threshold": {"method": "fixed", "value": 81.5}}, "label"),
        Scope(images=12, shared_threshold=(81.5, "otsu")),
    )
    assert "12 of them" in text
    assert "81.5, the threshold of Otsu's method [2] for the histograms of all images added up" in text


def test_a_paragraph_may_end_with_sentences_that_cite_too():
    def more(cite: Citations) -> str:
        return f"Then it was compared{cite('superplots')}."

    text = methods_text(stored("threshold", "label"), Scope(more=(more,)))
    number = re.search(r"Then it was compared \[(\d+)\]\.", text)[1]
    assert f"[{number}] Lord SJ" in text


def test_every_stage_and_every_method_of_thresholds_has_words():
    assert set(KNOWN) <= set(STAGES)
    methods = {value for value in Threshold.__annotations__ and NAMES}
    assert methods >= {"otsu", "li", "sauvola", "niblack", "multi-otsu", "kmeans"}


@pytest.mark.parametrize("method", ["otsu", "sauvola"])
def test_each_image_has_its_own_threshold_where_nothing_else_is_said(method):
    window = {"window_um": 5} if method == "sauvola" else {}
    text = methods_text(stored({"threshold": {"method": method, **window}}, "label"), Scope(images=3))
    assert ("of each image" in text) == (method == "otsu")
    assert ("in a window of 5 µm" in text) == (method == "sauvola")
