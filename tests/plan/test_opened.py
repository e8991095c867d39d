"""Masks, from whatever file: the same results, and the same refusals."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import chunkflow as cf
from chunkflow.errors import InputChangedError, InputError, InputNotFoundError
from chunkflow.plan.plan import Plan
from chunkflow.run.probe import probe
from chunkflow.testing.suites import differences, random_volume, write_volume

SHAPE = (13, 27, 31)
VOXEL_UM = (0.3, 0.1, 0.1)
STAGES = [cf.Threshold(method="fixed", value=560.0), cf.Label(), cf.Measure()]


def cells() -> np.ndarray:
    """A mask with a slanted face, of one value."""
    return 255 * (np.indices(SHAPE).sum(axis=0) < 30).astype(np.uint8)


def planned(folder: Path, mask: Path, output: str = "out", **options: Any) -> Plan:
    source = folder / "in.ome.zarr"
    if not source.exists():
        write_volume(source, random_volume("image", SHAPE, np.random.default_rng(1)), VOXEL_UM)
    pipeline = cf.Pipeline(STAGES, input=cf.InputOptions(mask=str(mask), **options))
    return pipeline.plan(source, folder / output, block=(5, 14, 9))


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}])
def test_a_tiff_masks_as_the_image_of_its_voxels_does(how: dict[str, Any], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cells.tif", cells(), **how)
    write_volume(tmp_path / "cells.ome.zarr", cells(), VOXEL_UM)
    one, other = (
        planned(tmp_path, tmp_path / name, name[-4:]).run(on="serial") for name in ("cells.tif", "cells.ome.zarr")
    )
    assert len(one.objects) > 3 and one.labels[:].any() and not one.labels[:][cells() == 0].any()
    assert differences(one, other) == []


def test_a_part_of_the_input_is_masked_by_the_same_part_of_a_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cells.tif", cells())
    result = planned(tmp_path, tmp_path / "cells.tif", region="2:11,5:27,3:30").run(on="serial")
    inside = cells()[2:11, 5:27, 3:30] > 0
    image = random_volume("image", SHAPE, np.random.default_rng(1))[2:11, 5:27, 3:30]
    np.testing.assert_array_equal(result.labels[:] > 0, inside & (image > 560))


def test_a_mask_that_is_another_file_later_is_told_and_the_input_is_known_by_it(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, cells())
    before = planned(tmp_path, path)
    before.run(on="serial")
    tifffile.imwrite(path, cells()[:, ::-1])
    os.utime(path, (7, 7))
    after = planned(tmp_path, path)
    assert after.fingerprints("cpu")["input"] != before.fingerprints("cpu")["input"]
    with pytest.raises(InputChangedError, match="mask: time of its last change"):
        after.run(on="serial")


def test_a_run_is_probed_with_a_tiff_as_its_mask(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cells.tif", cells())
    assert probe(planned(tmp_path, tmp_path / "cells.tif"), on="serial").seconds[1] > 0


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", cells()[:-1])
    with pytest.raises(InputError, match=r"the mask .*small.tif: shape \(12, 27, 31\), the input \(13, 27, 31\)"):
        planned(tmp_path, tmp_path / "small.tif")
    tifffile.imwrite(tmp_path / "two.tif", np.stack((cells(),) * 2, axis=1), imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(InputError, match="two.tif holds 2 channels.*Save one channel"):
        planned(tmp_path, tmp_path / "two.tif")
    with pytest.raises(InputNotFoundError, match="no such file"):
        planned(tmp_path, tmp_path / "none.tif")
    (tmp_path / "cells.png").write_bytes(b"1")
    with pytest.raises(InputError, match="no format that can be read.*TIFF stack"):
        planned(tmp_path, tmp_path / "cells.png")
