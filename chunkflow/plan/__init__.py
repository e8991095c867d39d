"""From stages to passes on grids: names, alignment, halo, memory, fingerprints. Reads no voxel, but a few of a mask."""
