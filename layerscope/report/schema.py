"""The JSON contract as JSON Schema (draft 2020-12), one schema a command.

Fields are only ever added, so no schema forbids others; every field that is named here is always there, unless the
schema leaves it out of ``required``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from layerscope.analysis.compare import DiffKind
from layerscope.analysis.trace import EventKind
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import Reason
from layerscope.report.audit_document import FINDING, audit_schema
from layerscope.report.check import check_schema
from layerscope.report.df import df_schema
from layerscope.report.document import SCHEMA_VERSION
from layerscope.report.orphans import orphans_schema
from layerscope.report.owner import owner_schema
from layerscope.report.removal import removal_schema
from layerscope.report.reuse import reuse_schema
from layerscope.report.shapes import (
    AMOUNT,
    BASE64,
    COUNT,
    DIGEST,
    FLAG,
    HIDER,
    INDEX,
    LAYER,
    SOURCE,
    TARGET,
    TEXT,
    TIME,
    VERSION,
    Schema,
    described,
    listed,
    nullable,
    one_of,
    path_record,
    record,
)
from layerscope.report.verify import verify_schema

DIFFERENCE_FIELDS: Final = {
    "kind": one_of(Kind),
    "size_bytes": described(nullable(COUNT), "Of the newer version, or of what was deleted. Null: a directory."),
    "content_changed": described(nullable(FLAG), "Null where there is nothing to compare: no file, or deleted."),
}
DIFFERENCES: Final = listed(path_record(change=one_of(DiffKind), **DIFFERENCE_FIELDS))


def stack_fields() -> dict[str, Schema]:
    """The fields of ``image``, ``container`` and ``overlay``."""
    return {
        "target": TARGET,
        "options": record(
            xattrs={"type": "string", "enum": ["trusted.overlay", "user.overlay"]},
            follow_redirects=FLAG,
            metacopy=FLAG,
            data_dirs=listed(TEXT),
        ),
        "layers": listed(LAYER, "Base first."),
        "history": listed(
            record(
                created_by=nullable(TEXT),
                created=nullable(TIME),
                comment=nullable(TEXT),
                layer=described(nullable(INDEX), "Null: the step made no layer."),
            ),
            "Oldest step first.",
        ),
        "merged": nullable(record(files=COUNT, directories=COUNT, symlinks=COUNT, other=COUNT, size_bytes=COUNT)),
        "hidden": nullable(
            record(
                files=COUNT,
                size_bytes=COUNT,
                by_reason=record(**{reason.value: AMOUNT for reason in Reason}),
            )
        ),
        "complete": described(FLAG, "False when something could not be read; the warnings say what."),
        "hidden_paths": listed(
            path_record(layer=INDEX, kind=one_of(Kind), size_bytes=COUNT, hidden_by=HIDER), "With --hidden."
        ),
    }


def _stack_schema(**more: Schema) -> Schema:
    return record(("hidden_paths",), **stack_fields(), **more)


def _ls() -> Schema:
    driver = described(nullable(TEXT), "Of the store that has it.")
    return record(
        stores=listed(SOURCE, "The one in use first."),
        images=listed(
            record(
                driver=driver,
                id=DIGEST,
                references=listed(TEXT),
                created=nullable(TIME),
                layers=COUNT,
                size_bytes=nullable(COUNT),
                shared_bytes=described(nullable(COUNT), "The part that other images hold as well."),
                cache_id=described(nullable(TEXT), "Directory of the top layer."),
            )
        ),
        containers=listed(
            record(
                driver=driver,
                id=TEXT,
                name=TEXT,
                state=TEXT,
                image=nullable(TEXT),
                image_id=nullable(DIGEST),
                created=nullable(TIME),
                cache_id=described(nullable(TEXT), "Directory of the upper layer."),
            )
        ),
    )


def _trace() -> Schema:
    event = record(
        layer=INDEX,
        event=one_of(EventKind),
        created_by=nullable(TEXT),
        hidden_by=described(nullable(HIDER), "What deleted the path, where a layer did."),
        version=described(nullable(VERSION), "What the layer holds at this path, if anything."),
    )
    return path_record(
        target=TARGET,
        visible_layer=nullable(INDEX),
        error=described(nullable(TEXT), "Name of the errno with which the kernel refuses the path."),
        events=listed(event, "Oldest first."),
    )


def _extract() -> Schema:
    written = record(files=COUNT, directories=COUNT, symlinks=COUNT, other=COUNT, size_bytes=COUNT)
    return record(
        ("destination_b64",),
        destination=TEXT,
        destination_b64=BASE64,
        written=written,
        skipped=listed(path_record()),
    )


BODIES: Final[dict[str, Callable[[], Schema]]] = {
    "audit": audit_schema,
    "check": check_schema,
    "container": lambda: _stack_schema(
        changes=described(DIFFERENCES, "What `docker diff` reports, sorted by path."),
        copied_up=listed(
            path_record(**DIFFERENCE_FIELDS),
            "Files in the container's own layer that look the same as in the image: `docker diff` is silent.",
        ),
    ),
    "df": df_schema,
    "diff": lambda: record(old=TARGET, new=TARGET, changes=DIFFERENCES),
    "extract": _extract,
    "files": lambda: record(target=TARGET, files=listed(VERSION, "Tree order; of one path the top layer first.")),
    "image": _stack_schema,
    "ls": _ls,
    "orphans": orphans_schema,
    "overlay": _stack_schema,
    "owner": owner_schema,
    "reuse": lambda: reuse_schema(removal_schema()),
    "trace": _trace,
    "verify": verify_schema,
}
LINES: Final = {"audit-line": FINDING, "files-line": VERSION}
"""The schemas of one line of ``--format jsonl``."""


def schema_names() -> list[str]:
    """What there is a schema for, sorted."""
    return sorted([*BODIES, *LINES])


def schema_of(name: str) -> Schema:
    """The schema of a command's document, or of one line of it."""
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"layerscope {name}"}
    if name in LINES:
        return {**title, **LINES[name]}
    body = BODIES[name]()
    warning = record(code=TEXT, path=nullable(TEXT), message=TEXT)
    head = {
        "schema_version": {"const": SCHEMA_VERSION},
        "layerscope_version": TEXT,
        "command": {"const": name},
        "source": SOURCE,
    }
    return {
        **title,
        "type": "object",
        "properties": {**head, **body["properties"], "warnings": listed(warning)},
        "required": [*head, *body["required"], "warnings"],
    }
