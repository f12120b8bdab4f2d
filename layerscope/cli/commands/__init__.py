"""The commands, a file a family. Importing a family registers its commands."""

from layerscope.cli.app import app
from layerscope.cli.commands import files, inspect, schema

__all__ = ["app", "files", "inspect", "schema"]
