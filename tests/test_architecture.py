"""The shape of the package, read from its source: who imports whom, who prints, who writes."""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cli import Cli

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "layerscope"
MODULES = sorted(PACKAGE.rglob("*.py"))

LEAFS = {"errors", "model", "reading", "timestamps", "workers", "tars"}
ALLOWED = {
    "": set(),  # the version
    "errors": set(),
    "model": {"tars"},
    "reading": set(),
    "timestamps": set(),
    "workers": {"errors"},
    "tars": set(),
    "overlay": LEAFS,
    "stores": LEAFS | {"overlay"},
    "secrets": LEAFS | {"", "overlay", "stores"},
    "analysis": LEAFS | {"overlay", "stores", "secrets"},
    "report": LEAFS | {"", "overlay", "stores", "analysis", "secrets"},
    "cli": LEAFS | {"", "overlay", "stores", "analysis", "secrets", "report"},
    "__main__": {"cli"},
}
"""What each part may import, beside itself; all in one direction."""

DEPENDENCIES = {"docker": "stores/docker_api.py", "typer": "cli/", "tabulate": "report/table.py"}
ONLY_HERE = {
    **DEPENDENCIES,
    "requests": "stores/docker_api.py",  # what docker raises
    "hyperscan": "secrets/",  # an option
    "dulwich": "secrets/git",
    "backports": "tars/packing.py",
    "compression": "tars/packing.py",  # the standard library's from 3.14 on, in place of backports.zstd
}
"""What is imported from elsewhere, and where."""

WRITERS = {"cli/output.py", "analysis/extract.py", "secrets/cache.py", "secrets/hyperscan_places.py"}
"""Answers, extracted files, and two caches below the user's own cache directory."""
WRITE_FLAGS = {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_EXCL", "O_TMPFILE"}
WRITE_CALLS = {
    *("mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory", "TemporaryFile", "SpooledTemporaryFile"),
    *("mkfifo", "mknod", "symlink", "link", "mkdir", "makedirs", "rename", "renames", "replace", "move"),
    *("unlink", "remove", "rmdir", "removedirs", "rmtree", "copytree", "copy", "copy2", "copyfile", "copyfileobj"),
    *("chmod", "fchmod", "lchmod", "chown", "fchown", "lchown", "utime", "setxattr", "removexattr"),
    *("truncate", "ftruncate", "sendfile", "copy_file_range", "splice", "posix_fallocate", "fdopen"),
}
"""Of the modules os, shutil and tempfile."""


class Import(NamedTuple):
    module: Path
    line: int
    name: str
    for_types_only: bool


@cache
def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(), str(module))


def place(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def part(name: str) -> str:
    """``overlay`` of ``layerscope.overlay.walk``."""
    names = name.split(".")
    return names[1] if len(names) > 1 else ""


def part_of_module(module: Path) -> str:
    first = module.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@cache
def imports() -> list[Import]:
    return [found for module in MODULES for found in _imports(module, tree(module), False)]


def _imports(module: Path, node: ast.AST, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, child.lineno, alias.name, typing)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}:{child.lineno}: a relative import"
            name = child.module or ""
            if name == "layerscope":  # `from layerscope import model`
                parts = [f"{name}.{a.name}" for a in child.names if not a.name.startswith("__")]
                for one in parts or [name]:
                    yield Import(module, child.lineno, one, typing)
            else:
                yield Import(module, child.lineno, name, typing)
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            yield from _imports(module, ast.Module(child.body, []), True)
            yield from _imports(module, ast.Module(child.orelse, []), typing)
        else:
            yield from _imports(module, child, typing)


def test_imports_point_one_way() -> None:
    wrong = []
    for found in imports():
        if found.name.split(".")[0] == "layerscope":
            mine, other = part_of_module(found.module), part(found.name)
            if other != mine and other not in ALLOWED[mine]:
                wrong.append(f"{place(found.module)}:{found.line} imports {found.name}")
    assert wrong == []


def test_allowed_imports_have_no_circle() -> None:
    """That the table above is a direction at all."""
    left = {name: set(others) for name, others in ALLOWED.items()}
    while free := [name for name, others in left.items() if not others]:
        left = {name: others - set(free) for name, others in left.items() if name not in free}
    assert not left


def test_every_part_is_in_the_table() -> None:
    assert {part_of_module(module) for module in MODULES} <= set(ALLOWED)


def test_libraries_are_imported_in_one_place_each() -> None:
    wrong = []
    for found in imports():
        top = found.name.split(".")[0]
        if top == "layerscope" or top in sys.stdlib_module_names:
            continue
        where = place(found.module)
        if top not in ONLY_HERE or not where.startswith(ONLY_HERE[top]):
            wrong.append(f"{where}:{found.line} imports {found.name}")
    assert wrong == []


def test_every_library_is_a_dependency_and_every_dependency_is_used() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    named = {text.partition(">")[0].partition(".")[0].strip() for text in project["dependencies"]}
    used = {found.name.split(".")[0] for found in imports()}
    assert set(DEPENDENCIES) <= named <= set(ONLY_HERE) and named <= used


def calls(module: Path) -> Iterator[tuple[ast.Call, str]]:
    """All calls of a module, with the last part of what is called."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func).rpartition(".")[2]


def test_nothing_prints() -> None:
    found = [(place(module), call.lineno) for module in MODULES for call, name in calls(module) if name == "print"]
    assert found == []


def test_only_the_command_line_ends_the_process_or_speaks() -> None:
    """Core never exits and never writes to a standard stream."""
    banned = {"sys.stdout", "sys.stderr", "sys.stdin", "sys.exit", "os._exit", "os.abort"}
    wrong = [
        f"{place(module)}:{node.lineno}"
        for module in MODULES
        if part_of_module(module) not in ("cli", "__main__")
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in banned
    ]
    assert wrong == []


def writes(module: Path) -> Iterator[str]:
    """Whatever in a module could write to a file system."""
    where = place(module)
    for call, name in calls(module):
        whole = ast.unparse(call.func)
        if name in WRITE_CALLS and whole.startswith(("os.", "shutil.", "tempfile.")):
            yield f"{where}:{call.lineno} calls {whole}"
        if name == "open" and whole != "os.open":
            modes = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
            for mode in modes:
                if not isinstance(mode, ast.Constant) or set(str(mode.value)) & set("wax+"):
                    yield f"{where}:{call.lineno} opens with {ast.unparse(mode)}"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in WRITE_FLAGS:
                yield f"{where}:{node.lineno} uses {name}"


def test_only_few_modules_write_files() -> None:
    wrong = [found for module in MODULES if place(module) not in WRITERS for found in writes(module)]
    assert wrong == []


@pytest.mark.parametrize("where", ["cli/output.py", "analysis/extract.py"])
def test_writers_are_seen_to_write(where: str) -> None:
    """That the test above can fail."""
    assert list(writes(PACKAGE / where))


def test_nothing_starts_another_program_or_a_connection_of_its_own() -> None:
    """The engine is asked through docker's client alone, and no program is run on what a layer holds.

    Nor is pathlib used: it would be another way to write, which the test above does not know.
    """
    banned = ("subprocess", "socket", "urllib.request", "http", "ctypes", "shutil", "pathlib")
    allowed = {("cli/session.py", "shutil")}  # the width of the terminal
    wrong = [
        f"{place(found.module)}:{found.line} imports {found.name}"
        for found in imports()
        if f"{found.name}.".startswith(tuple(f"{name}." for name in banned))
        and (place(found.module), found.name) not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("arguments", [("--version",), ("--help",), ("image", "--help")], ids=" ".join)
def test_help_and_version_load_no_library_that_they_do_not_need(arguments: tuple[str, ...], tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from layerscope.cli.commands import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=Cli.clean_environment(),
        check=True,
    )
    loaded = set(done.stderr.split())
    assert "layerscope.cli.app" in loaded
    heavy = {"docker", "requests", "tabulate", "hyperscan", "multiprocessing", "tomllib", "sqlite3"}
    assert loaded & heavy == set()
    parts = {part(name) for name in loaded if name.startswith("layerscope.")}
    assert parts & {"overlay", "stores", "analysis", "workers"} == set()


def test_all_that_is_not_source_is_package_data() -> None:
    """A file that is missing from the package is missing only from real installations."""
    settings = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    others = [
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    ]
    assert PACKAGE / "py.typed" in others
    patterns = [
        f"{package.replace('.', '/')}/{pattern}".replace("**/", "*")
        for package, names in settings.items()
        for pattern in names
    ]
    for path in others:
        name = path.relative_to(TOP).as_posix()
        assert any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns), name
