"""Options that name a cluster, and `submit`, which makes the driver a job of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chunkflow.cli.endings import reported
from chunkflow.cli.options import PrintJobOption, ProfileOption
from chunkflow.cli.show import PLAIN, new_console
from chunkflow.errors import UsageError

if TYPE_CHECKING:
    from chunkflow.run.engine import ClusterOptions


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module among the others."""

    @app.command("submit", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    @reported
    def submit(
        context: typer.Context,
        profile: ProfileOption = None,
        driver_cores: Annotated[int, typer.Option("--driver-cores", help="Of the driver's job.")] = 1,
        driver_memory: Annotated[str, typer.Option("--driver-memory", help="Of the driver's job.")] = "4G",
        driver_walltime: Annotated[str, typer.Option("--driver-walltime", help="Of the driver's job.")] = "7-00:00:00",
        print_job: PrintJobOption = False,
    ) -> None:
        """Run a pipeline from a job of its own: the words of run, and --profile."""
        from chunkflow.run.profiles import load_profile
        from chunkflow.run.submit import Driver, driver_script
        from chunkflow.run.submit import submit as submitted

        if profile is None:
            raise UsageError("submit needs to know the site", "Add --profile NAME or FILE (docs/clusters.md)")
        words = list(context.args)
        output = _output_of(app, [*words, "--profile", profile])
        loaded = load_profile(profile)
        driver = Driver(cores=driver_cores, memory=driver_memory, walltime=driver_walltime)
        script = driver_script([*words, "--profile", _lasting(profile)], loaded, driver, folder=Path.cwd())
        if print_job:
            typer.echo(script, nl=False)
            return
        job = submitted(script, loaded)
        console = new_console()
        lines = {
            "submitted": f"job {job}",
            "log": str(loaded.folder / "logs" / f"driver-{job}.out"),
            "follow it": f"chunkflow status {output}" if output else "chunkflow status OUT",
            "stop it": f"scancel {job}",
        }
        for name, text in lines.items():
            console.print(f"{name:<13} {text}", **PLAIN)


def cluster_options(profile: str | None, block_seconds: float | None = None, insecure: bool = False) -> ClusterOptions:
    """What the options of `run` say of a cluster."""
    from chunkflow.run.engine import ClusterOptions
    from chunkflow.run.profiles import load_profile
    from chunkflow.run.watchdog import Patience

    patience = Patience(block_seconds=block_seconds)
    return ClusterOptions(
        profile=load_profile(profile) if profile is not None else None, patience=patience, insecure=insecure
    )


def print_jobs(options: ClusterOptions) -> None:
    """The script of each pool's jobs."""
    profile = options.profile
    if profile is None or profile.scheduler != "slurm":
        raise UsageError("--print-job shows the jobs of SLURM, and no profile of one is named", "Add --profile NAME")
    from chunkflow.run.slurm import job_script

    for name, pool in profile.pools.items():
        typer.echo(f"# pool {name}: up to {pool.jobs} jobs of {pool.processes} workers each")
        typer.echo(job_script(pool, profile))


def _output_of(app: typer.Typer, words: list[str]) -> str | None:
    """The output that words of `run` name.

    Raises
    ------
    UsageError : they are not words of `run`.
    """
    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    try:
        with command.make_context("run", list(words)) as context:
            found: str | None = context.params["output"]
    except typer.Exit:
        raise
    except Exception as error:  # the parser's, which typer does not give a name to
        told = getattr(error, "format_message", None)
        said = told() if told is not None else str(error)
        raise UsageError(f"submit {' '.join(words)}: {said}", "Give the words of chunkflow run") from error
    return found


def _lasting(profile: str) -> str:
    """A profile as it is named in another folder."""
    return str(Path(profile).absolute()) if "/" in profile or Path(profile).suffix else profile
