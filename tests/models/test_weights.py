"""Networks that come with the package: small, whole, the ones their cards describe, and as good as they say."""

import re
from pathlib import Path

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.models import digest_of, load_model
from chunkflow.models import load as models
from chunkflow.synth.crowds import VOXEL_UM
from chunkflow.synth.mitochondria import HARDER, ORDINARY, Ranges, mitochondria_stack
from chunkflow.testing.memory import run_in_memory

FOLDER = Path(models.__file__).parent / "weights" / "mitochondria"
SHAPE = (64, 96, 96)


def test_the_folder_takes_at_most_3_mb() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 3_000_000


def test_the_card_states_the_digest_of_the_files() -> None:
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    (stated,) = re.findall(r"\b[0-9a-f]{64}\b", card)
    assert stated == digest_of(FOLDER)


def test_its_file_says_how_it_is_used() -> None:
    model = load_model(FOLDER)
    assert (model.in_channels, model.out_channels) == (1, 1)
    assert model.usage.outputs == ("mitochondria",)
    assert model.usage.activation == "sigmoid"
    assert model.usage.voxel_um == (VOXEL_UM,) * 3
    assert model.usage.threshold is not None
    assert model.usage.normalization.kind == "percentiles"
    assert model.usage.deconvolved is True


@pytest.mark.parametrize(("ranges", "least"), [(ORDINARY, 0.91), (HARDER, 0.87)])
def test_dice_on_a_stack_that_it_never_saw_is_near_the_cards_mean(ranges: Ranges, least: float) -> None:
    """Single stacks differ by a few per cent, so the bounds are below the card's means."""
    stack = mitochondria_stack(10_003, ranges, SHAPE)
    label = stack.outline(1.0)
    assert label.mean() > 0.01
    left = run_in_memory(
        [
            cf.Correct(background_percentile=40),
            cf.Deconvolve(psf=cf.Psf(fwhm_um=stack.fwhm_um), iterations=40),
            cf.Predict(path="mitochondria"),
            cf.Label(),
        ],
        stack.image,
        block=(4096, 4096, 4096),
        voxel_um=(VOXEL_UM,) * 3,
    )
    found = left.arrays["labels"] > 0
    dice = 2 * np.count_nonzero(found & label) / (np.count_nonzero(found) + np.count_nonzero(label))
    assert dice > least
