"""The command line."""

from terradistill.cli.commands import app, main

__all__ = ["app", "main"]
