"""Pieces of JSON Schema that the schemas of several commands are made of."""

from __future__ import annotations

from typing import Any, Final

from layerscope.analysis.change import Change
from layerscope.model import Role, TargetKind
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import Reason

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
INDEX: Final[Schema] = {"type": "integer", "minimum": 0, "description": "Index of a layer; 0 is the base."}
DIGEST: Final[Schema] = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
TIME: Final[Schema] = {"type": "string", "pattern": r"^-?\d{4,}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"}
BASE64: Final[Schema] = {"type": "string", "contentEncoding": "base64"}


def nullable(schema: Schema) -> Schema:
    """The schema, or null."""
    if "type" in schema and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def described(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text}


def one_of(names: type[Any]) -> Schema:
    """The values of an enum."""
    return {"type": "string", "enum": [member.value for member in names]}


def listed(items: Schema, text: str = "") -> Schema:
    return {"type": "array", "items": items, **({"description": text} if text else {})}


def record(optional: tuple[str, ...] = (), /, **fields: Schema) -> Schema:
    """An object that has all these fields, but for the ``optional`` ones."""
    return {
        "type": "object",
        "properties": fields,
        "required": [name for name in fields if name not in optional],
    }


def path_record(optional: tuple[str, ...] = (), /, **fields: Schema) -> Schema:
    """An object with a path. ``path_b64`` is there only when the path is not UTF-8."""
    exact = described(BASE64, "The exact bytes of the path; only there when they are not UTF-8.")
    return record(("path_b64", *optional), path=TEXT, path_b64=exact, **fields)


AMOUNT: Final = record(
    files=described(COUNT, "Everything but directories and whiteouts."),
    size_bytes=described(COUNT, "Apparent size, each inode once."),
)
HIDER: Final = path_record(layer=INDEX, reason=one_of(Reason))
TARGET: Final = record(
    kind=one_of(TargetKind),
    id=nullable(TEXT),
    name=TEXT,
    references=listed(TEXT),
    image_id=nullable(DIGEST),
    image=nullable(TEXT),
    state=nullable(TEXT),
)
VERSION: Final = path_record(
    ("target_b64",),
    layer=INDEX,
    kind=one_of(Kind),
    change=described(one_of(Change), "Compared with the version that was visible just below."),
    visible=described(FLAG, "Whether the kernel, mounting this stack, shows this version."),
    hidden_by=nullable(HIDER),
    size_bytes=COUNT,
    allocated_bytes=described(nullable(COUNT), "st_blocks × 512. Null: it lies in a tar."),
    mode={"type": "string", "pattern": "^[0-7]{4}$"},
    uid=COUNT,
    gid=COUNT,
    mtime=nullable(TIME),
    nlink=COUNT,
    target=described(nullable(TEXT), "Of a symlink."),
    target_b64=BASE64,
    opaque=FLAG,
    redirect=nullable(TEXT),
    metacopy=FLAG,
    source=described(nullable(TEXT), "Its path in its layer, where a redirect shows it at another."),
    device=described(nullable(TEXT), "major:minor of a device node."),
    hides=described(COUNT, "Lower versions of this very path that it hides; a directory counts as one."),
)
SOURCE: Final = record(
    kind={"type": "string", "enum": ["docker-api", "data-root", "archive", "mount"]},
    driver=nullable(TEXT),
    data_root=nullable(TEXT),
    containerd_root=described(nullable(TEXT), "Where containerd keeps its data, for the containerd image store."),
    in_use=described(nullable(FLAG), "Whether a running engine uses it. Null: none was asked."),
    archive=described(nullable(TEXT), "Path of the archive that holds the images; - is standard input."),
)
LAYER: Final = record(
    ("changed", "diff_dir_b64"),
    index=INDEX,
    role=one_of(Role),
    diff_id=nullable(DIGEST),
    chain_id=nullable(DIGEST),
    cache_id=described(nullable(TEXT), "Name of the directory in overlay2/, or in the snapshotter's snapshots/."),
    link_id=described(nullable(TEXT), "Name of the link in overlay2/l/."),
    snapshot=described(nullable(TEXT), "Key of the snapshot in its containerd namespace."),
    diff_dir=described(TEXT, "Where the layer's content lies on this machine; in a tar it is FILE!/NAME."),
    diff_dir_b64=BASE64,
    created_by=nullable(TEXT),
    created=nullable(TIME),
    recorded_bytes=described(
        nullable(COUNT),
        "Size as recorded when the layer was made: on overlay2 of its files, in containerd the disk space.",
    ),
    size_bytes=described(
        nullable(COUNT), "As Docker counts: everything but directories, each inode once. Null: not counted."
    ),
    allocated_bytes=described(
        nullable(COUNT), "st_blocks × 512 of everything, each inode once. Null: not counted, or in a tar."
    ),
    counts=nullable(record(added=COUNT, modified=COUNT, metadata=COUNT, deleted=COUNT, opaque=COUNT)),
    hidden=described(nullable(AMOUNT), "What of this layer the layers above hide."),
    hides=described(nullable(AMOUNT), "What of the layers below this layer hides first."),
    shared_with=listed(record(id=DIGEST, references=listed(TEXT)), "Other images that hold this layer."),
    changed=listed(
        path_record(
            change=one_of(Change), kind=one_of(Kind), size_bytes=COUNT, visible=FLAG, opaque=FLAG, hides=COUNT
        ),
        "With --files: the paths that the layer added, changed or deleted, in tree order.",
    ),
)
