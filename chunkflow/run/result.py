"""A finished run, opened: arrays, tables and the graph, each loaded when it is first asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chunkflow.errors import IncompleteError, InputNotFoundError, UsageError
from chunkflow.run.batch_status import check_one_result
from chunkflow.run.journal import Journal
from chunkflow.run.places import pass_key, run_folder
from chunkflow.run.stored_tables import StoredParts
from chunkflow.stages.graph import parts_with
from chunkflow.storage.graph_pieces import Part, Piece, pieces_of_curves
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.records import merged_path, read_record
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.tables import StoredTable, read_rows, read_table
from chunkflow.storage.volume import Volume


@dataclass(frozen=True)
class ResultVolume:
    """An array of a result: `[z, y, x]` slices, `.array` (zarr), `.to_dask()`, `.to_xarray()`."""

    volume: Volume

    @property
    def array(self) -> Any:
        """The zarr array (Z, Y, X)."""
        return self.volume.array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels in z, y, x."""
        return self.volume.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self.volume.dtype

    @property
    def voxel_um(self) -> tuple[float, float, float]:
        """Voxel size in um."""
        return self.volume.scale.voxel_um

    def __getitem__(self, key: Any) -> Any:
        return self.volume[key]

    def to_dask(self) -> Any:
        """A lazy dask array of the same chunks."""
        from chunkflow.run.dask import as_dask_array

        return as_dask_array(self.volume.array)

    def to_xarray(self) -> Any:
        """A lazy DataArray with z, y, x in um (needs xarray)."""
        try:
            import xarray
        except ImportError as error:
            raise UsageError("to_xarray needs xarray, which is not installed", "pip install xarray") from error

        scale = self.volume.scale
        axes = zip("zyx", scale.translation_um, scale.voxel_um, self.shape, strict=True)
        coords = {name: origin + step * np.arange(n) for name, origin, step, n in axes}
        return xarray.DataArray(self.to_dask(), dims=("z", "y", "x"), coords=coords)


class Result:
    """The result in an output folder. An array that was not saved is None; a table that no stage made is refused."""

    def __init__(self, path: Place) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Result({str(self.path)!r})"

    @property
    def image(self) -> ResultVolume | None:
        """What the segmentation saw: deconvolved, resampled, or a copy of the input."""
        return self._volume("image.ome.zarr")

    @property
    def probability(self) -> ResultVolume | None:
        """The network's output."""
        return self._volume("probability.ome.zarr")

    @property
    def classes(self) -> ResultVolume | None:
        """Class of every voxel, if `predict` made and the user kept them."""
        return self._volume("image.ome.zarr/labels/classes")

    @property
    def mask(self) -> ResultVolume | None:
        """Foreground, uint8."""
        return self._volume("image.ome.zarr/labels/mask")

    @property
    def labels(self) -> ResultVolume | None:
        """Object ids."""
        return self._volume("image.ome.zarr/labels/objects")

    @property
    def skeleton(self) -> ResultVolume | None:
        """Object ids on the skeleton's voxels, unpruned."""
        return self._volume("image.ome.zarr/labels/skeleton")

    @cached_property
    def objects(self) -> pd.DataFrame:
        """One row per object."""
        return read_table(self.path / "tables", "objects")

    @cached_property
    def branches(self) -> pd.DataFrame:
        """One row per branch."""
        return read_table(self.path / "tables", "branches")

    @cached_property
    def nodes(self) -> pd.DataFrame:
        """One row per node."""
        return read_table(self.path / "tables", "nodes")

    @cached_property
    def contacts(self) -> pd.DataFrame:
        """One row per pair of objects that touch."""
        return read_table(self.path / "tables", "contacts")

    @cached_property
    def networks(self) -> pd.DataFrame:
        """One row per object that has a skeleton."""
        return read_table(self.path / "tables", "networks")

    @cached_property
    def graph_metrics(self) -> pd.DataFrame:
        """One row per object that has a skeleton, where `measure` was asked for it."""
        return read_table(self.path / "tables", "graph_metrics")

    @cached_property
    def regions(self) -> pd.DataFrame:
        """One row per parent region, where `measure` was given regions."""
        return read_table(self.path / "tables", "regions")

    @cached_property
    def seams(self) -> pd.DataFrame:
        """One row per pair of tiles that share a face, where `apply` made the objects."""
        return read_table(self.path / "tables", "seams")

    @cached_property
    def graph(self) -> nx.MultiGraph[Any]:
        """Everything as a multigraph: nodes by node_id, edges by branch_id with `points` (N, 3) in um."""
        return self._graph(self.nodes, self.branches, range(len(self.graph_parts)))

    def graph_of(self, *, objects: int | Collection[int] | None = None, box_um: Any = None) -> nx.MultiGraph[Any]:
        """The part of the graph that belongs to some objects, or whose nodes lie in a box; only that is read.

        Parameters
        ----------
        objects : object ids, or one, of Python or as the tables hold them.
        box_um : ((z, y, x), (z, y, x)), lowest and highest corner in um; branches need both ends inside.

        Raises
        ------
        UsageError : what is given are no ids, or no box.
        """
        corners = None if box_um is None else _corners(box_um)
        folder = self.path / "tables"
        nodes = read_rows(folder, "nodes", objects=objects, box_um=corners)
        own = np.unique(nodes.object_id.to_numpy(np.uint64))
        branches = read_rows(folder, "branches", objects=own)
        branches = branches[branches.node_a.isin(nodes.node_id) & branches.node_b.isin(nodes.node_id)]
        return self._graph(nodes, branches, parts_with(self.graph_parts.merged, own))

    def pass_values(self, name: str) -> dict[str, Any]:
        """What a merge of the run left: a histogram and its threshold, the graph's curves."""
        if name not in self._passes:
            raise InputNotFoundError(f"the run in {self.path} left no {name}", "Check chunkflow status")
        return read_record(merged_path(run_folder(self.path) / "records" / pass_key(name, self._passes[name])))

    @cached_property
    def journal(self) -> Journal:
        """What the run wrote of itself, read once."""
        return Journal.read(run_folder(self.path) / "journal.jsonl")

    @property
    def _passes(self) -> dict[str, str]:
        """Fingerprints of the passes that made this result; a later run that was killed leaves others beside them."""
        return self.journal.published_passes

    @cached_property
    def graph_parts(self) -> StoredParts:
        """Nodes, branches and curves of whole objects, part by part, each read when it is asked for."""
        records = run_folder(self.path) / "records" / pass_key("graph-parts", self._passes["graph-parts"])
        return StoredParts(records, self.pass_values("graph"))

    def graph_pieces(self) -> Iterator[Piece]:
        """The branches of the whole graph with their curves, some of them at a time."""
        return pieces_of_curves(self._sliced)

    @cached_property
    def _sliced(self) -> Sequence[Part]:
        return self.graph_parts.sliced

    def _graph(self, nodes: pd.DataFrame, branches: pd.DataFrame, parts: Iterable[int]) -> nx.MultiGraph[Any]:
        graph: nx.MultiGraph[Any] = nx.MultiGraph()
        graph.add_nodes_from((row["node_id"], row) for row in nodes.to_dict("records"))
        curves: dict[int, NDArray[np.float64]] = {}
        for part in (self.graph_parts[number] for number in parts):
            points, offsets = part.curves["points_um"], part.curves["offsets"]
            curves |= dict(zip(part.branches["branch_id"].tolist(), np.split(points, offsets[1:-1]), strict=False))
        for row in branches.to_dict("records"):
            branch = int(row["branch_id"])
            data = {str(name): value for name, value in row.items()}
            graph.add_edge(row["node_a"], row["node_b"], key=branch, points=curves[branch], **data)
        return graph

    def _volume(self, name: str) -> ResultVolume | None:
        path = self.path / name
        return ResultVolume(open_volume(path)) if (path / "0").is_dir() else None


def uncertified(result: Result) -> int:
    """How many objects have a skeleton that is not proven to be the whole volume's; 0 without a skeleton stage."""
    if not (result.path / "tables" / "nodes.parquet").is_file():
        return 0
    if (result.path / "tables" / "objects.parquet").is_file():
        table = StoredTable(result.path / "tables", "objects")
        return sum(int((~rows["certified"]).sum()) for rows in table.batches("certified"))
    merged = result.pass_values("graph")  # without measure: the loops of the mask are not counted
    return int((merged["open_count"] > 0).sum())


def shortfall(result: Result) -> IncompleteError | None:
    """What a complete result lacks, if anything: blocks that stand as background, or proofs of skeletons."""
    journal = result.journal
    holes = sum(len(journal.state(fingerprint).holes) for fingerprint in journal.published_passes.values())
    if holes:
        are = "1 block was set aside and is" if holes == 1 else f"{holes} blocks were set aside and are"
        return IncompleteError(
            f"{are} background in the result; everything else is written",
            f"See chunkflow status {result.path}; the command without --allow-holes tries them again",
        )
    if count := uncertified(result):
        objects = "1 object" if count == 1 else f"{count} objects"
        return IncompleteError(
            f"the skeletons of {objects} are not certified; all results are written",
            "See the column certified of tables/objects",
        )
    return None


def open_result(path: str | Place) -> Result:
    """Open the result of a complete run.

    Raises
    ------
    InputNotFoundError : the folder holds no run.
    UsageError : it holds a batch.
    IncompleteError : the run has not ended well yet.
    """
    folder = place_of(path)
    check_one_result(folder)
    journal_path = run_folder(folder) / "journal.jsonl"
    if not journal_path.exists():
        raise InputNotFoundError(f"{path} holds no run", "Give the output folder of chunkflow run")
    journal = Journal.read(journal_path)
    if not journal.is_published or journal.publishing is not None:
        raise IncompleteError(f"the run in {path} is not complete", "Run the same command again")
    return Result(folder)


def _corners(box_um: Any) -> NDArray[np.float64]:
    """(2, 3) lowest and highest corner of a box."""
    try:
        corners = np.asarray(box_um, float)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.shape != (2, 3) or not (corners[0] <= corners[1]).all():  # nor where any is NaN
        raise UsageError(f"box_um {box_um!r} is no box", "Give ((z, y, x), (z, y, x)) in um, the lowest corner first")
    return corners
