"""Profiles: what a site's SLURM or Kubernetes wants to be told, in a file that its users share.

    scheduler: slurm
    partition: main                 # what holds for both pools stands here
    account: lab
    prologue: [module load cuda/13]
    cpu: {cores: 16, memory: 64GB, walltime: "04:00:00", jobs: 10}
    gpu: {partition: gpu, gres: "gpu:4", gpus: 4, cores: 16, memory: 200GB, walltime: "08:00:00", jobs: 2}

A name is looked up as NAME.yaml in the user's folder of profiles, then in the site's; anything with a slash or a suffix
is a file. A pass goes to the pool that it needs: `gpu` where it has steps for a GPU, else `cpu`; with one pool, all do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal

import platformdirs

from chunkflow.errors import ConfigError, InputNotFoundError, nearest
from chunkflow.plan.descriptions import read_description
from chunkflow.stages.parameters import check_parameters

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Jobs, or pods, that are alike.

    cores, memory, gpus : of one job. It runs one worker per GPU, or one per core where it has none, which share the
        memory
    workers : of one job, where that is not wanted
    jobs : at most; as many are asked for as there are blocks for
    walltime : of one job, HH:MM:SS or D-HH:MM:SS; "" takes the partition's
    partition, account, gres : of SLURM
    directives : more of them, as `--constraint=a100`; skip : words of lines of the header that are left out
    prologue : lines of the job's script before the worker starts
    interface : of the network between jobs, as ib0
    python : of the jobs; by default the one that submits them
    local_directory : for what workers put aside on their node
    drain_seconds : before the walltime ends no block is begun for at least this long; twice the longest block so far
        where that is more
    image, namespace, node_selector, volumes : of Kubernetes; a volume is CLAIM:/path
    """

    cores: int = 1
    memory: str = "4GB"
    gpus: int = 0
    workers: int | None = None
    jobs: int = 1
    walltime: str = ""
    partition: str | None = None
    account: str | None = None
    gres: str | None = None
    directives: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    prologue: tuple[str, ...] = ()
    interface: str | None = None
    python: str | None = None
    local_directory: str | None = None
    drain_seconds: float = 60.0
    image: str | None = None
    namespace: str | None = None
    node_selector: Mapping[str, Any] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_parameters(self, "profile")
        for name in ("cores", "jobs", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"profile: {name} is {value}", "Give 1 or more")
        if self.gpus < 0 or self.drain_seconds < 0:
            raise ConfigError("profile: gpus and drain_seconds are not negative", "Give 0 or more")
        if self.workers and self.gpus and self.workers != self.gpus:
            raise ConfigError(f"profile: {self.workers} workers for {self.gpus} GPUs", "Leave workers out: one per GPU")
        if self.walltime and not re.fullmatch(r"(\d+-)?\d+(:\d\d){0,2}", self.walltime):
            raise ConfigError(f"profile: walltime is {self.walltime!r}", 'Write "HH:MM:SS" or "D-HH:MM:SS", in quotes')
        self.memory_bytes  # noqa: B018  raises where it cannot be read

    @property
    def processes(self) -> int:
        """Workers of one job."""
        return self.workers or self.gpus or self.cores

    @property
    def memory_bytes(self) -> int:
        """Of one job."""
        found = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", self.memory)
        unit = UNITS.get((found.group(2) or "B").upper()) if found else None
        if found is None or unit is None:
            raise ConfigError(f"profile: memory is {self.memory!r}", "For example 64GB or 64GiB")
        return int(float(found.group(1)) * unit)

    def jobs_for(self, units: int) -> int:
        """Jobs that so many units keep busy: one at least."""
        return min(self.jobs, max(1, ceil(units / self.processes)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What `--profile` names.

    name : for people
    scheduler : who starts the workers
    cpu, gpu : their pools; a run needs one of them
    shared_folder : that all nodes see: certificates and logs of jobs go there
    options : handed to `dask_cuda.LocalCUDACluster` as they are (scheduler: cuda)
    insecure : no TLS between the nodes
    """

    name: str = ""
    scheduler: Literal["slurm", "kubernetes", "cuda"] = "slurm"
    cpu: Pool | None = None
    gpu: Pool | None = None
    shared_folder: str = "~/.cache/chunkflow/cluster"
    options: Mapping[str, Any] = field(default_factory=dict)
    insecure: bool = False

    def __post_init__(self) -> None:
        check_parameters(self, f"profile {self.name}")
        if self.scheduler != "cuda" and self.cpu is None and self.gpu is None:
            raise ConfigError(f"profile {self.name} has no pool", "Add cpu: {...}, or gpu: {...}, or both")
        if self.gpu is not None and self.scheduler != "cuda" and self.gpu.gpus < 1:
            raise ConfigError(f"profile {self.name}: the gpu pool has no gpus", "Say gpus: N, how many one job has")
        if self.scheduler == "kubernetes":
            for pool in self.pools.values():
                if pool.image is None:
                    raise ConfigError(f"profile {self.name}: a pool has no image", "Add image: REGISTRY/chunkflow:TAG")

    @property
    def pools(self) -> dict[str, Pool]:
        """By name: those there are."""
        return {name: pool for name, pool in (("cpu", self.cpu), ("gpu", self.gpu)) if pool is not None}

    @property
    def folder(self) -> Path:
        """The shared folder, as a path."""
        return Path(self.shared_folder).expanduser()

    def with_workers(self, workers: int | None) -> Profile:
        """The profile with as many jobs as so many workers are; None leaves it."""
        if workers is None:
            return self
        changed = {name: replace(p, jobs=ceil(workers / p.processes)) for name, p in self.pools.items()}
        return replace(self, cpu=changed.get("cpu"), gpu=changed.get("gpu"))


def profile_folders() -> tuple[Path, ...]:
    """Where names of profiles are looked up: the user's folder, then the site's."""
    user = platformdirs.user_config_path("chunkflow") / "profiles"
    return user, *(Path(folder) / "chunkflow" / "profiles" for folder in ("/etc/xdg", "/etc"))


def load_profile(named: str, folders: Sequence[Path] | None = None) -> Profile:
    """The profile of a name or a file.

    Raises
    ------
    ConfigError : the file holds something else.
    InputNotFoundError : there is none.
    """
    path = _path_of(named, folders if folders is not None else profile_folders())
    content = read_description(path, called="profile", remedy="Write scheduler: slurm, and a pool cpu: {...}")
    own = {f.name for f in fields(Profile)} - {"name", "cpu", "gpu"}
    shared = {f.name for f in fields(Pool)}
    for key in content:
        if key not in own | shared | {"cpu", "gpu"}:
            raise ConfigError(f"{path}: unknown key {key!r}", nearest(str(key), own | shared | {"cpu", "gpu"}))
    common = {key: value for key, value in content.items() if key in shared}
    values: dict[str, Any] = {key: value for key, value in content.items() if key in own}
    values |= {key: _pool(key, content[key], common, path) for key in ("cpu", "gpu") if key in content}
    return Profile(name=path.stem, **values)


def _path_of(named: str, folders: Sequence[Path]) -> Path:
    if "/" in named or Path(named).suffix:
        return Path(named)
    for folder in folders:
        if (folder / f"{named}.yaml").is_file():
            return folder / f"{named}.yaml"
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    looked = " and ".join(str(folder) for folder in folders)
    remedy = nearest(named, known) if known else f"Write {named}.yaml into one of them, or give a file"
    raise InputNotFoundError(f"no profile {named!r} in {looked}", remedy)


def _pool(name: str, values: Any, common: Mapping[str, Any], path: Path) -> Pool:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: {name} is {values!r}, not keys and values", "Write {cores: 8, memory: 32GB}")
    known = {f.name for f in fields(Pool)}
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r} in {name}", nearest(str(key), known))
    try:
        return Pool(**{**common, **values})
    except ConfigError as error:
        raise ConfigError(f"{path}: {name}: {error.what}", error.remedy) from error
