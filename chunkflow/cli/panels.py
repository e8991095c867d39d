"""The list of commands that `chunkflow --help` shows: in the order of the work, a line each, on one screen."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

PANELS = {
    "Begin": {
        "demo": "The whole pipeline on a synthetic volume with known truth.",
        "doctor": "Say whether this machine can do the work.",
        "synth": "Draw a volume of tubes with known truth.",
        "import": "Make an OME-Zarr image of TIFF, HDF5, N5, CZI, LIF or ND2.",
        "check": "Say what an image or a network is.",
        "init": "Write a commented pipeline from a preset and an image.",
        "schema": "Print the JSON schema of pipeline files, for editors.",
        "preview": "Run one region and draw it.",
        "psf": "Make and draw a PSF: of optics, of a pipeline or of beads.",
        "train": "Train a network on images and labels, or go on with it.",
        "train-pixels": "Train a pixel classifier on scribbles.",
    },
    "Run": {
        "plan": "Say what a run would do and take.",
        "run": "Run a pipeline, on one image or many; or go on with it.",
        "submit": "Run a pipeline from a job of a cluster.",
        "status": "Say what a run has done, and what is left.",
        "verify": "Compute blocks of a result again, and compare.",
        "clean": "Delete a result's temporary arrays.",
    },
    "Look at results": {
        "view": "In Neuroglancer or napari, or as a picture.",
        "report": "Write report.html again, or compare several runs on a page.",
        "export": "As TIFF, CSV, Excel, SWC or meshes.",
        "compare": "The conditions of a batch: effect sizes, plots, methods.",
    },
}
"""By panel, what the list says of each command; `chunkflow COMMAND --help` says it in full."""

OPTIONS = {
    "install_completion": "Let the Tab key complete, in this shell.",
    "show_completion": "Print what would be installed for that.",
}
"""What the list says of typer's own options, whose words take several lines."""


class Commands(TyperGroup):
    """All commands, listed on one screen."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        for param in params:
            if param.name in OPTIONS:
                param.help = OPTIONS[param.name]  # type: ignore[attr-defined]
        return _without_values(params)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _without_values([*command.params, command.get_help_option(ctx)])
        return command


def _without_values(params: list[Any]) -> list[Any]:
    """The same, with flags as such: some versions of typer write <bool> after them, as if a value were wanted."""
    for param in params:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


def group_commands(app: typer.Typer) -> None:
    """Put each command into its panel; one that no panel names stands below them all."""
    place = {name: (panel, line) for panel, lines in PANELS.items() for name, line in lines.items()}
    order = list(place)
    named = {_name(command): command for command in app.registered_commands}
    for name, command in named.items():
        if name in place:
            command.rich_help_panel, command.short_help = place[name]
    app.registered_commands.sort(key=lambda command: [*order, _name(command)].index(_name(command)))


def _name(command: typer.models.CommandInfo) -> str:
    return command.name or (command.callback.__name__ if command.callback else "")
