"""What ``df`` prints: a table, a document and its schema."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from layerscope.analysis.disk_usage import Category, DiskUsage, OutsideKind, OutsideSpace
from layerscope.analysis.engine_difference import Difference, Reason
from layerscope.analysis.other_stores import OtherStore
from layerscope.analysis.purpose import Purpose
from layerscope.model import Source
from layerscope.report.document import Document, path_fields, source_document
from layerscope.report.orphans import wrapped
from layerscope.report.shapes import (
    COUNT,
    FLAG,
    SOURCE,
    TEXT,
    Schema,
    described,
    listed,
    nullable,
    one_of,
    path_record,
    record,
)
from layerscope.report.style import Style
from layerscope.report.table import bold_grid
from layerscope.report.text import amount, plural, shown_path, storage

MOST_LISTED: Final = 5
"""Logs and volumes in the table; the document has all."""
COMMANDS: Final = {
    Category.IMAGES: "docker image prune --all",
    Category.CONTAINERS: "docker container prune",
    Category.BUILD_CACHE: "docker builder prune --all",
}
"""What frees the reclaimable bytes of a category."""
_SAID: Final = {
    Reason.RECORDED: "recorded sizes are other ones",
    Reason.BLOCKS: "files take whole blocks, holes none",
    Reason.DIRECTORIES: "directories themselves",
    Reason.DRIVER: "link, lower and work beside diff",
    Reason.INIT: "init layers of containers",
    Reason.LOWER: "layers whose image is gone",
    Reason.OTHERS: "layers of containers and build cache",
}


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """What a store takes, and what the engine that uses it says."""

    source: Source
    usage: DiskUsage
    claims: Sequence[Difference] | None = None


def df_table(stores: Sequence[StoreUsage], others: Sequence[OtherStore], style: Style) -> str:
    """Categories and their sum, why Docker says something else, and what lies outside of the layers.

    Of every store but the first only the categories: what lies outside is the same.
    """
    usage = stores[0].usage
    parts = [part for store in stores for part in (*_store(store, style), "")]
    parts += [_outside(usage, style), *_largest(usage, style), "", _filesystem(stores[0], style)]
    shown = {store.source.driver for store in stores}
    for other in others:
        if other.driver not in shown:
            use = {True: ", in use", False: ", not in use", None: ""}[other.in_use]
            size = style.size(other.allocated_bytes)
            parts.append(f"another store: {shown_path(other.path)} ({other.driver}{use}) takes {size}")
    return "\n".join(parts)


def _store(store: StoreUsage, style: Style) -> Iterable[str]:
    usage, claims = store.usage, store.claims
    parts = [f"{'Storage':<10} {storage(store.source)}", "", _categories(usage, claims, style)]
    shared = sum(layer.measured.allocated_bytes for layer in usage.of(Category.IMAGES) if layer.in_build_cache)
    notes = []
    if shared:
        notes.append(f"{style.size(shared)} of the images are build cache, too: to free them, remove both.")
    if usage.twice_bytes:
        twice = style.size(usage.twice_bytes)
        notes.append(f"{twice} of the blobs are layers that are unpacked as well: those are on disk twice.")
    if usage.of(Category.LEAKED):
        notes.append("`layerscope orphans` names the leaked directories, and what frees them.")
    if usage.of(Category.UNDECIDED):
        notes.append("`layerscope orphans` says why directories are undecided.")
    parts += ["", *(line for note in notes for line in wrapped(note, style, ""))] if notes else []
    if claims:
        parts += ["", _reasons(claims, style)]
    return parts


def _categories(usage: DiskUsage, claims: Sequence[Difference] | None, style: Style) -> str:
    told = {item.name: item.claimed_bytes for item in claims or ()}
    rows = []
    for category in Category:
        layers = usage.of(category)
        if category in (Category.UNDECIDED, Category.BLOBS) and not layers:
            continue
        command = COMMANDS.get(category) if usage.is_docker else None
        rows.append(
            [
                category.value.replace("-", " "),
                amount(len(layers)) if category is not Category.METADATA else "",
                style.size(usage.category_bytes(category)),
                *([style.size(told[category]) if category in told else ""] if claims is not None else []),
                style.size(_reclaimable(usage, category)) if command is not None else "",
                command or "",
            ]
        )
    total = style.paint(style.size(usage.storage_bytes), "bold")
    rows.append(["sum", amount(len(usage.layers)), total, *([""] if claims is not None else []), "", ""])
    column = ["DOCKER"] if claims is not None else []
    headers = ["LAYERS AND IMAGES", "DIRECTORIES", "DISK", *column, "RECLAIMABLE", "FREED BY"]
    return bold_grid(rows, headers, set(range(1, len(headers) - 1)), style)


def _reclaimable(usage: DiskUsage, category: Category) -> int:
    return sum(layer.measured.allocated_bytes for layer in usage.of(category) if layer.reclaimable)


def _reasons(claims: Sequence[Difference], style: Style) -> str:
    """A column for each figure of Docker's, from it down to ours."""
    rows = [["`docker system df`", *(style.size(item.claimed_bytes) for item in claims)]]
    for reason in Reason:
        steps = [dict(item.steps).get(reason) for item in claims]
        if any(steps):
            rows.append([_SAID[reason], *("" if step is None else _signed(step, style) for step in steps)])
    rows.append(["disk", *(style.size(item.allocated_bytes) for item in claims)])
    headers = ["WHY DOCKER SAYS OTHERWISE", *(item.name.replace("-", " ").upper() for item in claims)]
    return bold_grid(rows, headers, set(range(1, len(headers))), style)


def _signed(number: int, style: Style) -> str:
    return f"{'−' if number < 0 else '+'}{style.size(abs(number))}"


def _outside(usage: DiskUsage, style: Style) -> str:
    rows = []
    for kind, title in (
        (OutsideKind.LOG, "container logs"),
        (OutsideKind.CONTAINER, "other files of containers"),
        (OutsideKind.VOLUME, "volumes"),
    ):
        items = [item for item in usage.outside if item.kind is kind]
        rows.append([title, amount(len(items)), style.size(sum(item.allocated_bytes for item in items))])
    others = [item for item in usage.outside if item.kind is OutsideKind.OTHER]
    for item in others[:MOST_LISTED]:
        name = "the data root itself" if item.name == "." else f"{shown_path(item.name)}/"
        rows.append([name, "", style.size(item.allocated_bytes)])
    if len(others) > MOST_LISTED:
        rest = others[MOST_LISTED:]
        rows.append(["others", amount(len(rest)), style.size(sum(item.allocated_bytes for item in rest))])
    rows.append(["sum", "", style.paint(style.size(usage.outside_bytes), "bold")])
    return bold_grid(rows, ["OUTSIDE OF THEM", "COUNT", "DISK"], {1, 2}, style)


def _largest(usage: DiskUsage, style: Style) -> Iterable[str]:
    for kind, title in ((OutsideKind.LOG, "Logs"), (OutsideKind.VOLUME, "Volumes")):
        items = [item for item in usage.outside if item.kind is kind and item.allocated_bytes]
        if items:
            yield from ("", style.paint(title, "bold"))
            for item in items[:MOST_LISTED]:
                yield f"  {style.size(item.allocated_bytes):>8}  {shown_path(item.name)}"
            if len(items) > MOST_LISTED:
                yield f"  … and {plural(len(items) - MOST_LISTED, 'more', 'more')}; --json lists them"


def _filesystem(store: StoreUsage, style: Style) -> str:
    usage, root = store.usage, store.source.data_root
    state = usage.filesystem
    inside = root is None or f"{store.source.storage}/".startswith(f"{root}/")
    lines = [
        f"{style.size(usage.storage_bytes)} + {style.size(usage.outside_bytes)} ="
        f" {style.size(usage.total_bytes)} {'below the data root' if inside else 'in both directories'}",
        f"{style.size(state.used_bytes)} of {style.size(state.total_bytes)} are used on its file system",
    ]
    own = [path for path in usage.mounts if "/containers/" not in path]
    if own:
        lines.append(f"not counted, for it is mounted there: {', '.join(shown_path(path) for path in own)}")
    if not usage.complete:
        lines.append(style.paint("incomplete: the warnings say what is missing", "yellow"))
    return "\n".join(lines)


# -- documents -----------------------------------------------------------------------------------------------


def df_document(stores: Sequence[StoreUsage], others: Sequence[OtherStore]) -> Document:
    usage, claims = stores[0].usage, stores[0].claims
    return {
        "categories": _categories_document(usage),
        "stores": [
            {
                "source": source_document(store.source),
                "categories": _categories_document(store.usage),
                "storage_bytes": store.usage.storage_bytes,
                "packed_twice_bytes": store.usage.twice_bytes,
            }
            for store in stores
        ],
        "storage_bytes": usage.storage_bytes,
        "outside": [_outside_document(item) for item in usage.outside],
        "outside_bytes": usage.outside_bytes,
        "total_bytes": usage.total_bytes,
        "filesystem": {
            "total_bytes": usage.filesystem.total_bytes,
            "used_bytes": usage.filesystem.used_bytes,
        },
        "engine": None if claims is None else [_difference(item) for item in claims],
        "other_stores": [
            {
                "driver": other.driver,
                **path_fields(other.path),
                "in_use": other.in_use,
                "allocated_bytes": other.allocated_bytes,
            }
            for other in others
        ],
        "mounts": [path_fields(path) for path in usage.mounts],
        "complete": usage.complete,
    }


def _categories_document(usage: DiskUsage) -> list[Document]:
    return [
        _category(usage, category) for category in Category if category is not Category.BLOBS or usage.of(category)
    ]


def _category(usage: DiskUsage, category: Category) -> Document:
    layers = usage.of(category)
    classes = []
    for purpose in Purpose:
        of_class = [layer for layer in layers if layer.item.purpose is purpose]
        if of_class:
            taken = sum(layer.measured.allocated_bytes for layer in of_class)
            classes.append({"class": purpose, "directories": len(of_class), "allocated_bytes": taken})
    command = COMMANDS.get(category) if usage.is_docker else None
    in_cache = sum(layer.measured.allocated_bytes for layer in layers if layer.in_build_cache)
    return {
        "category": category,
        "directories": len(layers),
        "allocated_bytes": usage.category_bytes(category),
        "in_build_cache_bytes": in_cache,
        "reclaimable_bytes": _reclaimable(usage, category) if command is not None else None,
        "command": command,
        "classes": classes,
    }


def _outside_document(item: OutsideSpace) -> Document:
    return {
        "kind": item.kind,
        **path_fields(item.name, "name"),
        **path_fields(item.path),
        "allocated_bytes": item.allocated_bytes,
    }


def _difference(item: Difference) -> Document:
    return {
        "name": item.name,
        "claimed_bytes": item.claimed_bytes,
        "allocated_bytes": item.allocated_bytes,
        "steps": [{"reason": reason, "bytes": number} for reason, number in item.steps],
    }


def df_schema() -> Schema:
    kind = record(directories=COUNT, allocated_bytes=COUNT, **{"class": one_of(Purpose)})
    category = record(
        category=one_of(Category),
        directories=described(COUNT, "Or blobs; each counts for one category alone."),
        allocated_bytes=described(COUNT, "st_blocks × 512, each inode once, directories too, without merged/."),
        in_build_cache_bytes=described(COUNT, "The part that the build cache holds, whoever else does."),
        reclaimable_bytes=described(nullable(COUNT), "What the command would free of it. Null: there is none."),
        command=nullable(TEXT),
        classes=listed(kind, "By what the directories are there for."),
    )
    outside = path_record(
        ("name_b64",),
        kind=one_of(OutsideKind),
        name=described(TEXT, "Of the container, the volume, or the entry of the data root."),
        name_b64={"type": "string", "contentEncoding": "base64"},
        allocated_bytes=COUNT,
    )
    step = record(reason=one_of(Reason), bytes={"type": "integer"})
    difference = record(
        name=described(TEXT, "A category, or volumes."),
        claimed_bytes=described(COUNT, "The SIZE of `docker system df`."),
        allocated_bytes=COUNT,
        steps=listed(step, "What leads from the one to the other; they add up."),
    )
    store = record(
        source=SOURCE,
        categories=listed(category),
        storage_bytes=COUNT,
        packed_twice_bytes=described(COUNT, "Blobs of containerd that hold layers which are unpacked as well."),
    )
    return record(
        categories=listed(category, "Of the first store."),
        stores=listed(store, "Every store that can be read, the one in use first."),
        storage_bytes=described(COUNT, "The sum of the categories."),
        outside=listed(outside, "What else lies below the data root; path is relative to it."),
        outside_bytes=COUNT,
        total_bytes=described(COUNT, "Both: what du says of the data root."),
        filesystem=record(total_bytes=COUNT, used_bytes=COUNT),
        engine=described(nullable(listed(difference)), "Null: no engine was asked, or it gave no answer."),
        other_stores=listed(
            path_record(driver=TEXT, in_use=nullable(FLAG), allocated_bytes=COUNT),
            "Other stores of the host. What of them lies below the data root is part of outside.",
        ),
        mounts=listed(path_record(), "Not counted, because something is mounted there."),
        complete=described(FLAG, "False when something could not be read; the warnings say what."),
    )
