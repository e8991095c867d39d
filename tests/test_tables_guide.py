"""docs/tables.md tells of every table and every column that a run can write."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

import chunkflow as cf
from chunkflow.storage.importing import import_image
from chunkflow.storage.tiff_image import write_tiff

GUIDE = Path(__file__).parents[1] / "docs" / "tables.md"
CHANNEL = "er"


def section(text: str, table: str) -> str:
    """What the guide says of a table: the part whose heading names it."""
    parts = re.split(r"^## ", text, flags=re.MULTILINE)
    heading = {"graph_metrics": "The shape of a network"}.get(table)
    return next(
        part for part in parts if part.startswith(heading or "") and (heading or table in part.partition("\n")[0])
    )


def expanded(word: str) -> list[str]:
    """`radius_{mean,min}_um` as the two names it stands for."""
    pieces = re.split(r"\{([a-z,]+)\}", word)
    return ["".join(chosen) for chosen in product(*(piece.split(",") for piece in pieces))]


def documented(text: str, table: str) -> list[re.Pattern[str]]:
    words = re.findall(r"`([^`\s]+)`", section(text, table))
    names = [name.replace("{CHANNEL}", CHANNEL) for word in words for name in expanded(word)]
    return [re.compile(re.escape(name).replace(r"\*", ".+")) for name in names]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guide")
    rng = np.random.default_rng(0)
    image = rng.poisson(5, (2, 8, 30, 30)).astype(np.uint16)
    image[:, 3:5, 4:8, 3:27] += 200
    image[:, 3:5, 4:26, 12:16] += 200
    zarr.create_array(folder / "raw", data=image)
    import_image(
        folder / "raw", folder / "in.ome.zarr", axes="CZYX", voxel_um=(0.2, 0.1, 0.1), channels=["mito", CHANNEL]
    )
    regions = np.ones(image.shape[1:], np.uint8)
    write_tiff(folder / "regions.tif", regions, (0.2, 0.1, 0.1))
    measure = {
        "channels": [CHANNEL],
        "regions": str(folder / "regions.tif"),
        "oriented_extents": True,
        "graph_metrics": True,
    }
    pipeline = cf.Pipeline.from_dict(
        {
            "version": 1,
            "input": {"channel": "mito"},
            "stages": [
                {"threshold": {"method": "otsu"}},
                {"label": {"min_voxels": 4}},
                "skeleton",
                {"measure": measure},
            ],
        }
    )
    pipeline.plan(folder / "in.ome.zarr", folder / "out").run(on="serial")
    return folder / "out" / "tables"


def test_the_guide_tells_of_every_column_of_every_table(tables: Path) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    written = {path.stem: pq.read_schema(path).names for path in tables.glob("*.parquet")}
    assert set(written) == {"objects", "contacts", "networks", "regions", "nodes", "branches", "graph_metrics"}
    missing = {}
    for table, columns in written.items():
        known = documented(text, table)
        common = {"object_id", "region_id"}
        bare = {column: re.sub(r"_(sd|se)$", "", column) for column in columns if column not in common}
        missing[table] = [
            column
            for column, short in bare.items()
            if not any(k.fullmatch(column) or k.fullmatch(short) for k in known)
        ]
    assert not any(missing.values()), missing


def test_columns_with_a_length_in_them_carry_its_unit(tables: Path) -> None:
    for path in tables.glob("*.parquet"):
        for field in pq.read_schema(path):
            unit = {"um": b"um", "um2": b"um^2", "um3": b"um^3", "vox": b"voxel"}.get(field.name.rpartition("_")[2])
            assert (field.metadata or {}).get(b"unit", unit) == unit or field.name.startswith("bbox_"), field.name
            assert unit is None or field.metadata[b"unit"] == unit
