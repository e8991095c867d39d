"""Gibson & Lanni on 129 x 255 x 255 voxels: chunkflow beside psfmodels.

Oil at NA 1.4, 10 um into water, voxels of 0.2 x 0.1 x 0.1 um. The goal is one second on four cores; one thread is used
here, as in every benchmark. The other models are timed on the same grid. psfmodels is optional.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import Report, Row, options, peer, spread, take_turns

from chunkflow.kernels.optics import Optics, confocal, gibson_lanni, richards_wolf

SHAPE, QUICK_SHAPE = (129, 255, 255), (33, 65, 65)
VOXEL_UM = (0.2, 0.1, 0.1)
OPTICS = Optics(na=1.4, emission_um=0.525, immersion_index=1.515, sample_index=1.33, depth_um=10.0)
GOAL_SECONDS = 1.0


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    report = Report("psf", "Gibson & Lanni beside psfmodels", given, ["scipy", "psfmodels"])
    shape = QUICK_SHAPE if given.quick else SHAPE
    contenders = models(shape)
    psfmodels = peer("psfmodels", report)
    if psfmodels is not None:
        contenders["psfmodels"] = lambda: of_psfmodels(psfmodels, shape)
    for make in contenders.values():
        make()
    times = take_turns(contenders, given.rounds)
    theirs = times["psfmodels"].median if "psfmodels" in times else None
    size = " x ".join(map(str, shape))
    for name in models(shape):
        against = theirs if name == "gibson_lanni" else None
        row = Row(name=f"{name}, {size} [s]", ours=times[name].median, peer="psfmodels", peer_value=against)
        report.rows.append(row)
    limit = Row(
        name=f"gibson_lanni, {size} [s], limit",
        ours=times["gibson_lanni"].median,
        peer="one second",
        peer_value=GOAL_SECONDS,
        goal=1.0,
    )
    report.rows.append(limit)
    report.notes.append(spread(times))
    report.finish()


def models(shape: tuple[int, int, int]) -> dict[str, Callable[[], Any]]:
    """One call per model."""
    return {
        "gibson_lanni": lambda: gibson_lanni(shape, VOXEL_UM, OPTICS),
        "richards_wolf": lambda: richards_wolf(shape, VOXEL_UM, OPTICS),
        "confocal": lambda: confocal(shape, VOXEL_UM, OPTICS, excitation_um=0.488),
    }


def of_psfmodels(psfmodels: Any, shape: tuple[int, int, int]) -> Any:
    """The peer's scalar model of the same optics."""
    return psfmodels.make_psf(
        shape[0],
        nx=shape[2],
        dxy=VOXEL_UM[2],
        dz=VOXEL_UM[0],
        pz=OPTICS.depth_um,
        NA=OPTICS.na,
        wvl=OPTICS.emission_um,
        ns=OPTICS.sample_index,
        ni=OPTICS.immersion_index,
        ni0=OPTICS.immersion_index,
        model="scalar",
    )


if __name__ == "__main__":
    main()
