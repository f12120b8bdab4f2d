"""The commands, a file a family. Importing a family registers its commands."""

from layerscope.cli.app import app
from layerscope.cli.commands import audit, check, df, files, inspect, orphans, owner, reuse, schema, verify

__all__ = ["app", "audit", "check", "df", "files", "inspect", "orphans", "owner", "reuse", "schema", "verify"]
