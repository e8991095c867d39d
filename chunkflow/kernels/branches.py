"""Branches and nodes of a skeleton graph as curves and as the columns of their tables.

The staircase of a 26-connected path is about a tenth too long, so chains are smoothed before they are summed. Every sum
runs along its chain in the chain's own direction, so it has the same bits whatever the blocks were.

Scale: linear in the chains' points, on one machine, in memory: about 0.1 kB for each point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.graph import SkeletonGraph

Triple = tuple[float, float, float]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NODE_KINDS = np.array(["end", "junction", "isolated", "cycle"])
FORMS = np.array(["tubes", "sheet", "blob"])
SHEET = 1.5
SHORT = 4
BAR = 1.8
BRANCH_KINDS = np.array(["junction-junction", "end-junction", "end-end", "cycle"])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Polylines:
    """The branches as curves from node to node: branch e is `points_um[offsets[e]:offsets[e + 1]]`.

    points_um : (P, 3) float64, z, y, x. The first and last point of a branch are its nodes' positions, which are
        followed by the voxel where the chain touches the node if that is another point.
    radius_um : (P,) float64.
    offsets : (E + 1,) int64.
    """

    points_um: Floats
    radius_um: Floats
    offsets: Ints


def polylines(
    graph: SkeletonGraph,
    *,
    spacing_um: Triple,
    unit_um: float,
    translation_um: Triple = (0.0, 0.0, 0.0),
    smooth: bool = False,
) -> Polylines:
    """Branches as curves in um, from the position of `node_a` to that of `node_b`.

    Parameters
    ----------
    translation_um : position of voxel (0, 0, 0); the centre of voxel i lies at i * spacing + translation.
    smooth : each point becomes the mean of up to five around it, as many on either side as fit in the chain. So the
        ends stay, their neighbours are means of three, and the node of a loop stays.
    """
    a, b = graph.node_a, graph.node_b
    first, last = graph.offsets[:-1], graph.offsets[1:] - 1
    position = graph.nodes.position
    before = np.any(position[a] != graph.points[first], axis=1)
    after = np.any(position[b] != graph.points[last], axis=1)
    counts = np.diff(graph.offsets)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts + before + after)))
    place = np.arange(len(graph.points)) + np.repeat(offsets[:-1] + before - first, counts)
    points = np.empty((offsets[-1], 3))
    d2 = np.empty(offsets[-1])
    points[place], d2[place] = graph.points, graph.d2
    points[offsets[:-1]], points[offsets[1:] - 1] = position[a], position[b]
    d2[offsets[:-1]], d2[offsets[1:] - 1] = graph.nodes.d2[a], graph.nodes.d2[b]
    points *= np.asarray(spacing_um)
    if smooth:
        points = _smoothed(points, offsets)
    return Polylines(points_um=points + np.asarray(translation_um), radius_um=np.sqrt(d2) * unit_um, offsets=offsets)


def branch_columns(graph: SkeletonGraph, *, spacing_um: Triple, unit_um: float) -> dict[str, NDArray[np.generic]]:
    """The table of branches, one row per branch of a pruned graph.

    length_um is that of the smoothed curve from node to node; length_to_tips_um adds the radius at each free end: of
    what a skeleton lacks of a straight tube, a third for a radius of 2.5 voxels, two thirds from 6 (measured at t0 = 1,
    flat ends; a tenth less of round ones); length_voxels_um is that of the curve through the voxel centres, chord_um
    the distance between the nodes, tortuosity length_um / chord_um (NaN for loops, whose chord is 0).
    The radii are taken over the chain's voxels, the SD with divisor n. tube_surface_um2 and tube_volume_um3 are those
    of `tubes` along the smoothed curve. kind is "cycle" for an isolated cycle, otherwise what the two nodes are; a
    self-loop at a junction is "junction-junction".
    """
    raw = polylines(graph, spacing_um=spacing_um, unit_um=unit_um)
    smooth = _smoothed(raw.points_um, raw.offsets)
    length = _lengths(smooth, raw.offsets)
    tube = tubes(smooth, raw.radius_um, raw.offsets)
    position_um = graph.nodes.position * np.asarray(spacing_um)
    chord = np.sqrt(((position_um[graph.node_a] - position_um[graph.node_b]) ** 2).sum(axis=1))
    tortuosity = np.divide(length, chord, out=np.full(len(length), np.nan), where=chord > 0)
    radius = _radius_statistics(np.sqrt(graph.d2.astype(np.float64)) * unit_um, graph.offsets)
    is_end = graph.degree == 1
    ends = np.stack((graph.node_a, graph.node_b), axis=1)
    node_radius = np.sqrt(graph.nodes.d2.astype(np.float64)) * unit_um
    kind = is_end[graph.node_a].astype(np.int64) + is_end[graph.node_b]
    kind[graph.is_ring] = 3
    return {
        "branch_id": np.arange(len(length)),
        "object_id": graph.branch_label,
        "node_a": graph.node_a,
        "node_b": graph.node_b,
        "length_um": length,
        "length_to_tips_um": length + np.where(is_end[ends], node_radius[ends], 0.0).sum(axis=1),
        "length_voxels_um": _lengths(raw.points_um, raw.offsets),
        "chord_um": chord,
        "tortuosity": tortuosity,
        "radius_mean_um": radius[:, 0],
        "radius_min_um": radius[:, 1],
        "radius_max_um": radius[:, 2],
        "radius_sd_um": radius[:, 3],
        "tube_surface_um2": tube[:, 0],
        "tube_volume_um3": tube[:, 1],
        "kind": BRANCH_KINDS[kind],
    }


def node_columns(
    graph: SkeletonGraph, *, spacing_um: Triple, unit_um: float, translation_um: Triple = (0.0, 0.0, 0.0)
) -> dict[str, NDArray[np.generic]]:
    """The table of nodes, one row per node of a pruned graph.

    kind is "isolated" at degree 0, "end" at 1, "cycle" for the node of an isolated cycle, otherwise "junction".
    radius_um is the largest of the node's voxels.
    """
    degree = graph.degree
    kind = np.ones(len(degree), np.int64)
    kind[degree == 1] = 0
    kind[degree == 0] = 2
    kind[graph.node_a[graph.is_ring]] = 3
    z, y, x = (graph.nodes.position * np.asarray(spacing_um) + np.asarray(translation_um)).T
    return {
        "node_id": np.arange(len(degree)),
        "object_id": graph.nodes.label,
        "z_um": z,
        "y_um": y,
        "x_um": x,
        "degree": degree,
        "radius_um": np.sqrt(graph.nodes.d2.astype(np.float64)) * unit_um,
        "kind": NODE_KINDS[kind],
    }


def forms(
    volume_um3: Floats,
    surface_um2: Floats,
    length_um: Floats,
    branches: Ints,
    inscribed_um: Floats,
    *,
    voxel_um: float,
) -> NDArray[np.str_]:
    """What an object is to a curve skeleton: (K,) "tubes", "sheet", "blob", or "" where no radius is known.

    Surface times half the thickness over volume is 1 for a sheet, 2 for a cylinder and 3 for a ball, whatever they are
    bent to; below `SHEET` the skeleton is an arbitrary net of lines in a sheet. The inscribed radius stands for half
    the thickness, so that a sheet with a lump is not told. Of what is few voxels wide both numbers are too small, and
    most tubes of up to 2.5 voxels radius would be sheets. So a sheet also has a net of branches that are in the mean
    shorter than `SHORT` widths (8 radii; in sheets up to 7.4 were measured), or `BAR` times the volume of a square bar
    as wide, and as long as the skeleton with its ends (tubes have up to 1.7). Of the others, one whose skeleton is no
    longer than it is wide (twice the inscribed radius) is a blob.

    Parameters
    ----------
    length_um, branches : (K,) of the skeleton: length, and number of branches.
    inscribed_um : (K,), NaN where it is not known.
    voxel_um : half of it is taken off the radius, which ends at the centre of the nearest voxel outside.
    """
    half = np.maximum(inscribed_um - voxel_um / 2, 0)
    width = 2 * inscribed_um
    is_flat = surface_um2 * half < SHEET * volume_um3
    is_net = (branches > 1) & (length_um < SHORT * width * branches)
    is_wide = volume_um3 > BAR * (length_um + 2 * width) * width**2
    found = np.where(is_flat & (is_net | is_wide), FORMS[1], np.where(length_um <= width, FORMS[2], FORMS[0]))
    return np.where(np.isfinite(inscribed_um), found, "")


@njit(cache=True, nogil=True)
def _smoothed(points: Floats, offsets: Ints) -> Floats:
    """(P, 3) the mean of up to five points around each, as many on either side as its chain has."""
    smooth = np.empty_like(points)
    for b in range(offsets.size - 1):
        for p in range(offsets[b], offsets[b + 1]):
            reach = min(2, p - offsets[b], offsets[b + 1] - 1 - p)
            for axis in range(3):
                total = 0.0
                for q in range(p - reach, p + reach + 1):
                    total += points[q, axis]
                smooth[p, axis] = total / (2 * reach + 1)
    return smooth


@njit(cache=True, nogil=True)
def _lengths(points: Floats, offsets: Ints) -> Floats:
    """(E,) length of each polyline, summed from its first point to its last."""
    lengths = np.zeros(offsets.size - 1)
    for b in range(lengths.size):
        for p in range(offsets[b] + 1, offsets[b + 1]):
            dz, dy, dx = (
                points[p, 0] - points[p - 1, 0],
                points[p, 1] - points[p - 1, 1],
                points[p, 2] - points[p - 1, 2],
            )
            lengths[b] += np.sqrt(dz * dz + dy * dy + dx * dx)
    return lengths


@njit(cache=True, nogil=True)
def tubes(points_um: Floats, radius_um: Floats, offsets: Ints) -> Floats:
    """Lateral surface and volume of each branch as a chain of truncated cones.

    Between neighbouring points at a distance h with radii r and s lies the cone of lateral surface pi (r + s)
    sqrt(h^2 + (r - s)^2) and of volume pi h (r^2 + r s + s^2) / 3, as tracings of neurons are measured (Carnevale &
    Hines, The NEURON Book, 2006, chapter 5; `segment_area` and `segment_volume` of NeuroM).

    It takes every cross-section for a disc as wide as the distance map says in the chain's point: the largest disc
    inside a cross-section that is not round, so flat branches come out too small. So do round ones, since chains run up
    to half a voxel beside the axis: straight tubes of 2.5, 4, 6 and 9 voxels radius in random directions have a surface
    7, 4, 3 and 2 % and a volume 15, 11, 7 and 6 % too small. The caps of free ends, over a radius each, are not in it.
    What lies inside a junction belongs to each of the branches that meet there, so neither number adds up to that of
    the object; the voxels are counted once in its `volume_um3`.

    Parameters
    ----------
    points_um : (P, 3) float64; branch e is `points_um[offsets[e]:offsets[e + 1]]`.
    radius_um : (P,) float64.

    Returns
    -------
    (E, 2) float64, um^2 and um^3, summed from the first point of each branch to its last.
    """
    found = np.zeros((offsets.size - 1, 2))
    for b in range(offsets.size - 1):
        for p in range(offsets[b] + 1, offsets[b + 1]):
            dz, dy, dx = (
                points_um[p, 0] - points_um[p - 1, 0],
                points_um[p, 1] - points_um[p - 1, 1],
                points_um[p, 2] - points_um[p - 1, 2],
            )
            squared = dz * dz + dy * dy + dx * dx
            r, s = radius_um[p - 1], radius_um[p]
            found[b, 0] += np.pi * (r + s) * np.sqrt(squared + (r - s) ** 2)
            found[b, 1] += np.pi * np.sqrt(squared) * (r * r + r * s + s * s) / 3
    return found


@njit(cache=True, nogil=True)
def _radius_statistics(radius: Floats, offsets: Ints) -> Floats:
    """(E, 4) mean, minimum, maximum and standard deviation (divisor n) along each chain."""
    statistics = np.empty((offsets.size - 1, 4))
    for b in range(offsets.size - 1):
        chain = radius[offsets[b] : offsets[b + 1]]
        total, squares = 0.0, 0.0
        for value in chain:
            total += value
        mean = total / chain.size
        for value in chain:
            squares += (value - mean) ** 2
        statistics[b] = mean, chain.min(), chain.max(), np.sqrt(squares / chain.size)
    return statistics
