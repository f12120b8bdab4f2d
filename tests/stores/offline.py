"""Runs the command line on a data root, and insists on the shape of what goes wrong.

Most store tests run it in this process, through the same entry as the command: a process of its own takes twenty
times as long.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner

from tests.cli import Cli, Result


class InProcess(Cli):
    """The command line in this process."""

    def __call__(self, *arguments: str, **environment: str) -> Result:
        from layerscope.cli.commands import app

        with patch.dict(os.environ, {**self.clean_environment(), **self.environment, **environment}, clear=True):
            done = CliRunner().invoke(app, [*arguments], prog_name="layerscope")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)


@dataclass(frozen=True)
class Failure:
    """What a run that failed said on standard error."""

    message: str
    hint: str
    warnings: list[str]


def failure_of(result: Result, code: int = 3) -> Failure:
    """Insist that a run failed as it must: warnings, one error line, one hint line, and no answer."""
    lines = result.err.splitlines()
    assert result.code == code, result.snapshot()
    assert result.out == "", result.snapshot()
    assert [line.partition(": ")[0] for line in lines[-2:]] == ["error", "hint"], result.snapshot()
    assert all(line.startswith("warning: ") for line in lines[:-2]), result.snapshot()
    assert "layerscope failed" not in result.err, result.snapshot()
    error, hint = (line.partition(": ")[2] for line in lines[-2:])
    assert error and hint, result.snapshot()
    return Failure(error, hint, [line.removeprefix("warning: ") for line in lines[:-2]])


@dataclass
class Offline:
    """``offline("ls")`` runs ``layerscope ls --data-root PATH``."""

    cli: Cli
    path: Path

    def __call__(self, *arguments: str, **environment: str) -> Result:
        return self.cli(*arguments, "--data-root", str(self.path), **environment)

    def json(self, *arguments: str) -> Any:
        """The answer of a run that succeeds, checked against its schema."""
        return self.cli.ok(*arguments, "--json", "--data-root", str(self.path)).json

    def fails(self, *arguments: str, code: int = 3, warnings: int = 0) -> Failure:
        """What a run says that must fail, after so many warnings."""
        failure = failure_of(self(*arguments), code)
        assert len(failure.warnings) == warnings, failure
        return failure

    def warns(self, *arguments: str) -> list[tuple[str, str]]:
        """Code and path of each warning of a run that succeeds; paths below the data root are relative to it."""
        return [
            (warning["code"], (warning["path"] or "").removeprefix(f"{self.path}/"))
            for warning in self.json(*arguments)["warnings"]
        ]

    def names(self) -> tuple[list[str], list[str]]:
        """The names of all images (``-`` for none) and containers that `ls` lists."""
        answer = self.json("ls")
        images = [name for image in answer["images"] for name in image["references"] or ["-"]]
        return images, [container["name"] for container in answer["containers"]]


def unprivileged(arguments: Sequence[str]) -> Result:
    """Run layerscope as root without the right to read what permissions forbid, or just so where that is all."""
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"]
    done = subprocess.run(
        [*(drop if os.geteuid() == 0 else []), sys.executable, "-m", "layerscope", *arguments],
        capture_output=True,
        text=True,
        env=Cli.clean_environment(),
        timeout=60,
    )
    return Result(done.returncode, done.stdout, done.stderr)
