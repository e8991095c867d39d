"""Three stacks of budding yeast as one batch, beside the lengths that MitoGraph reports.

    python examples/batch.py DATA_FOLDER [OUT]

The same as one command, without the comparison:

    chunkflow run examples/mitochondria.yaml 'DATA_FOLDER/yeast_mito_*.tif' -o OUT --voxel-um 0.2 0.056 0.056

DATA_FOLDER holds yeast_mito_01.tif, yeast_mito_03.tif and yeast_mito_05.tif of the MitoGraphTools example data
(https://github.com/vianamp/MitoGraphTools). OUT, `batch-out` by default, gets summary.csv, a contact sheet and a result
for each; a second call finds them and only prints the table.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd

import chunkflow as cf
from chunkflow.run.batch import Options, run_batch

PIPELINE = Path(__file__).with_name("mitochondria.yaml")
VOXEL_UM = (0.2, 0.056, 0.056)
PUBLISHED_UM = {"yeast_mito_01.tif": 46.57995, "yeast_mito_03.tif": 15.97084, "yeast_mito_05.tif": 16.01066}
"""Total length that MitoGraph reports for each stack."""


def table(data: Path, out: Path, options: Options) -> pd.DataFrame:
    """Run the batch; one row for each stack."""
    pipeline = cf.Pipeline.from_yaml(PIPELINE)
    pipeline = replace(pipeline, input=replace(pipeline.input, voxel_um=VOXEL_UM))
    done = run_batch(pipeline, [data / name for name in PUBLISHED_UM], out, options=options)
    found = done.summary.set_index("file")[["length_um", "mean_diameter_um", "objects", "loops"]]
    found.insert(0, "mitograph_um", pd.Series(PUBLISHED_UM))
    found.insert(2, "ratio", found["length_um"] / found["mitograph_um"])
    return found


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path("batch-out"))
    given = parser.parse_args()
    print(table(given.data, given.out, Options()).round(3).to_string())
    print(f"\n{given.out / 'summary.csv'}\n{given.out / 'index.html'}")


if __name__ == "__main__":
    main()
