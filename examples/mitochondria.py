"""Mitochondria of budding yeast: three stacks, one pipeline, lengths beside those that MitoGraph reports.

    python examples/mitochondria.py [DATA_FOLDER [OUT]]

DATA_FOLDER holds yeast_mito_01.tif, yeast_mito_03.tif and yeast_mito_05.tif of the MitoGraphTools example data
(https://github.com/vianamp/MitoGraphTools). OUT, `mitochondria-out` by default, gets an OME-Zarr image and a result
for each; a second call finds them and only prints the table. Without DATA_FOLDER one stack of the same layout is drawn,
and its length is compared with the truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

import chunkflow as cf
from chunkflow.report.pictures import contrast_window, gray
from chunkflow.run.synthesise import synthesise
from chunkflow.storage.importing import import_image

PIPELINE = Path(__file__).with_name("mitochondria.yaml")
VOXEL_UM = (0.2, 0.056, 0.056)
PUBLISHED_UM = {"yeast_mito_01": 46.57995, "yeast_mito_03": 15.97084, "yeast_mito_05": 16.01066}
"""Total length that MitoGraph reports for each stack."""


# %% One stack
def run_stack(tiff: Path, out: Path, block: tuple[int, int, int] | None = None) -> cf.Result:
    """Import one stack and run the pipeline on it, in this process; what is there already is used again."""
    image = out / f"{tiff.stem}.ome.zarr"
    if not image.exists():
        import_image(tiff, image, voxel_um=VOXEL_UM)
    return cf.Pipeline.from_yaml(PIPELINE).plan(image, out / tiff.stem, block=block).run(on="serial")


# %% What MitoGraph's users know
def summary(result: cf.Result, published_um: float) -> dict[str, float | int]:
    """One row of the table: the network as MitoGraph's users know it."""
    branches, nodes, objects = result.branches, result.nodes, result.objects
    length = branches["length_um"].sum()
    return {
        "published_um": published_um,
        "length_um": length,
        "ratio": length / published_um,
        "diameter_um": 2 * np.average(branches["radius_mean_um"], weights=branches["length_um"]),
        "volume_um3": objects["volume_um3"].sum(),
        "components": int(objects["b0"].sum()),
        "loops": int(objects["b1"].sum()),
        "free_ends": int((nodes["kind"] == "end").sum()),
        "junctions": int((nodes["kind"] == "junction").sum()),
    }


# %% All stacks
def table(data: Path, out: Path) -> pd.DataFrame:
    """Run every stack; one row for each."""
    rows = {name: summary(run_stack(data / f"{name}.tif", out), um) for name, um in PUBLISHED_UM.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def drawn(out: Path) -> tuple[cf.Result, float]:
    """A synthetic stack of the same layout through the same pipeline, and its true length in um."""
    truth = synthesise(out / "synthetic", shape=(44, 200, 200), voxel_um=VOXEL_UM, seed=2)
    plan = cf.Pipeline.from_yaml(PIPELINE).plan(out / "synthetic" / "image.ome.zarr", out / "drawn")
    return plan.run(on="serial"), float(truth["length_um"])


# %% A picture
def picture(result: cf.Result) -> Image.Image:
    """Looking down z: the restored image, and the skeleton in yellow over it."""
    seen = result.image[...].max(axis=0)
    shown = np.repeat(gray(seen, contrast_window([seen]))[..., None], 3, axis=2)
    shown[result.skeleton[...].max(axis=0) > 0] = (255, 220, 40)
    return Image.fromarray(shown).resize((600, 600), Image.Resampling.NEAREST)


# %% end
def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the three TIFF files")
    parser.add_argument("out", type=Path, nargs="?", default=Path("mitochondria-out"), help="folder of the results")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    found = table(given.data, given.out) if given.data else pd.DataFrame({"drawn": summary(*drawn(given.out))}).T
    with pd.option_context("display.width", 160):
        print(found.to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
