"""``link``, ``lower`` and ``l/`` when they are lost, damaged or forged: recovered and said, or one clear error."""

from __future__ import annotations

import shutil

import pytest

from tests.dataroot import FakeRoot, StoredContainer, StoredImage, write
from tests.stores.offline import Offline

OTHER_ID = "0" * 64
OTHER_LINK = "A" * 26


@pytest.fixture
def app(root: FakeRoot) -> StoredImage:
    return root.image("app:1", [root.layer({name: name}) for name in ("base", "middle", "top")])


@pytest.fixture
def web(root: FakeRoot, app: StoredImage) -> StoredContainer:
    return root.container("web", app, upper={"new": "x"})


def cache_ids(offline: Offline, *target: str) -> list[str]:
    return [layer["cache_id"] for layer in offline.json(*target)["layers"]]


def chain_of(app: StoredImage) -> list[str]:
    return [layer.directory.cache_id for layer in app.layers]


# -- l/ ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        None,
        "/var/lib/docker/overlay2/{id}/diff",
        "../{id}",
        "../{id}/diff/",
        "../{id}/diff/../../../../etc",
        "../../../../etc",
        "/etc",
        "../../overlay2/{id}/diff",
        "../../../../diff",
        "../../diff",
        ".././diff",
        "../l/diff",
        "../{id}\n/diff",
        "loop",
    ],
)
def test_short_link_that_is_lost_or_leads_elsewhere_is_recovered_with_a_warning(
    app: StoredImage, offline: Offline, target: str | None
) -> None:
    middle = app.layers[1].directory
    middle.link.unlink()
    if target is not None:
        middle.link.symlink_to(target.format(id=middle.cache_id))
    assert cache_ids(offline, "image", "app:1") == chain_of(app)
    assert offline.warns("image", "app:1") == [("missing-link", f"overlay2/l/{middle.link_id}")]


def test_file_in_place_of_a_short_link_is_recovered(app: StoredImage, offline: Offline) -> None:
    link = app.layers[0].directory.link
    link.unlink()
    link.write_text(f"../{OTHER_ID}/diff")
    assert cache_ids(offline, "image", "app:1") == chain_of(app)


def test_all_short_links_lost_are_recovered(root: FakeRoot, web: StoredContainer, offline: Offline) -> None:
    before = cache_ids(offline, "container", "web")
    shutil.rmtree(root.overlay2 / "l")
    assert cache_ids(offline, "container", "web") == before
    assert {code for code, _ in offline.warns("container", "web")} == {"missing-link"}


def test_short_link_that_no_layer_claims_is_an_error(app: StoredImage, offline: Offline) -> None:
    middle = app.layers[1].directory
    middle.link.unlink()
    (middle.path / "link").write_text("")
    failure = offline.fails("image", "app:1")
    assert middle.link_id in failure.message
    assert "is missing, and no layers have it in their `link` file" in failure.message


def test_short_link_that_two_layers_claim_is_not_guessed(
    root: FakeRoot, app: StoredImage, offline: Offline
) -> None:
    middle = app.layers[1].directory
    middle.link.unlink()
    write(root.overlay2 / OTHER_ID / "link", middle.link_id)
    assert "2 layers have it" in offline.fails("image", "app:1").message


def test_short_link_to_a_layer_that_is_gone_is_an_error(app: StoredImage, offline: Offline) -> None:
    middle = app.layers[1].directory
    middle.link.unlink()
    middle.link.symlink_to(f"../{OTHER_ID}/diff")
    failure = offline.fails("image", "app:1", warnings=1)
    assert failure.message == f"the layer directory {middle.path.parent}/{OTHER_ID}/diff is missing"


def test_short_links_that_were_swapped_are_a_warning_with_both_chains(app: StoredImage, offline: Offline) -> None:
    """The engine mounts what the links say, so that is shown; layerdb says otherwise."""
    base, middle = app.layers[0].directory, app.layers[1].directory
    for directory, other in ((base, middle), (middle, base)):
        directory.link.unlink()
        directory.link.symlink_to(f"../{other.cache_id}/diff")
    answer = offline.json("image", "app:1")
    assert [layer["cache_id"] for layer in answer["layers"][:2]] == [middle.cache_id, base.cache_id]
    (warning,) = answer["warnings"]
    assert warning["code"] == "chain-mismatch"
    assert f"{base.cache_id} {middle.cache_id}" in warning["message"]
    assert f"{middle.cache_id} {base.cache_id}" in warning["message"]


# -- link ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [None, b"", b"short", b"../../etc/passwd", b"\xff\xfe", b"a" * 26, b"A" * 100_000]
)
def test_damaged_link_file_costs_the_short_name_only(
    app: StoredImage, offline: Offline, content: bytes | None
) -> None:
    """A crash leaves it empty; the chain is in `lower` and `l/`."""
    directory = app.layers[1].directory
    (directory.path / "link").unlink() if content is None else (directory.path / "link").write_bytes(content)
    answer = offline.json("image", "app:1")
    assert [layer["cache_id"] for layer in answer["layers"]] == chain_of(app)
    assert [layer["link_id"] is None for layer in answer["layers"]] == [False, True, False]
    assert offline.warns("image", "app:1") == [("broken-link", f"overlay2/{directory.cache_id}/link")]


# -- lower ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lower",
    [
        "",
        "/etc",
        "l/../../etc",
        "l/..",
        "l/",
        "l",
        "..",
        "{link}",
        "./l/{link}",
        "l/{link}/",
        "l/{link}/..",
        "l//{link}",
        "L/{link}",
        "l/{link}:",
        ":l/{link}",
        "l/{link} :l/{link}",
        "l/{link},l/{link}",
        "l/" + "a" * 26,
        "\x00",
        "l/{link}\x00",
        "\x1b]0;title\x07",
    ],
)
def test_lower_entry_that_is_no_short_link_is_an_error(app: StoredImage, offline: Offline, lower: str) -> None:
    top, base = app.layers[2].directory, app.layers[0].directory
    (top.path / "lower").write_text(lower.format(link=base.link_id))
    failure = offline.fails("image", "app:1")
    assert f"{top.path}/lower has an entry that is no short link" in failure.message
    assert "\x1b" not in failure.message


def test_lower_that_is_not_text_is_an_error(app: StoredImage, offline: Offline) -> None:
    (app.layers[2].directory.path / "lower").write_bytes(b"l/\xff\xfe\xfd")
    assert "lower is not text" in offline.fails("image", "app:1").message


def test_lower_without_end_is_refused_unread(app: StoredImage, offline: Offline) -> None:
    (app.layers[2].directory.path / "lower").write_text(":".join(["l/" + OTHER_LINK] * 100_000))
    assert "is larger than any such record" in offline.fails("image", "app:1").message


@pytest.mark.parametrize("who", ["itself", "another twice"])
def test_lower_in_a_circle_is_an_error(app: StoredImage, offline: Offline, who: str) -> None:
    top, base = app.layers[2].directory, app.layers[0].directory
    named = [base.link_id, top.link_id if who == "itself" else base.link_id]
    (top.path / "lower").write_text(":".join(f"l/{link_id}" for link_id in named))
    assert "lower names a layer twice" in offline.fails("image", "app:1").message


def test_base_that_names_the_layers_above_it_does_not_hang(
    root: FakeRoot, app: StoredImage, offline: Offline
) -> None:
    """Each `lower` holds the whole chain, so only that of the top layer counts; the base alone disagrees."""
    base, top = app.layers[0].directory, app.layers[2].directory
    (base.path / "lower").write_text(f"l/{top.link_id}")
    assert cache_ids(offline, "image", "app:1") == chain_of(app)
    root.image("base:1", [root.layer({"base": "base"})])
    assert offline.warns("image", "base:1") == [("chain-mismatch", "overlay2")]


def test_lower_that_is_lost_is_a_warning(app: StoredImage, offline: Offline) -> None:
    """The engine then mounts the top layer alone."""
    (app.layers[2].directory.path / "lower").unlink()
    assert cache_ids(offline, "image", "app:1") == chain_of(app)[2:]
    assert offline.warns("image", "app:1") == [("chain-mismatch", "overlay2")]


def test_stale_lower_entry_of_one_container_leaves_the_others(
    root: FakeRoot, app: StoredImage, web: StoredContainer, offline: Offline
) -> None:
    root.container("other", app)
    (web.upper.path / "lower").write_text(f"l/{web.init.link_id}:l/{OTHER_LINK}")
    assert OTHER_LINK in offline.fails("container", "web").message
    assert offline.warns("ls") == []
    assert offline.warns("container", "other") == []


# -- directories ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["diff", ""])
def test_layer_directory_that_is_gone_is_an_error(app: StoredImage, offline: Offline, gone: str) -> None:
    directory = app.layers[1].directory
    shutil.rmtree(directory.path / gone)
    assert f"the layer directory {directory.diff} is missing" in offline.fails("image", "app:1").message
    assert offline.names() == (["app:1"], [])


@pytest.mark.parametrize("what", ["symlink", "file"])
@pytest.mark.parametrize("where", ["diff", "overlay2/ID"])
def test_layer_directory_that_is_none_is_never_followed(
    root: FakeRoot, app: StoredImage, offline: Offline, what: str, where: str
) -> None:
    directory = app.layers[1].directory
    replaced = directory.diff if where == "diff" else directory.path
    kept = root.path / "kept"
    replaced.rename(kept)
    replaced.symlink_to(kept) if what == "symlink" else replaced.write_text("")
    message = offline.fails("image", "app:1").message
    assert "is or leads through a symlink or a file where a directory must be" in message


def test_overlay2_that_is_a_symlink_is_named(root: FakeRoot, app: StoredImage, offline: Offline) -> None:
    root.overlay2.rename(root.path / "elsewhere")
    root.overlay2.symlink_to(root.path / "elsewhere")
    failure = offline.fails("image", "app:1")
    assert "leads through a symlink" in failure.message
    assert "mount the real directory there" in failure.hint
