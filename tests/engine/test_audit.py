"""Every kind of exposure, planted by real builders, is found where it lies, however it is looked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli import Cli, Result
from tests.containerd_engine import prepare_tree
from tests.dockerd import BASE, Engine, EngineMissingError
from tests.planted import CONTAINER_PLANTS, PLANTS, Plant, context, dockerfile, token

TOKENS = sorted({plant.token for plant in (*PLANTS, *CONTAINER_PLANTS)})
CONTAINER = "layerscope-audited"
BIG = "layerscope-test/planted-big:1"


def build(engine: Engine, builder: str) -> str:
    return engine.build(
        f"layerscope-test/planted:{builder}",
        dockerfile(),
        f"--build-arg=BUILD_TOKEN={token('argument')}",
        buildkit=builder == "buildkit",
        files=context(),
    )


@pytest.fixture(scope="module")
def planted(engine: Engine) -> str:
    return build(engine, "classic")


@pytest.fixture(scope="module")
def container(engine: Engine, planted: str) -> Iterator[str]:
    identifier = engine.run(
        planted,
        "sed s/x/x/ /app/visible.env > /dev/null; echo UPPER=$UPPER > /srv/upper.env; rm /app/utf16.txt",
        f"--name={CONTAINER}",
        f"--env=RUN_TOKEN={token('container-env')}",
        f"--env=UPPER={token('upper')}",
        f"--label=run.key={token('container-label')}",
    )
    yield CONTAINER
    engine.remove(identifier)


@pytest.fixture
def cli(cli: Cli, tmp_path: Path) -> Cli:
    cli.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    return cli


def audit(cli: Cli, *arguments: str) -> Any:
    """The answer of an audit that finds something, checked against its schema."""
    return cli.ok("audit", *arguments, "--json", "--exit-zero").json


def places(findings: list[dict[str, Any]], plant: Plant) -> list[dict[str, Any]]:
    """The findings of a plant."""
    return [
        finding
        for finding in findings
        if finding["redacted"].startswith("ghp_…" + plant.token[-2:])
        and (finding["path"] == plant.path or (plant.exposure == "config" and plant.path in finding["path"]))
        and finding["exposure"] == plant.exposure
    ]


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "source"}


def test_tokens_differ() -> None:
    names = {plant.name for plant in (*PLANTS, *CONTAINER_PLANTS)}
    assert len(TOKENS) == len(names)


@pytest.mark.parametrize("builder", ["classic", "buildkit"])
def test_every_plant_is_found_with_its_exposure_layer_and_hiding_step(
    engine: Engine, planted: str, builder: str, cli: Cli
) -> None:
    planted = planted if builder == "classic" else build(engine, builder)
    answer = audit(cli, planted)
    assert answer["warnings"] == [] and answer["scanned"]["skipped"] == []
    steps = {layer["index"]: layer for layer in cli.ok("image", planted, "--json").json["layers"]}
    for plant in PLANTS:
        found = places(answer["findings"], plant)
        assert found, plant
        for finding in found:
            assert finding["confidence"] == "high"
            assert (finding["hidden_by"] or {}).get("reason") == plant.reason, plant
            assert plant.added_by is None or plant.added_by in finding["created_by"], plant
            if plant.hidden_by is not None:
                assert plant.hidden_by in finding["hidden_by"]["created_by"], plant
            if finding["exposure"] == "config":
                assert Path(finding["on_disk_path"]).is_file()
                continue
            layer = steps[finding["layer"]["index"]]
            assert layer["diff_id"] == finding["layer"]["diff_id"]
            assert finding["on_disk_path"] == f"{layer['diff_dir']}/{plant.path}"
            content = Path(finding["on_disk_path"]).read_bytes()
            assert plant.token.encode() in content.replace(b"\0", b"")
            if finding["line"] is not None and plant.name != "utf16":
                assert plant.token in content.decode().splitlines()[finding["line"] - 1]
    # Nothing else, but for what lies twice: the file before it was linked, and the step that echoes.
    known = {(plant.token[-2:], plant.exposure) for plant in PLANTS}
    known |= {(token("linked")[-2:], "overwritten"), (token("echoed")[-2:], "config")}
    for finding in answer["findings"]:
        assert (finding["redacted"].partition("…")[2][:2], finding["exposure"]) in known, finding


def test_a_container_adds_its_own_layer_and_configuration(planted: str, container: str, cli: Cli) -> None:
    answer = audit(cli, container)
    for plant in CONTAINER_PLANTS:
        (finding,) = places(answer["findings"], plant)
        assert (finding["layer"] or {"role": "upper"})["role"] == "upper"
        assert finding["target"]["name"] == container
    utf16 = next(finding for finding in answer["findings"] if finding["path"] == "app/utf16.txt")
    assert (utf16["exposure"], utf16["hidden_by"]["created_by"]) == ("deleted", None)
    for plant in PLANTS:
        if plant.name != "utf16":
            assert places(answer["findings"], plant), plant


def test_an_image_and_its_container_share_their_findings(planted: str, container: str, cli: Cli) -> None:
    answer = audit(cli, planted, container)
    alone = audit(cli, planted)
    assert answer["scanned"]["layers"] == alone["scanned"]["layers"] + 2
    shared = [finding for finding in answer["findings"] if finding["target"]["name"] == planted]
    assert len(shared) == len(alone["findings"])
    for finding in shared:
        visible = finding["path"] == "app/utf16.txt"
        assert (container in [holder["name"] for holder in finding["also_in"]]) is not visible


def test_offline_is_online_whatever_the_workers_and_the_cache(
    engine: Engine, planted: str, container: str, cli: Cli, tmp_path: Path
) -> None:
    online = comparable(audit(cli, planted, container))
    assert list((tmp_path / "cache").rglob("*.json"))
    root = str(engine.data_root)
    for options in ([], ["--no-cache"], ["--jobs", "1", "--no-cache"], ["--data-root", root, "--jobs", "3"]):
        assert comparable(audit(cli, planted, container, *options)) == online
    assert comparable(audit(cli, planted, container, "--data-root", root, "--no-cache")) == online


def everything(result: Result) -> str:
    return result.out + result.err


def test_no_output_holds_a_secret(planted: str, container: str, cli: Cli, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    texts = [
        everything(cli("audit", planted, container, "--format", name, "--verbose", "--no-trunc", *options))
        for name in ("table", "json", "jsonl", "sarif")
        for options in ([], ["--confidence", "low"])
    ]
    # The rule that knows the tokens is not among these, but the instructions still hold them.
    texts.append(everything(cli("audit", planted, "--format", "json", "--only", "environment-file-*")))
    cli("audit", planted, container, "--write-baseline", str(baseline))
    texts.append(baseline.read_text())
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    texts += [path.read_bytes().decode("latin-1") for path in kept]
    for text in texts:
        assert [value for value in TOKENS if value in text or value[5:30] in text] == []


def test_show_secrets_reveals_them_after_a_run_that_did_not(planted: str, cli: Cli) -> None:
    audit(cli, planted)
    revealed = {finding["secret"] for finding in audit(cli, planted, "--show-secrets")["findings"]}
    assert revealed == {plant.token for plant in PLANTS}


def test_the_base_has_no_finding(engine: Engine, cli: Cli) -> None:
    answer = cli.ok("audit", BASE, "--json", "--confidence", "low").json
    assert answer["findings"] == []
    assert answer["scanned"]["files"] > 0


def test_a_stock_system_has_no_finding_and_hardly_a_doubtful_one(cli: Cli) -> None:
    try:
        tree = prepare_tree()
    except EngineMissingError as error:
        pytest.skip(str(error))
    answer = audit(cli, f"lowerdir={tree}", "--confidence", "low")
    assert answer["scanned"]["bytes"] > 300_000_000
    assert [finding for finding in answer["findings"] if finding["confidence"] != "low"] == []
    assert len(answer["findings"]) <= answer["scanned"]["bytes"] / 5_000_000


def test_every_target_by_default(engine: Engine, planted: str, container: str, cli: Cli) -> None:
    answer = audit(cli)
    names = {name for target in answer["targets"] for name in (target["name"], *target["references"])}
    assert {planted, container, BASE} <= names
    ids = [target["id"] for target in answer["targets"]]
    assert len(set(ids)) == len(ids)


def test_ignored_base_layers_are_named(engine: Engine, planted: str, cli: Cli) -> None:
    answer = audit(cli, planted, "--ignore-layers-of", BASE)
    assert [layer["reason"] for layer in answer["scanned"]["ignored"]] == [f"--ignore-layers-of {BASE}"]
    assert answer["findings"] == audit(cli, planted)["findings"]


def test_the_end_of_a_huge_file_and_of_a_huge_line(engine: Engine, cli: Cli) -> None:
    value = token("huge").encode()
    image = engine.build(
        BIG,
        "FROM BASE\nCOPY tail /tail\n"
        "RUN dd if=/dev/zero of=/big bs=1048576 count=200 && cat /tail >> /big\n"
        "RUN dd if=/dev/zero bs=1048576 count=50 | tr '\\000' x > /line && cat /tail >> /line && rm /tail\n",
        files={"tail": b" " + value + b"\n"},
    )
    findings = audit(cli, image, "--jobs", "1")["findings"]
    assert audit(cli, image, "--data-root", str(engine.data_root))["findings"] == findings
    found = {finding["path"]: finding for finding in findings}
    assert found.keys() == {"tail", "big", "line"}
    assert (found["big"]["offset"], found["big"]["line"]) == ((200 << 20) + 1, None)
    assert (found["line"]["offset"], found["line"]["line"]) == ((50 << 20) + 1, 1)
    assert len({finding["fingerprint"] for finding in found.values()}) == 1
    assert value.decode() not in json.dumps(found)
