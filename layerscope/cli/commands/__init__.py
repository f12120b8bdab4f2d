"""The commands, a file a family. Importing a family registers its commands."""

from layerscope.cli.app import app
from layerscope.cli.commands import audit, df, files, inspect, orphans, owner, reuse, schema, verify

__all__ = ["app", "audit", "df", "files", "inspect", "orphans", "owner", "reuse", "schema", "verify"]
