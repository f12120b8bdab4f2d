"""``audit --format sarif`` is SARIF 2.1.0: every object has what the standard asks for, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import pytest
from jsonschema import Draft202012Validator

from tests.dataroot import WHITEOUT, FakeRoot
from tests.secrets.specimens import github_token
from tests.stores.offline import InProcess

ONE, TWO = github_token(1), github_token(2)


def strict(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    """An object that has these properties only."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


TEXT: Final = {"type": "string"}
LEVEL: Final = {"enum": ["none", "note", "warning", "error"]}
MESSAGE: Final = strict(("text",), text=TEXT)
POSITION: Final = {"type": "integer", "minimum": 1}
BAG: Final = {"type": "object", "properties": {"tags": {"type": "array", "items": TEXT, "uniqueItems": True}}}


def many(items: Any, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


# What sections 3.13 to 3.58 of the standard say of the objects that we use, and no property beyond them.
REGION: Final = {
    **strict((), startLine=POSITION, startColumn=POSITION, byteOffset={"type": "integer", "minimum": 0}),
    "anyOf": [{"required": ["startLine"]}, {"required": ["byteOffset"]}],  # 3.30.1
}
LOCATION: Final = strict(
    (),
    physicalLocation=strict(
        ("artifactLocation",),
        artifactLocation=strict(("uri",), uri={"type": "string", "pattern": r"^[A-Za-z0-9/!._~%-]+$"}),
        region=REGION,
    ),
    logicalLocations=many(strict((), fullyQualifiedName=TEXT), uniqueItems=True),
)
RESULT: Final = strict(
    ("message",),
    ruleId=TEXT,
    ruleIndex={"type": "integer", "minimum": 0},
    level=LEVEL,
    message=MESSAGE,
    locations=many(LOCATION),
    partialFingerprints={"type": "object", "additionalProperties": TEXT},
    suppressions=many(
        strict(
            ("kind",),
            kind={"enum": ["inSource", "external"]},
            status={"enum": ["accepted", "underReview", "rejected"]},
            justification=TEXT,
        )
    ),
    properties=BAG,
)
DRIVER: Final = strict(
    ("name",),
    name=TEXT,
    version=TEXT,
    rules=many(strict(("id",), id=TEXT, shortDescription=MESSAGE, properties=BAG), uniqueItems=True),
)
INVOCATION: Final = strict(
    ("executionSuccessful",),
    executionSuccessful={"type": "boolean"},
    toolExecutionNotifications=many(strict(("message",), level=LEVEL, message=MESSAGE)),
)
RUN: Final = strict(
    ("tool",),
    tool=strict(("driver",), driver=DRIVER),
    columnKind={"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
    invocations=many(INVOCATION),
    results=many(RESULT),
)
LOG: Final = strict(
    ("version", "runs"), **{"$schema": TEXT, "version": {"const": "2.1.0"}, "runs": many(RUN, minItems=1)}
)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Findings in text, in a binary, behind a whiteout, in the configuration, an accepted one, and a warning."""
    place = tmp_path_factory.mktemp("sarif")
    root = FakeRoot(place / "docker")
    layers = [
        root.layer(
            {"dir/naïve \udcff%": f"\n  {ONE}", "bin/tool": b"\0\0" + TWO.encode(), "known": github_token(3)}
        ),
        root.layer({"dir": WHITEOUT}),
    ]
    config = {"config": {"Env": [f"TOKEN={github_token(4)}"]}}
    root.image("app:1", layers, config=config, history=[{"created_by": f"COPY {ONE}"}, {"created_by": "RUN rm"}])
    root.image("broken:1", [root.layer({})]).config.write_text("{")
    run = InProcess(place, {"LAYERSCOPE_DATA_ROOT": str(root.path)})
    baseline = place / "baseline.json"
    entry = {"rule": "*", "path": "known", "reason": "revoked"}
    baseline.write_text(json.dumps({"version": 1, "allow": [entry]}))
    result = run("audit", "--format", "sarif", "--baseline", str(baseline))
    assert result.code == 1
    return json.loads(result.out)


def test_every_object_is_what_the_standard_says(log: Any) -> None:
    assert [error.message for error in Draft202012Validator(LOG).iter_errors(log)] == []


def test_results_refer_to_rules_and_say_where(log: Any) -> None:
    (run,) = log["runs"]
    results = {}
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        results[unquote_to_bytes(place["artifactLocation"]["uri"]).decode("utf-8", "surrogateescape")] = (
            place,
            result,
        )
    assert results.keys() == {"dir/naïve \udcff%", "bin/tool", "known", "config.Env.TOKEN", "history[0]"}
    place, hidden = results["dir/naïve \udcff%"]
    assert place["region"] == {"startLine": 2, "startColumn": 3}
    assert "deleted by layer 1" in hidden["message"]["text"]
    assert results["bin/tool"][0]["region"] == {"byteOffset": 2}
    assert "region" not in results["config.Env.TOKEN"][0]
    assert results["known"][1]["suppressions"][0]["justification"] == "revoked"


def test_what_was_not_read_is_told(log: Any) -> None:
    (invocation,) = log["runs"][0]["invocations"]
    assert invocation["executionSuccessful"] is False
    assert any("image left out" in one["message"]["text"] for one in invocation["toolExecutionNotifications"])


def test_no_secret_is_told(log: Any) -> None:
    text = json.dumps(log)
    assert all(github_token(number) not in text for number in (1, 2, 3, 4))


def test_nothing_found_is_an_empty_run(tmp_path: Path) -> None:
    root = FakeRoot(tmp_path / "docker")
    root.image("app:1", [root.layer({"a": "x"})])
    run = InProcess(tmp_path, {"LAYERSCOPE_DATA_ROOT": str(root.path)})
    result = run("audit", "--format", "sarif")
    assert result.code == 0
    log = json.loads(result.out)
    Draft202012Validator(LOG).validate(log)
    assert log["runs"][0]["results"] == []
