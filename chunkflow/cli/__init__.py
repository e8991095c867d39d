"""The command line."""

from chunkflow.cli.commands import app, main

__all__ = ["app", "main"]
