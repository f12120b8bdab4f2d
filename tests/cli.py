"""Runs the command line in a process of its own, as a user does."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from layerscope.report.schema import schema_of


@cache
def validator(command: str) -> Draft202012Validator:
    """Validates a command's output against its schema, with every field that the schema does not name refused."""
    return Draft202012Validator(_closed(schema_of(command)))


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    return {**closed, "additionalProperties": False} if "properties" in schema else closed


@cache
def cache_home() -> str:
    """The cache directory of all runs: not the user's own, and gone with the tests."""
    path = tempfile.mkdtemp(prefix="layerscope-cache-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    def snapshot(self) -> str:
        """Exit code, output and errors in one text."""
        return f"exit {self.code}\n--- stdout\n{self.out}--- stderr\n{self.err}"


AS_NOBODY = """
import contextlib, importlib, io, os, pkgutil
import docker, docker.context, layerscope, multiprocessing.connection
for module in pkgutil.walk_packages(layerscope.__path__, "layerscope."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from layerscope.cli.commands import app
with contextlib.redirect_stderr(io.StringIO()):  # what is imported only on the way
    app(["ls", "--host", "unix:///nonexistent.sock"], standalone_mode=False)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.environ["HOME"] = "/nonexistent"
app(prog_name="layerscope")
"""


@dataclass
class Cli:
    """``cli("image", "busybox")`` runs ``layerscope image busybox``."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    stdin: bytes | None = None

    def __call__(self, *arguments: str, **environment: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "layerscope", *arguments],
            capture_output=True,
            input=self.stdin,
            cwd=self.directory,
            env={**self.clean_environment(), **self.environment, **environment},
            timeout=120,
        )
        return Result(
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "surrogateescape"),
        )

    def ok(self, *arguments: str, **environment: str) -> Result:
        """Run, and insist on success. JSON must be what the shipped schema says, and hold nothing else."""
        result = self(*arguments, **environment)
        assert result.code == 0, result.snapshot()
        if "--json" in arguments:
            validator(arguments[0]).validate(result.json)
        if "jsonl" in arguments:
            for line in result.lines:
                validator(f"{arguments[0]}-line").validate(line)
        return result

    def as_nobody(self, *arguments: str, **environment: str) -> Result:
        """Run as an ordinary user. Everything is imported first: he may not be able to read where Python is."""
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, *arguments],
            capture_output=True,
            cwd="/",
            env={**self.clean_environment(), **self.environment, **environment},
            timeout=120,
        )
        return Result(
            done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    @staticmethod
    def clean_environment() -> dict[str, str]:
        """The environment without what changes layerscope's output."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("LAYERSCOPE_") and name not in ("FORCE_COLOR", "NO_COLOR", "GITHUB_ACTIONS")
        }
        return {**kept, "COLUMNS": "120", "LANG": "C.UTF-8", "XDG_CACHE_HOME": cache_home()}
