"""``audit`` on made-up data roots: what counts as one finding, gates, baselines, and what can't be read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli import cache_home
from tests.dataroot import OPAQUE, WHITEOUT, FakeRoot
from tests.secrets.specimens import armoured_key, github_token, slack_token
from tests.stores.offline import InProcess, Offline

ONE, TWO, THREE = github_token(1), github_token(2), github_token(3)
PASSWORD = "hx72Kd9sQwzP"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path / "docker")


@pytest.fixture
def run(root: FakeRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offline:
    monkeypatch.chdir(tmp_path)
    return Offline(InProcess(tmp_path), root.path)


@pytest.fixture
def own_cache(run: Offline, tmp_path: Path) -> Path:
    """A cache of the test's own, in which only the compiled rules lie."""
    run("audit", "--confidence", "low")
    directory = tmp_path / "own-cache/layerscope"
    directory.mkdir(parents=True, mode=0o700)
    for compiled in Path(cache_home(), "layerscope").glob("hyperscan-*"):
        shutil.copy(compiled, directory)
    run.cli.environment["XDG_CACHE_HOME"] = str(tmp_path / "own-cache")
    return directory


def audit(run: Offline, *arguments: str) -> Any:
    return run.json("audit", "--exit-zero", *arguments)


def brief(answer: Any) -> list[tuple[str, str, int | None]]:
    """Exposure, path and layer of each finding."""
    return [
        (one["exposure"], one["path"], one["layer"]["index"] if one["layer"] else None)
        for one in answer["findings"]
    ]


def names(holders: Any) -> list[str]:
    return [holder["name"] for holder in holders]


# -- one finding or several ----------------------------------------------------------------------------------


def test_the_same_value_in_two_layers_is_two_places_and_one_fingerprint(root: FakeRoot, run: Offline) -> None:
    layers = [root.layer({"a": ONE}), root.layer({"b": ONE})]
    root.image("app:1", layers)
    answer = audit(run)
    assert brief(answer) == [("visible", "a", 0), ("visible", "b", 1)]
    assert len({finding["fingerprint"] for finding in answer["findings"]}) == 1
    assert "1 secret in 2 places" in run("audit").out


def test_images_that_share_a_layer_share_its_finding(root: FakeRoot, run: Offline) -> None:
    base = root.layer({"etc/token": ONE})
    root.image("a:1", [base])
    root.image("b:1", [base, root.layer({"x": "1"})])
    root.image("c:1", [base, root.layer({"etc/token": WHITEOUT})])
    answer = audit(run)
    assert answer["scanned"]["layers"] == 3
    shown, gone = sorted(answer["findings"], key=lambda one: one["exposure"], reverse=True)
    assert (shown["exposure"], shown["target"]["name"], names(shown["also_in"])) == ("visible", "a:1", ["b:1"])
    assert (gone["exposure"], gone["target"]["name"], gone["also_in"]) == ("deleted", "c:1", [])


def test_images_that_were_not_audited_are_named_when_they_hold_the_layer(root: FakeRoot, run: Offline) -> None:
    base = root.layer({"etc/token": ONE})
    for name in ("a:1", "b:1"):
        root.image(name, [base, root.layer({name: "x"})])
    (finding,) = audit(run, "b:1")["findings"]
    assert (finding["target"]["name"], names(finding["also_in"])) == ("b:1", ["a:1"])


def test_every_way_to_hide(root: FakeRoot, run: Offline) -> None:
    before = {
        "deleted": ONE,
        "dir/in": ONE,
        "opaque/in": ONE,
        "over": ONE,
        "file": ONE,
        "was/in": ONE,
        "stays": ONE,
    }
    after = {"deleted": WHITEOUT, "dir": WHITEOUT, "opaque": OPAQUE, "over": "x", "file/in": "x", "was": "a file"}
    steps = [{"created_by": "COPY . /"}, {"created_by": "RUN hide"}]
    root.image("app:1", [root.layer(before), root.layer(after)], history=steps)
    found = {finding["path"]: finding for finding in audit(run)["findings"]}
    assert {path: (one["exposure"], (one["hidden_by"] or {}).get("reason")) for path, one in found.items()} == {
        "deleted": ("deleted", "whiteout"),
        "dir/in": ("deleted", "whiteout"),
        "opaque/in": ("deleted", "opaque"),
        "over": ("overwritten", "overwritten"),
        "file": ("deleted", "replaced"),
        "was/in": ("deleted", "replaced"),
        "stays": ("visible", None),
    }
    assert found["dir/in"]["hidden_by"] == {
        "layer": 1,
        "reason": "whiteout",
        "path": "dir",
        "created_by": "RUN hide",
    }
    assert found["stays"]["created_by"] == "COPY . /"


def test_a_container_hides_and_adds(root: FakeRoot, run: Offline) -> None:
    image = root.image("app:1", [root.layer({"token": ONE})])
    root.container("web", image, upper={"token": WHITEOUT, "new": TWO})
    answer = audit(run, "web")
    assert brief(answer) == [("visible", "new", 2), ("deleted", "token", 0)]
    assert answer["findings"][0]["layer"]["role"] == "upper"
    assert "upper layer" in run("audit", "web").out


# -- configuration -------------------------------------------------------------------------------------------


def test_configuration_says_where_it_was_set(root: FakeRoot, run: Offline) -> None:
    config = {
        "Env": ["PATH=/bin", f"TOKEN={ONE}", f"DB_PASSWORD={PASSWORD}"],
        "Labels": {"ci.token": TWO},
        "Healthcheck": {"Test": ["CMD", "check", THREE]},
        "OnBuild": [f"RUN login {slack_token(1)}"],
    }
    history = [
        {"created_by": "ADD base"},
        {"created_by": f"ENV TOKEN={ONE}", "empty_layer": True},
        {"created_by": f"LABEL ci.token={TWO}", "empty_layer": True},
    ]
    image = root.image("app:1", [root.layer({})], history=history, config={"config": config})
    answer = audit(run)
    found = {one["path"]: one for one in answer["findings"]}
    assert sorted(found) == [
        "config.Env.DB_PASSWORD",
        "config.Env.TOKEN",
        "config.Healthcheck.Test",
        "config.Labels.ci.token",
        "config.OnBuild",
    ]
    assert {one["exposure"] for one in found.values()} == {"config"}
    assert found["config.Env.TOKEN"]["created_by"] == f"ENV TOKEN={found['config.Env.TOKEN']['redacted']}"
    assert all(one["on_disk_path"] == str(image.config) for one in found.values())


def test_build_arguments_are_told_once_at_the_first_step(root: FakeRoot, run: Offline) -> None:
    history = [
        {"created_by": "ADD base"},
        {"created_by": f"RUN |2 KEY={ONE} OTHER=a b /bin/sh -c make # buildkit"},
        {"created_by": f"|2 KEY={ONE} OTHER=a b /bin/sh -c make install"},
    ]
    root.image("app:1", [root.layer({}), root.layer({"a": ""}), root.layer({"b": ""})], history=history)
    (finding,) = audit(run)["findings"]
    assert (finding["path"], finding["layer"]["index"]) == ("history[1].argument.KEY", 1)


def test_a_container_keeps_what_it_has_from_its_image_apart_from_its_own(root: FakeRoot, run: Offline) -> None:
    image = root.image("app:1", [root.layer({})], config={"config": {"Env": [f"A={ONE}"]}})
    container = root.container("web", image)
    config = json.loads(container.config.read_text())
    config["Config"]["Env"] = [f"A={ONE}", f"B={TWO}"]
    container.config.write_text(json.dumps(config))
    found = {one["path"]: one for one in audit(run)["findings"]}
    assert found.keys() == {"config.Env.A", "config.Env.B"}
    assert (found["config.Env.A"]["target"]["name"], names(found["config.Env.A"]["also_in"])) == ("app:1", ["web"])
    assert found["config.Env.A"]["on_disk_path"] == str(image.config)
    assert found["config.Env.B"]["on_disk_path"] == str(container.config)


@pytest.mark.parametrize("value", [5, None, {"a": [1, {"b": None}]}, [["x"]], "text", {"": {"": ""}}])
def test_configurations_of_any_shape_are_read(root: FakeRoot, run: Offline, value: object) -> None:
    config = {"Env": value, "Labels": value, "Cmd": value}
    root.image("app:1", [root.layer({})], config={"config": config, "container_config": value, "author": ONE})
    assert brief(audit(run)) == [("config", "author", None)]


# -- secrets stay secret -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "sarif"])
@pytest.mark.parametrize("cached", [False, True])
def test_instructions_hold_no_secret_that_was_found_anywhere(
    root: FakeRoot, run: Offline, form: str, cached: bool, own_cache: Path
) -> None:
    """Also those that only their file gives away, and after a run that no longer knows the values."""
    netrc = f"machine example.org login me password {PASSWORD}\n"
    key = armoured_key()
    steps = [
        {"created_by": f"RUN printf 'machine example.org login me password {PASSWORD}' > /root/.netrc"},
        {"created_by": f"RUN echo {ONE}x{TWO} && curl -u me:{PASSWORD} -p{PASSWORD}"},
        {"created_by": f"RUN rm /root/.netrc # {PASSWORD} {json.dumps(key)}"},
    ]
    layers = [
        root.layer({"root/.netrc": netrc}),
        root.layer({"t": f"{ONE}\n{TWO}"}),
        root.layer({"root/.netrc": WHITEOUT}),
    ]
    root.image("app:1", layers, history=steps)
    if cached:
        run("audit")
    result = run("audit", "--format", form, "--no-trunc", "--confidence", "low", "-v")
    assert "netrc" in result.out
    for secret in (PASSWORD, ONE, TWO, key.splitlines()[1]):
        assert secret not in result.out + result.err


def test_show_secrets_shows_them(root: FakeRoot, run: Offline) -> None:
    root.image("app:1", [root.layer({"a": f"x {ONE}"})], history=[{"created_by": f"RUN echo {ONE}"}])
    assert ONE not in run("audit").out
    assert run("audit", "--show-secrets").out.count(ONE) >= 2
    finding = audit(run, "--show-secrets")["findings"][0]
    assert (finding["secret"], finding["created_by"]) == (ONE, f"RUN echo {ONE}")


def test_a_hostile_path_acts_on_no_terminal(root: FakeRoot, run: Offline) -> None:
    root.image("app:1", [root.layer({"\x1b[31m\n\udcff\u202e": ONE})])
    for form in ("table", "sarif", "jsonl"):
        out = run("audit", "--format", form).out
        assert "\x1b" not in out and "\u202e" not in out
    assert audit(run)["findings"][0]["path_b64"]


# -- gates ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two(root: FakeRoot) -> FakeRoot:
    """One finding of high confidence and one of medium."""
    root.image("app:1", [root.layer({"token": ONE, "srv/.env": f"DB_PASSWORD={PASSWORD}\n"})])
    return root


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ([], 1, 2),
        (["--fail-on", "high"], 1, 2),
        (["--fail-on", "low"], 1, 2),
        (["--exit-zero"], 0, 2),
        (["--confidence", "high"], 1, 1),
        (["--only", "github-*"], 1, 1),
        (["--disable", "github-*"], 1, 1),
        (["--disable", "github-*", "--fail-on", "high"], 0, 1),
        (["--allow", "github-*:token"], 1, 1),
        (["--allow", "*:token", "--allow", "*:srv/*"], 0, 0),
        (["--allow", "*:elsewhere"], 1, 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_gates(two: FakeRoot, run: Offline, arguments: list[str], code: int, shown: int) -> None:
    result = run("audit", "--json", *arguments)
    assert (result.code, len(result.json["findings"])) == (code, shown)


def test_a_baseline_is_written_kept_and_obeyed(two: FakeRoot, run: Offline, tmp_path: Path) -> None:
    first = tmp_path / "first.json"
    assert run("audit", "--only", "github-*", "--write-baseline", str(first)).code == 0
    result = run("audit", "--json", "--baseline", str(first))
    assert (result.code, brief(result.json)) == (1, [("visible", "srv/.env", 0)])
    assert [entry["reason"] for entry in result.json["accepted"]] == ["not reviewed yet"]
    second = tmp_path / "second.json"
    assert run("audit", "--baseline", str(first), "--write-baseline", str(second)).code == 0
    everything = run("audit", "--baseline", str(second))
    assert everything.code == 0
    assert "No secrets found" in everything.out and "2 accepted (baseline, --allow)" in everything.out
    assert ONE not in second.read_text() and PASSWORD not in second.read_text()


def test_an_expired_entry_fails_the_gate_and_says_so(two: FakeRoot, run: Offline, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    run("audit", "--write-baseline", str(path))
    path.write_text(path.read_text().replace('"expires": null', '"expires": "2020-01-31"'))
    result = run("audit", "--baseline", str(path))
    assert result.code == 1
    assert "expired on 2020-01-31" in result.err


def test_accepted_findings_are_suppressed_in_sarif(two: FakeRoot, run: Offline, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    run("audit", "--only", "github-*", "--write-baseline", str(path))
    (one,) = json.loads(run("audit", "--format", "sarif", "--baseline", str(path)).out)["runs"]
    assert [result.get("suppressions", [{}])[0].get("justification") for result in one["results"]] == [
        None,
        "not reviewed yet",
    ]


def test_base_layers_are_left_out_by_image_and_by_digest(root: FakeRoot, run: Offline) -> None:
    base = root.layer({"known": ONE})
    root.image("base:1", [base], config={"config": {"Env": [f"KNOWN={TWO}"]}})
    root.image("app:1", [base, root.layer({"new": THREE})], config={"config": {"Env": [f"KNOWN={TWO}"]}})
    assert len(audit(run, "app:1")["findings"]) == 3
    answer = audit(run, "app:1", "--ignore-layers-of", "base:1")
    assert brief(answer) == [("visible", "new", 1)]
    assert answer["scanned"]["ignored"] == [{"diff_id": base.diff_id, "reason": "--ignore-layers-of base:1"}]
    assert answer["scanned"]["layers"] == 1
    by_digest = audit(run, "app:1", "--ignore-diff-id", base.diff_id)
    assert brief(by_digest) == [("config", "config.Env.KNOWN", None), ("visible", "new", 1)]
    assert "digest" in run.fails("audit", "app:1", "--ignore-diff-id", "sha256:12", code=2).message


def test_legacy_steps_only_with_all(root: FakeRoot, run: Offline) -> None:
    first = root.layer({"a": "x"})
    step = root.image(None, [first], config={"author": ONE})
    root.image("app:1", [first, root.layer({"b": "x"})], parent=step)
    assert audit(run)["findings"] == []
    assert brief(audit(run, "--all")) == [("config", "author", None)]
    run.fails("audit", "--all", "app:1", code=2)


def test_rules_of_the_users_own(two: FakeRoot, run: Offline, tmp_path: Path) -> None:
    rules = tmp_path / "gitleaks.toml"
    rules.write_text("[[rules]]\nid = 'mine'\nregex = 'DB_(PASS\\w+)'\nkeywords = ['db_']\n")
    assert [one["rule_id"] for one in audit(run, "--rules", str(rules))["findings"]] == ["mine"]
    rules.write_text("[[rules]]\nid = 'mine'\nregex = '(?=x)'\n")
    failure = run.fails("audit", "--rules", str(rules), code=2)
    assert str(rules) in failure.message and "mine" in failure.message


# -- what can't be read --------------------------------------------------------------------------------------


def test_a_missing_layer_leaves_the_other_images_and_is_told(root: FakeRoot, run: Offline) -> None:
    broken = root.image("broken:1", [root.layer({"a": TWO})])
    root.image("whole:1", [root.layer({"b": ONE})])
    diff = broken.layers[0].directory.diff
    (diff / "a").unlink()
    diff.rmdir()
    result = run("audit", "--json")
    assert (result.code, brief(result.json)) == (1, [("visible", "b", 0)])
    (skipped,) = result.json["scanned"]["skipped"]
    assert skipped["path"] == "broken:1" and "missing" in skipped["reason"]
    assert run("audit", "--exit-zero").code == 0
    assert "Incomplete" in run("audit").out
    assert run("audit", "--exit-zero", "--strict").code == 3
    assert "missing" in run.fails("audit", "broken:1").message


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_told(root: FakeRoot, run: Offline) -> None:
    image = root.image("app:1", [root.layer({"a": ONE, "b": TWO})])
    (image.layers[0].directory.diff / "b").chmod(0)
    answer = audit(run)
    assert [skip["reason"] for skip in answer["scanned"]["skipped"]] == ["Permission denied"]


def test_a_broken_image_is_told(root: FakeRoot, run: Offline) -> None:
    broken = root.image("broken:1", [root.layer({})])
    broken.config.write_text("{")
    answer = audit(run)
    assert [skip["path"] for skip in answer["scanned"]["skipped"]] == ["broken:1"]
    assert run("audit", "--strict").code == 3


# -- the cache -----------------------------------------------------------------------------------------------


def test_a_second_run_reads_only_what_may_change(
    root: FakeRoot, run: Offline, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerscope.secrets import scan

    image = root.image("app:1", [root.layer({"a": ONE}), root.layer({"b": TWO})])
    container = root.container("web", image, upper={"c": THREE})
    first = audit(run)
    read: list[str] = []
    real = scan.LayerFiles.__iter__

    def note(self: scan.LayerFiles) -> Any:
        read.append(self._tree.path)
        return real(self)

    monkeypatch.setattr(scan.LayerFiles, "__iter__", note)
    second = audit(run)
    assert second == first
    assert sorted(read) == sorted([str(container.upper.diff), str(container.init.diff)])
    read.clear()
    assert audit(run, "--no-cache") == first
    assert len(read) == 4
    read.clear()
    assert audit(run, "--disable", "slack-*") == first
    assert len(read) == 4, "other rules"


def test_a_corrupt_cache_is_a_warning_and_changes_nothing(root: FakeRoot, run: Offline, own_cache: Path) -> None:
    root.image("app:1", [root.layer({"a": ONE})])
    first = audit(run)
    (entry,) = own_cache.rglob("*.json")
    entry.write_text(entry.read_text()[:-10])
    second = audit(run)
    assert [warning["code"] for warning in second["warnings"]] == ["corrupt-cache"]
    assert second["findings"] == first["findings"]
    assert audit(run) == first


def test_another_directory_with_the_same_chain_id_is_scanned_itself(
    root: FakeRoot, run: Offline, own_cache: Path, tmp_path: Path
) -> None:
    """A chain_id is what a disk claims: what one holds says nothing of another."""
    content = root.layer({"a": "harmless"})
    root.image("app:1", [content])
    assert audit(run)["findings"] == []
    other = FakeRoot(tmp_path / "other")
    image = other.image("app:1", [other.layer({"a": "harmless"})])
    (image.layers[0].directory.diff / "a").write_text(ONE)
    assert len(audit(Offline(run.cli, other.path))["findings"]) == 1


def test_without_a_cache_directory_it_works(root: FakeRoot, run: Offline) -> None:
    root.image("app:1", [root.layer({"a": ONE})])
    run.cli.environment["XDG_CACHE_HOME"] = "/dev/null/nowhere"
    answer = audit(run)
    assert (len(answer["findings"]), [one["code"] for one in answer["warnings"]]) == (1, ["no-cache"])
