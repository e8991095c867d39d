"""A plan as JSON values: what `plan --json` prints, and what `status` and reports read of a run later."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chunkflow.plan.plan import Plan


def plan_values(plan: Plan) -> dict[str, Any]:
    """All that a run will do, as JSON holds it."""
    return {
        "input": {
            "path": plan.input.path,
            "shape": list(plan.input.shape),
            "dtype": str(plan.input.dtype),
            "voxel_um": list(plan.input.scale.voxel_um),
            "missing_chunks": int(plan.input_identity.get("missing", 0)),
        },
        "output": {"path": str(plan.output), "shape": list(plan.shape), "voxel_um": list(plan.scale.voxel_um)},
        "block": list(plan.block),
        "passes": [
            {
                "name": p.name,
                "units": p.units,
                "merge": p.draft.merge is not None,
                "shape": list(p.draft.grid.shape),
                "core": list(p.draft.grid.core),
                "halo": list(p.halo),
                "read_amplification": round(p.draft.grid.read_amplification(p.halo), 3) if p.reads else None,
                "reads": list(p.reads),
                "writes": [spec.name for spec in p.draft.writes],
                "peak_bytes": p.peak_bytes,
                "device_bytes": p.device_bytes,
                "read_bytes": moved.read_bytes,
                "written_bytes": moved.written_bytes,
                "read_files": moved.read_files,
                "written_files": moved.written_files,
            }
            for p, moved in zip(plan.passes, map(plan.traffic, plan.passes), strict=True)
        ],
        "arrays": [
            {
                "name": a.name,
                "shape": list(a.layout.shape),
                "dtype": a.layout.dtype,
                "chunk": list(a.layout.chunk),
                "shard": list(a.layout.shard) if a.layout.shard else None,
                "zarr_format": a.layout.zarr_format,
                "bytes": a.nbytes,
                "kept": a.kept,
                "producer": a.producer,
            }
            for a in plan.arrays.values()
        ],
        "disk": asdict(plan.disk),
        "facts": dict(plan.facts),
        "peak_bytes_per_worker": plan.peak_bytes,
        "memory_bytes_per_worker": plan.memory,
        "warnings": list(plan.warnings),
    }
