"""How layerscope is started: module, version, completion, colour, and options from the environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from layerscope import __version__
from layerscope.cli.commands import app
from tests.cli import Cli
from tests.cli_behaviour.terminal import on_terminal
from tests.stores.offline import InProcess, failure_of

COMMANDS = [command.name for command in app.registered_commands if command.name]
ESCAPE = "\x1b["


def test_module_and_version(cli: Cli) -> None:
    result = cli("--version")
    assert (result.code, result.out, result.err) == (0, f"layerscope {__version__}\n", "")


def test_installed_command_is_the_module(cli: Cli) -> None:
    script = Path(sys.executable).with_name("layerscope")
    if not script.exists():
        pytest.skip("layerscope is not installed beside this Python")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, env=cli.clean_environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, cli("--help").out, "")


def test_help_groups_the_commands(shop: InProcess) -> None:
    result = shop.ok("--help", COLUMNS="80")
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", result.out, re.MULTILINE)
    assert [line for line in result.out.splitlines() if line in ("Inspect:", "Files:")] == ["Inspect:", "Files:"]
    assert result.out == shop.ok("-h", COLUMNS="80").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_the_commands(shop: InProcess, shell: str) -> None:
    asked = {
        "_LAYERSCOPE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "layerscope ",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_ARGS": "layerscope ",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    result = shop(**asked)
    assert (result.code, result.err) == (0, "")
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", result.out)


def test_completion_offers_the_options_of_a_command(shop: InProcess) -> None:
    asked = {"_LAYERSCOPE_COMPLETE": "complete_bash", "COMP_WORDS": "layerscope image --h", "COMP_CWORD": "2"}
    offered = shop(**asked).out.split()
    assert "--hidden" in offered and "--host" in offered and "--files" not in offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_asks_layerscope(shop: InProcess, shell: str) -> None:
    result = shop(_LAYERSCOPE_COMPLETE=f"source_{shell}")
    assert result.code == 0
    assert f"_LAYERSCOPE_COMPLETE=complete_{shell}" in result.out


def test_bash_completes_with_the_script_that_is_shown(cli: Cli) -> None:
    """In a real shell: what `--show-completion` prints, sourced, completes a command's name."""
    program = f'"{sys.executable}" -m layerscope'
    shell = f"""
layerscope() {{ {program} "$@"; }}
eval "$({program} --show-completion)"
complete -p layerscope
"""
    environment = {**cli.clean_environment(), "SHELL": "/bin/bash"}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("complete ") and "_layerscope_completion" in done.stdout


# -- colour ----------------------------------------------------------------------------------------------------


def test_colour_is_what_the_option_says(shop: InProcess) -> None:
    plain = shop.ok("image", "shop/web:1").out
    always = shop.ok("image", "shop/web:1", "--color", "always").out
    assert ESCAPE not in plain and ESCAPE in always
    assert re.sub(r"\x1b\[\d+m", "", always) == plain, "colour changes nothing else"
    assert shop.ok("image", "shop/web:1", "--color", "never").out == plain
    assert shop.ok("image", "shop/web:1", "--color=always", NO_COLOR="1").out == always, "a flag wins"
    assert shop.ok("image", "shop/web:1", LAYERSCOPE_COLOR="always").out == always
    assert shop.ok("image", "shop/web:1", "--color=never", LAYERSCOPE_COLOR="always").out == plain


def test_json_has_no_colour(shop: InProcess) -> None:
    assert ESCAPE not in shop.ok("image", "shop/web:1", "--json", "--color", "always").out


@pytest.mark.parametrize(
    ("extra", "environment", "coloured"),
    [
        ((), {}, True),
        ((), {"NO_COLOR": "1"}, False),
        (("-o", "file"), {}, False),
    ],
)
def test_a_terminal_gets_colour(
    shop_process: Cli, tmp_path: Path, extra: tuple[str, ...], environment: dict[str, str], coloured: bool
) -> None:
    shop_process.environment.update(environment)
    with on_terminal(shop_process, ("ls", *extra)) as running:
        assert running.finish() == 0
    file = tmp_path / "file"
    shown = running.shown + (file.read_bytes() if file.exists() else b"")
    assert b"IMAGE" in shown
    assert (ESCAPE.encode() in shown) == coloured


# -- the environment -------------------------------------------------------------------------------------------


def test_options_from_the_environment(shop: InProcess, demo: Path) -> None:
    plain = InProcess(shop.directory)
    data_root = str(demo)
    assert plain.ok("ls", LAYERSCOPE_DATA_ROOT=data_root).out == plain.ok("ls", "--data-root", data_root).out
    assert shop("ls", LAYERSCOPE_FORMAT="json").out == shop.ok("ls", "--json").out
    overlay = ("image", "shop/web:1", "--json")
    assumed = shop.ok(*overlay, LAYERSCOPE_OVERLAY_OPTIONS="userxattr").json["options"]
    assert assumed == shop.ok(*overlay, "--overlay-options", "userxattr").json["options"]
    assert assumed != shop.ok(*overlay, "--overlay-options", "metacopy=on").json["options"]


def test_flag_wins_over_the_environment(shop: InProcess, demo: Path) -> None:
    wrong = {"LAYERSCOPE_DATA_ROOT": "/nonexistent"}
    assert shop.ok("ls", "--data-root", str(demo), **wrong).out == shop.ok("ls").out
    failure_of(shop("ls", **wrong))
    assert shop.ok("ls", "--format", "table", LAYERSCOPE_FORMAT="json").out == shop.ok("ls").out
    assert shop.ok("ls", "--json", LAYERSCOPE_FORMAT="table").json["command"] == "ls"
    assert shop.ok("ls", LAYERSCOPE_HOST="unix:///nonexistent.sock").out == shop.ok("ls").out


def test_format_of_the_environment_does_not_bind_a_command_that_lacks_it(shop: InProcess) -> None:
    assert shop.ok("ls", LAYERSCOPE_FORMAT="jsonl").out == shop.ok("ls").out
    assert shop.ok("cat", "shop/web:1", "etc/os-release", LAYERSCOPE_FORMAT="json").out.startswith("NAME=")
    assert (
        "has no json output"
        in failure_of(
            shop("cat", "shop/web:1", "etc/os-release", "--json", LAYERSCOPE_FORMAT="json"), code=2
        ).message
    )


def test_host_flag_wins_over_the_data_root_of_the_environment(shop_process: Cli) -> None:
    failure = failure_of(shop_process("ls", "--host", "unix:///nonexistent.sock"))
    assert "unix:///nonexistent.sock" in failure.message


@pytest.mark.parametrize("name", ["LAYERSCOPE_FORMAT", "LAYERSCOPE_COLOR", "LAYERSCOPE_NO_PROGRESS"])
def test_nonsense_in_the_environment_is_a_usage_error(shop: InProcess, name: str) -> None:
    failure_of(shop("ls", **{name: "perhaps"}), code=2)


def test_an_empty_variable_is_as_good_as_none(shop: InProcess) -> None:
    names = ("FORMAT", "COLOR", "NO_PROGRESS", "HOST", "OVERLAY_OPTIONS")
    assert shop.ok("ls", **{f"LAYERSCOPE_{name}": "" for name in names}).out == shop.ok("ls").out


def test_any_locale_will_do(cli: Cli) -> None:
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "80"}
    assert cli("diff", "--help", **environment).code == 0
    failure_of(cli("schema", "büro…", **environment), code=2)


def test_verbose_says_what_is_read(shop: InProcess, demo: Path) -> None:
    result = shop.ok("ls", "--verbose")
    assert result.err == f"reading {demo} (data-root, driver overlay2)\n"
    assert result.out == shop.ok("ls").out


def test_nothing_is_written_where_layerscope_runs(shop_process: Cli, tmp_path: Path) -> None:
    shop_process.ok("image", "shop/web:1", "--files", HOME=str(tmp_path))
    assert os.listdir(tmp_path) == []
