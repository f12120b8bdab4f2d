"""The containerd image store on a real engine: the same answers as on overlay2, by the engine and by the kernel."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from layerscope.model import Cautions
from layerscope.stores.base import Store, find_target
from layerscope.stores.open import open_store
from tests.cli import Cli
from tests.containerd_engine import GRAPHDRIVER, engine_directory, engine_in_tree
from tests.dockerd import BASE, Engine
from tests.engine.test_archive import answers_of, assert_same
from tests.engine.test_container_diff import EVERY_CHANGE, docker_diff, layerscope_diff
from tests.engine.test_unusual_images import layer_tar, saved_image
from tests.kernel import difference, kernel_view, layerscope_view, mount_options, mounted

CLASSIC, BUILDKIT = "layerscope-test/specimen:classic", "layerscope-test/specimen:buildkit"
Document = dict[str, Any]


@pytest.fixture(scope="module")
def specimens(containerd: Engine) -> Engine:
    """The engine with the specimen image, by both builders, and a container that changed something."""
    containerd.build_specimen(CLASSIC, buildkit=False)
    containerd.build_specimen(BUILDKIT, buildkit=True)
    containerd.run(BUILDKIT, EVERY_CHANGE, "--name=changed")
    return containerd


@pytest.fixture
def there(specimens: Engine, tmp_path: Path) -> Cli:
    """The command line on that engine."""
    return Cli(tmp_path, {"DOCKER_HOST": specimens.host})


def containerd_root(engine: Engine) -> Path:
    return engine.data_root / "containerd/daemon"


def merged(engine: Engine, container: str) -> Path:
    """Where the engine mounted a running container's layers, in its own mount namespace."""
    pid = (engine.data_root.parent / "pid").read_text()
    return Path(f"/proc/{pid}/root{engine.data_root}/rootfs/overlayfs/{container}")


def stores(engine: Engine) -> list[Store]:
    """With the engine as a witness and without."""
    return [
        open_store(None, engine.host, None, Cautions()),
        open_store(str(engine.data_root), None, None, Cautions()),
    ]


# -- the same as on overlay2 ---------------------------------------------------------------------------------


def files_of(layer: Document) -> list[Document]:
    """What a layer did to anything but directories, whiteouts left out."""
    return [item for item in layer["changed"] if item["kind"] not in ("directory", "whiteout")]


def without_visibility(layer: Document) -> list[Document]:
    """All that a layer did. Whether one of its directories still contributes depends on the marks above it."""
    return [{**item, "visible": item["visible"] or item["kind"] == "directory"} for item in layer["changed"]]


def hidden_files(answer: Document) -> list[tuple[str, int, str, int, int, str]]:
    """What is hidden by which layer; that a directory is opaque or all in it is whited out counts as the same."""
    return [
        (item["path"], item["layer"], item["kind"], item["size_bytes"], by["layer"], same_reason(by["reason"]))
        for item in answer["hidden_paths"]
        for by in (item["hidden_by"],)
    ]


def same_reason(reason: str) -> str:
    return "whiteout" if reason == "opaque" else reason


@pytest.mark.parametrize("name", ["classic", "buildkit"])
def test_changes_and_hidden_files_are_those_of_overlay2(
    specimens: Engine, there: Cli, cli: Cli, request: pytest.FixtureRequest, name: str
) -> None:
    """containerd unpacks layers from tars, in which a RUN that made a directory anew has a whiteout a file.

    On overlay2 such a directory is opaque: the same files are hidden by the same layer.
    """
    request.getfixturevalue(name)  # builds it on the overlay2 engine, too
    tag = CLASSIC if name == "classic" else BUILDKIT
    theirs = cli.ok("image", tag, "--files", "--hidden", "--json").json
    ours = there.ok("image", tag, "--files", "--hidden", "--json").json
    assert (ours["source"]["driver"], theirs["source"]["driver"]) == ("overlayfs", "overlay2")
    assert ours["warnings"] == []
    opaque = 0
    for layer, other in zip(ours["layers"], theirs["layers"], strict=True):
        assert files_of(layer) == files_of(other)
        for field in ("created_by", "size_bytes", "hidden", "hides"):
            assert layer[field] == other[field], (layer["created_by"], field)
        if other["counts"]["opaque"]:
            opaque += 1
        else:
            assert layer["counts"] == other["counts"]
            assert without_visibility(layer) == without_visibility(other)
    assert opaque == 3
    assert hidden_files(ours) == hidden_files(theirs)
    assert ours["merged"] == theirs["merged"]
    assert (ours["hidden"]["files"], ours["hidden"]["size_bytes"]) == (
        theirs["hidden"]["files"],
        theirs["hidden"]["size_bytes"],
    )
    assert [(step["created_by"], step["layer"]) for step in ours["history"]] == [
        (step["created_by"], step["layer"]) for step in theirs["history"]
    ]


def test_layer_directories_are_those_of_the_snapshotter(specimens: Engine, there: Cli) -> None:
    snapshots = containerd_root(specimens) / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    for layer in there.ok("image", BUILDKIT, "--json").json["layers"]:
        assert layer["diff_dir"] == str(snapshots / layer["cache_id"] / "fs")
        assert layer["snapshot"] == layer["chain_id"]


@pytest.mark.parametrize("tag", [CLASSIC, BUILDKIT])
def test_secret_that_a_later_layer_deleted_can_be_read(there: Cli, tag: str) -> None:
    trace = there.ok("trace", tag, "/root/.aws/credentials", "--json").json
    assert [event["event"] for event in trace["events"]] == ["added", "deleted"]
    layer = str(trace["events"][0]["layer"])
    assert "AKIAQYLPMN5HHHFPZAM2" in there.ok("cat", tag, "root/.aws/credentials", "--layer", layer).out


# -- the engine's own answers --------------------------------------------------------------------------------


def test_image_ids_names_and_chains_are_those_of_docker(specimens: Engine, there: Cli) -> None:
    answer = there.ok("ls", "--json").json
    told = specimens.docker("images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}").split("\n")
    ours = [f"{image['id']} {name}" for image in answer["images"] for name in image["references"]]
    assert sorted(ours) == sorted(told)
    assert answer["warnings"] == []
    for tag in (CLASSIC, BUILDKIT):
        layers = there.ok("image", tag, "--json").json["layers"]
        assert [layer["diff_id"] for layer in layers] == specimens.inspect(tag)["RootFS"]["Layers"]


@pytest.mark.parametrize("tag", [CLASSIC, BUILDKIT])
def test_history_and_recorded_sizes_are_those_of_docker_history(specimens: Engine, there: Cli, tag: str) -> None:
    answer = there.ok("image", tag, "--json").json
    told = [
        json.loads(line)
        for line in specimens.docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", tag).split(
            "\n"
        )
    ]
    steps = answer["history"][::-1]
    assert [step["created_by"] or "" for step in steps] == [step["CreatedBy"] for step in told]
    sizes = [layer["recorded_bytes"] for layer in answer["layers"]]
    ours = [0 if step["layer"] is None else sizes[step["layer"]] for step in steps]
    assert ours == [int(step["Size"]) for step in told]


def test_recorded_size_is_the_disk_space_of_the_snapshot(there: Cli) -> None:
    for layer in there.ok("image", BUILDKIT, "--json").json["layers"]:
        assert layer["allocated_bytes"] == layer["recorded_bytes"]


@pytest.mark.parametrize("state", ["created", "running", "exited"])
def test_container_changes_are_those_of_docker_diff(specimens: Engine, there: Cli, state: str) -> None:
    container = specimens.create(BUILDKIT)
    if state != "created":
        specimens.docker("start", container)
        specimens.docker("exec", container, "sh", "-c", EVERY_CHANGE)
    if state == "exited":
        specimens.docker("kill", container)
    answer = there.ok("container", container, "--json").json
    assert answer["target"]["state"] == state
    assert [layer["role"] for layer in answer["layers"][-3:]] == ["image", "init", "upper"]
    assert answer["warnings"] == []
    assert layerscope_diff(there, container) == docker_diff(specimens, container)
    specimens.remove(container)


@pytest.mark.kernel
@pytest.mark.parametrize("tag", [CLASSIC, BUILDKIT])
def test_running_container_is_what_its_mount_shows(specimens: Engine, tag: str) -> None:
    container = specimens.create(tag)
    specimens.docker("start", container)
    specimens.docker("exec", container, "sh", "-c", EVERY_CHANGE)
    for store in stores(specimens):
        ours = layerscope_view(find_target(store, container).stack)
        assert difference(kernel_view(merged(specimens, container), ours), ours) == []
    specimens.remove(container)


@pytest.mark.kernel
@pytest.mark.parametrize("tag", [CLASSIC, BUILDKIT])
def test_image_is_what_the_kernel_shows_of_its_layers(specimens: Engine, tag: str, tmp_path: Path) -> None:
    stack = find_target(open_store(str(specimens.data_root), None, None, Cautions()), tag).stack
    options = mount_options([Path(layer.diff_dir) for layer in stack], stack.options.xattrs)
    with mounted(tmp_path / "merged", options) as root:
        ours = layerscope_view(stack)
        assert difference(kernel_view(root, ours), ours) == []


def test_init_layers_between_those_of_the_legacy_builder_are_in_containers_only(
    specimens: Engine, there: Cli
) -> None:
    """That builder leaves the init layers of its own containers in the chain, which is what the kernel mounts."""
    container = specimens.create(CLASSIC)
    answer = there.ok("container", container, "--json").json
    of_image = there.ok("image", CLASSIC, "--json").json["layers"]
    roles = [layer["role"] for layer in answer["layers"]]
    assert roles.count("init") > 1
    assert [layer["cache_id"] for layer in answer["layers"] if layer["role"] == "image"] == [
        layer["cache_id"] for layer in of_image
    ]
    by_index = {layer["index"]: layer for layer in answer["layers"]}
    for step in answer["history"]:
        if step["layer"] is not None:
            assert by_index[step["layer"]]["created_by"] == (step["created_by"] or step["comment"])
    specimens.remove(container)


# -- with and without the engine -----------------------------------------------------------------------------

COMMANDS = [
    ["ls"],
    ["ls", "--all"],
    ["image", CLASSIC, "--files", "--hidden"],
    ["image", BUILDKIT],
    ["container", "changed", "--layers", "--files"],
    ["diff", CLASSIC, BUILDKIT],
    ["diff", BUILDKIT, "container:changed"],
    ["files", "changed"],
    ["trace", CLASSIC, "app/conf/one"],
]


def without_source(document: Document) -> Document:
    return {key: value for key, value in document.items() if key not in ("source", "stores")}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_offline_is_online(specimens: Engine, there: Cli, command: list[str]) -> None:
    online = there.ok(*command, "--json").json
    offline = there.ok(*command, "--json", "--data-root", str(specimens.data_root)).json
    assert (online["source"]["kind"], offline["source"]["kind"]) == ("docker-api", "data-root")
    assert without_source(online) == without_source(offline)
    assert online["warnings"] == []


def test_system_containerd_beside_the_data_root_is_found(specimens: Engine, there: Cli, tmp_path: Path) -> None:
    """As on a disk with /var/lib/docker and /var/lib/containerd, copied."""
    var = tmp_path / "disk" / "var" / "lib"
    (var / "docker").mkdir(parents=True)
    subprocess.run(["cp", "-a", str(specimens.data_root / "containers"), str(var / "docker")], check=True)
    subprocess.run(["cp", "-a", str(containerd_root(specimens)), str(var / "containerd")], check=True)
    for place in (["--data-root", str(var / "docker")],):
        copied = there.ok("container", "changed", "--files", "--json", *place).json
        assert copied["source"]["containerd_root"] == str(var / "containerd")
        original = there.ok("container", "changed", "--files", "--json").json
        assert copied["changes"] == original["changes"]
        assert copied["warnings"] == []
    (var / "containerd").rename(tmp_path / "elsewhere")
    lost = there("image", BUILDKIT, "--data-root", str(var / "docker"))
    assert (lost.code, lost.out) == (3, "")
    place = ["--data-root", str(var / "docker"), "--containerd-root", str(tmp_path / "elsewhere")]
    assert there.ok("image", BUILDKIT, "--json", *place).json["layers"]
    alone = there.ok("image", BUILDKIT, "--json", "--containerd-root", str(tmp_path / "elsewhere")).json
    assert [warning["code"] for warning in alone["warnings"]] == ["no-data-root"]
    assert len(alone["layers"]) > 20


# -- other clients of containerd, and images that are not unpacked --------------------------------------------


def ctr(engine: Engine, namespace: str, *arguments: str, stdin: bytes | None = None) -> str:
    """Run containerd's own client in the engine's tree."""
    base = engine.data_root.parent
    inside = ["nsenter", f"--target={(base / 'pid').read_text()}", "--mount"]
    client = ["ctr", f"--address={base}/exec/containerd/containerd.sock", f"--namespace={namespace}"]
    done = subprocess.run(
        [*inside, *client, *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_image_that_is_not_unpacked_is_read_from_its_blobs_until_it_is(specimens: Engine, there: Cli) -> None:
    tag = "layerscope-test/packed:1"
    archive = saved_image(tag, [layer_tar(("only-here", b"x"))])
    ctr(specimens, "moby", "images", "import", "--no-unpack", "-", stdin=archive)
    specimens.images.append(tag)
    answer = there.ok("ls", "--json").json
    (listed,) = (image for image in answer["images"] if image["references"] == [tag])
    assert listed["size_bytes"] is None
    assert [warning["code"] for warning in answer["warnings"]] == ["not-unpacked"]
    packed = there.ok("image", tag, "--files", "--json").json
    assert packed["layers"][0]["diff_dir"].startswith(str(containerd_root(specimens)))
    assert [item["path"] for item in packed["layers"][0]["changed"]] == ["only-here"]
    assert packed["warnings"] == []
    assert there.ok("cat", tag, "only-here").out == "x"
    specimens.remove(specimens.create(tag))
    answer = there.ok("image", tag, "--json").json
    assert (answer["merged"]["files"], answer["warnings"]) == (1, [])


def test_images_and_containers_of_another_client(specimens: Engine, there: Cli) -> None:
    """As Kubernetes and nerdctl have them, with the engine running and without."""
    tag = "example.org/pod:1"
    archive = saved_image(tag, [layer_tar(("lower", b"x"))])
    ctr(specimens, "k8s.io", "images", "import", "-", stdin=archive)
    ctr(specimens, "k8s.io", "containers", "create", "--snapshotter=overlayfs", tag, "pod-1", "sh")
    places = (
        ["--namespace", "k8s.io"],
        ["--namespace", "k8s.io", "--data-root", str(specimens.data_root)],
        ["--namespace", "k8s.io", "--containerd-root", str(containerd_root(specimens))],
    )
    for place in places:
        listed = there.ok("ls", "--json", *place).json
        assert [image["references"] for image in listed["images"]] == [[tag]]
        assert [one["name"] for one in listed["containers"]] == ["pod-1"]
        assert listed["warnings"] == []
        target = there.ok("container", "pod-1", "--json", *place).json
        assert [layer["role"] for layer in target["layers"]] == ["image", "upper"]
        assert target["target"]["image"] == tag
    assert tag not in there.ok("ls").out


# -- both stores on one host ---------------------------------------------------------------------------------


def test_store_that_was_left_behind_is_listed_beside_the_one_in_use(containerd: Engine, tmp_path: Path) -> None:
    with engine_directory() as base:
        with engine_in_tree(base, GRAPHDRIVER) as before:
            before.import_base()
            before.run(BASE, "echo old > /old", "--name=old")
        with engine_in_tree(base) as now:
            now.import_base()
            now.build("layerscope-test/new:1", "FROM BASE\nRUN echo new > /new\n")
            now.run("layerscope-test/new:1", "echo new > /upper", "--name=new")
            cli = Cli(tmp_path, {"DOCKER_HOST": now.host})
            answer = cli.ok("ls", "--json").json
            assert [(store["driver"], store["in_use"]) for store in answer["stores"]] == [
                ("overlayfs", True),
                ("overlay2", False),
            ]
            listed = {(item["driver"], name) for item in answer["images"] for name in item["references"]}
            assert listed == {
                ("overlayfs", BASE), ("overlayfs", "busybox:1.36"), ("overlayfs", "layerscope-test/new:1"),
                ("overlay2", BASE), ("overlay2", "busybox:1.36"),
            }  # fmt: skip
            assert {(item["driver"], item["name"]) for item in answer["containers"]} == {
                ("overlayfs", "new"),
                ("overlay2", "old"),
            }
            assert answer["warnings"] == []
            assert cli.ok("image", BASE, "--json").json["source"]["driver"] == "overlayfs"
            left = cli.ok("container", "old", "--json").json
            assert left["source"]["driver"] == "overlay2"
            assert [(item["path"], item["change"]) for item in left["changes"]] == [("old", "added")]
            table = cli.ok("ls").out
            assert "STORE" in table
            assert "not in use" in table
            offline = cli.ok("ls", "--json", "--data-root", str(now.data_root)).json
            assert {store["driver"] for store in offline["stores"]} == {"overlay2", "overlayfs"}
            ambiguous = cli("image", BASE, "--data-root", str(now.data_root))
            assert (ambiguous.code, "overlay2" in ambiguous.err, "overlayfs" in ambiguous.err) == (3, True, True)


# -- what is saved -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tag", "form"), [(CLASSIC, "tar"), (BUILDKIT, "directory"), (BUILDKIT, "pipe")])
def test_a_saved_image_is_as_in_the_store(
    specimens: Engine, there: Cli, tag: str, form: str, tmp_path: Path
) -> None:
    """The archive holds layers that are packed with gzip."""
    assert_same(answers_of(there, tag), specimens.docker_bytes("save", tag), form, tmp_path)
