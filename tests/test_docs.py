"""The documentation is true: every ``console`` block is run, and says what really comes out.

``python -m tests.test_docs`` writes the blocks anew.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fixtures.demo import unpack
from layerscope.cli.commands import app
from layerscope.cli.options import Common
from layerscope.errors import ExitCode, LayerscopeError
from layerscope.secrets.rules import Rule
from layerscope.secrets.rules_file import own_rules
from tests.cli import Cli
from tests.kernel import can_mount

TOP = Path(__file__).parent.parent
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
SHOWN_ROOT = "/var/lib/docker"
RULES_HEAD = """# The rules of `audit`

`--only`, `--disable`, `--allow RULE:PATH` and a baseline name rules by id; `*` stands for the rest of an id. The
default shows what is of medium or high confidence; a finding may be of less than its rule, for what its value looks
like or where it lies. A user's gitleaks configuration (`--rules FILE`) replaces these rules or, with `[extend]
useDefault = true`, adds to them.

| rule | finds | confidence | reads |
|---|---|---|---|
"""


@contextmanager
def _workplace() -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty directory, and an environment in which the demo data root is what layerscope reads."""
    with tempfile.TemporaryDirectory(prefix="layerscope-docs-") as place:
        directory = Path(place, "here")
        directory.mkdir()
        unpack(Path(place, "data-root"))
        environment = {
            **Cli.clean_environment(),
            "COLUMNS": "100",
            "LAYERSCOPE_DATA_ROOT": f"{place}/data-root",
            "DOCKER_HOST": "unix:///nonexistent.sock",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"]),
        }
        yield directory, environment


def rewritten(document: str) -> str:
    """The document with what its commands print now."""
    with _workplace() as (directory, environment):
        root = environment["LAYERSCOPE_DATA_ROOT"]

        def run(match: re.Match[str]) -> str:
            lines = []
            for command in (line for line in match[1].splitlines() if line.startswith("$ ")):
                shell = command[2:].replace(f"--data-root {SHOWN_ROOT}", f"--data-root {root}")
                done = subprocess.run(
                    ["bash", "-c", shell],
                    cwd=directory,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=60,
                )
                shown = (done.stdout + done.stderr).replace(root, SHOWN_ROOT).replace(str(directory), "/here")
                lines += [command, *shown.splitlines()]
            return "```console\n" + "\n".join(lines) + "\n```"

        try:
            return BLOCK.sub(run, document)
        finally:
            for point in ("merged", "other"):
                subprocess.run(["umount", "-l", str(directory / point)], capture_output=True)


def test_readme_blocks_print_what_they_say() -> None:
    document = (TOP / "README.md").read_text()
    assert rewritten(document) == document


def test_audit_guide_prints_what_it_says_and_names_every_option() -> None:
    document = (TOP / "docs/audit.md").read_text()
    assert rewritten(document) == document
    function = next(command.callback for command in app.registered_commands if command.name == "audit")
    for parameter in inspect.signature(function).parameters.values():
        for option in typing.get_args(parameter.annotation)[1:]:
            names = [str(option.default), *(option.param_decls or ())] if hasattr(option, "param_decls") else []
            for name in names:  # in Annotated, Typer takes the first name for a default
                if name.startswith("--") and parameter.name not in typing.get_type_hints(Common):
                    assert f"`{name}" in document, name


def rules_table() -> str:
    """The page of all rules. What a rule reads: every file, files of a name, or key-value pairs."""
    rows = [
        f"| `{rule.id}` | {rule.title} | {_confidence(rule)} | {_what_it_reads(rule)} |"
        for rule in sorted(own_rules().rules, key=lambda rule: rule.id)
    ]
    return RULES_HEAD + "\n".join(rows) + "\n"


def _confidence(rule: Rule) -> str:
    return "medium, low" if rule.judge == "assignment" else rule.confidence


def _what_it_reads(rule: Rule) -> str:
    if rule.judge == "assignment":
        return "values of keys in configuration files and code"
    if rule.files:
        return ", ".join(f"`{name}`" for name in rule.files)
    return "every file" if rule.searched else "files that begin as this kind does"


def test_rules_page_names_every_rule() -> None:
    assert (TOP / "docs/rules.md").read_text() == rules_table()


@pytest.mark.kernel
@pytest.mark.skipif(not can_mount(), reason="the tutorial mounts overlays, which takes root")
def test_overlay_tutorial_prints_what_it_says() -> None:
    document = (TOP / "docs/overlay.md").read_text()
    assert rewritten(document) == document


def _errors(kind: type[LayerscopeError] = LayerscopeError) -> Iterator[type[LayerscopeError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _errors(child)


def test_readme_names_every_error_with_its_exit_code() -> None:
    readme = (TOP / "README.md").read_text()
    for kind in _errors():
        assert f"| `{kind('').slug}` | {int(kind.exit_code)} |" in readme


def test_readme_names_every_exit_code() -> None:
    readme = (TOP / "README.md").read_text()
    for code in ExitCode:
        assert re.search(rf"^\| {int(code)} \|", readme, re.MULTILINE), code


def _command_names() -> list[str]:
    return [command.name for command in app.registered_commands if command.name]


def test_readme_names_every_command() -> None:
    readme = (TOP / "README.md").read_text()
    for name in _command_names():
        assert f"| `layerscope {name}" in readme


def test_readme_names_every_common_option() -> None:
    readme = (TOP / "README.md").read_text()
    for annotation in typing.get_type_hints(Common, include_extras=True).values():
        option = typing.get_args(annotation)[1]
        for declaration in (
            str(option.default),
            *(option.param_decls or ()),
        ):  # the first name is its default there
            assert f"`{declaration}" in readme, declaration
        if option.envvar:
            assert f"`{option.envvar}`" in readme


@pytest.mark.parametrize("name", _command_names())
def test_help_explains_every_option(name: str, cli: Cli) -> None:
    """No option without a sentence, no line wider than a narrow terminal."""
    result = cli.ok(name, "--help", COLUMNS="80")
    assert max(len(line) for line in result.out.splitlines()) <= 80
    for match in re.finditer(r"^  (-\S.*)$", result.out, re.MULTILINE):
        assert re.search(r"\S  +\S", match[1]) or match[1].endswith((">", "N", "DIR", "URL", "FILE", "OPTIONS")), (
            match[1]
        )


def main() -> None:
    write: Callable[[Path], int] = lambda path: path.write_text(rewritten(path.read_text()))  # noqa: E731
    for name in ("README.md", "docs/overlay.md", "docs/audit.md"):
        write(TOP / name)
    (TOP / "docs/rules.md").write_text(rules_table())


if __name__ == "__main__":
    main()
