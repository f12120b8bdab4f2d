"""What ``owner`` prints: a table, a document and its schema."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Final

from layerscope.analysis.owner import Answer, Owner
from layerscope.analysis.purpose import ORPHANS, Purpose
from layerscope.model import Role, Source
from layerscope.report.document import Document, path_fields
from layerscope.report.orphans import (
    EVIDENCE,
    OPEN,
    SIGNS,
    by_witness,
    evidence_document,
    evidence_line,
    paint,
    said_line,
    words,
    wrapped,
)
from layerscope.report.shapes import (
    COUNT,
    DIGEST,
    FLAG,
    INDEX,
    TEXT,
    TIME,
    Schema,
    described,
    listed,
    nullable,
    one_of,
    path_record,
    record,
)
from layerscope.report.style import Style
from layerscope.report.table import bold_grid, fit_last
from layerscope.report.text import instruction, printable, shown_path

MOST_SHOWN: Final = 10
"""Lines of a kind in the table; the document has all."""
_LABEL: Final = 13


def owner_table(answer: Answer, source: Source, style: Style) -> str:
    """One part a directory: what it is, who holds it, which files say so, and what would free it."""
    return "\n\n".join("\n".join(_owner(owner, answer, source, style)) for owner in answer.owners)


def _owner(owner: Owner, answer: Answer, source: Source, style: Style) -> Iterable[str]:
    yield _line("Directory", shown_path(owner.path) + ("" if owner.exists else "  (is not there)"))
    maybe = f", maybe {words(owner.suspected)}" if owner.suspected is not None else ""
    yield _line("Class", paint(owner.purpose, style.paint(words(owner.purpose), "bold"), style) + maybe)
    if owner.created_by is not None:
        text = instruction(owner.created_by)
        yield _line("Instruction", style.fit(text, max(style.width - _LABEL, 20)))
    if owner.layer is not None:
        yield _line("chain_id", style.id(owner.layer.chain_id))
        yield _line("diff_id", style.id(owner.layer.diff_id))
    if owner.link_id is not None:
        yield _line("Short link", f"l/{owner.link_id}")
    if answer.place.inside:
        yield _line("Path in it", shown_path(answer.place.inside))
    for table in (_images(owner, style), _containers(owner, style), _builds(owner, style)):
        if table:
            yield ""
            yield table
    yield ""
    yield style.paint("Evidence", "bold")
    for text in _first(_evidence(owner, source, style)):
        yield from wrapped(text, style, "  ", "  ") if style.truncate else [f"  {text}"]
    yield ""
    yield style.paint("Frees it", "bold")
    yield from (f"  {line}" for line in _first([*commands(owner), *_notes(owner)]))
    held = next((use.name for use in owner.containers if use.role is not Role.LOWER), None)
    if answer.place.merged and answer.place.inside and held is not None:
        yield ""
        path = shlex.quote(answer.place.inside)
        yield f"Which layer the path comes from: layerscope trace {printable(f'{shlex.quote(held)} {path}')}"


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}"


def _first(lines: list[str]) -> list[str]:
    left = len(lines) - MOST_SHOWN
    return lines if left <= 0 else [*lines[:MOST_SHOWN], f"… and {left:,} more; --json lists them"]


def _images(owner: Owner, style: Style) -> str:
    rows = [
        [
            ", ".join(printable(name) for name in use.image.references) or "(no name)",
            style.id(use.image.id),
            f"{use.index} of 0–{use.layers - 1}" if use.index is not None else "-",
        ]
        for use in owner.images[:MOST_SHOWN]
    ]
    return _cut(bold_grid(rows, ["IMAGE", "ID", "LAYER"], set(), style), len(owner.images)) if rows else ""


def _containers(owner: Owner, style: Style) -> str:
    rows = [
        [printable(use.name), style.id(use.id), use.role.value, printable(use.state), printable(use.image or "-")]
        for use in owner.containers[:MOST_SHOWN]
    ]
    headers = ["CONTAINER", "ID", "AS", "STATE", "IMAGE"]
    return _cut(bold_grid(rows, headers, set(), style), len(owner.containers)) if rows else ""


def _builds(owner: Owner, style: Style) -> str:
    rows = [
        [build.id, printable(build.kind), (build.last_used or "-")[:19], printable(build.description)]
        for build in owner.builds[:MOST_SHOWN]
    ]
    headers = ["BUILD RECORD", "KIND", "LAST USED", "DESCRIPTION"]
    return _cut(fit_last(rows, headers, set(), style), len(owner.builds)) if rows else ""


def _cut(table: str, count: int) -> str:
    return table if count <= MOST_SHOWN else f"{table}\n… and {count - MOST_SHOWN:,} more; --json lists them"


def _evidence(owner: Owner, source: Source, style: Style) -> list[str]:
    """Every file that says something, and what."""
    lines = [evidence_line(one, source.storage, style) for one in by_witness(owner.evidence)]
    for use in owner.images:
        lines.append(said_line(use.path, f"the image {printable(use.image.name)} has it", source.storage, style))
    for container in owner.containers:
        if container.role is Role.LOWER:
            said = f"the container {printable(container.name)} stands on it"
            lines.append(said_line(container.path, said, source.storage, style))
    return lines + [printable(sign) for sign in owner.signs]


def commands(owner: Owner) -> list[str]:
    """What to run, all of it, for the directory to go: containers first, then images, then the build cache."""
    found = [printable(command) for command in owner.extra_commands]
    if owner.purpose in ORPHANS or owner.purpose in OPEN:
        command = owner.remedies[owner.purpose].command
        return found or ([command] if command is not None else [])
    if not owner.is_docker:
        return found
    containers = [use for use in owner.containers if use.namespace is None]
    names = [use.name for use in containers]
    running = [use.name for use in containers if use.state in ("running", "paused", "restarting")]
    if running:
        found.append(_command("docker stop", running))
    if names:
        found.append(_command("docker rm", names))
    images = [name for use in owner.images for name in _references(use.image.references, use.image.id)]
    if images:
        found.append(_command("docker rmi", images))
    found += [f"docker builder prune --all --filter id={build.id}" for build in owner.builds]
    if owner.purpose is Purpose.MOUNTED:
        points = [one.holder for one in owner.evidence]
        found += [_command("umount", [point]) for point in dict.fromkeys(points)]
    return found


def _references(references: tuple[str, ...], identifier: str) -> list[str]:
    """What names an image for removal: its tags; digests go with the last of those."""
    return [name for name in references if "@" not in name] or list(references) or [identifier]


def _command(command: str, names: list[str]) -> str:
    """Names may come from somebody else's disk: quoted, so that they are names to a shell, too."""
    return f"{command} {' '.join(printable(shlex.quote(name)) for name in names)}"


def _notes(owner: Owner) -> list[str]:
    in_use = owner.images or owner.containers or owner.builds
    return [] if in_use else [f"({owner.remedies[owner.purpose].note})"]


# -- documents -----------------------------------------------------------------------------------------------


def owner_document(answer: Answer, source: Source, what: str) -> Document:
    inside = answer.place.inside
    return {
        **path_fields(what, "what"),
        "stands_for": answer.place.how,
        "driver": source.driver,
        **(path_fields(inside, "inside") if inside is not None else {"inside": None}),
        "merged": answer.place.merged,
        "directories": [_document(owner) for owner in answer.owners],
    }


def _document(owner: Owner) -> Document:
    layer = owner.layer
    return {
        **path_fields(owner.path),
        "exists": owner.exists,
        "class": owner.purpose,
        "suspected": owner.suspected,
        "link_id": owner.link_id,
        "chain_id": layer.chain_id if layer is not None else None,
        "diff_id": layer.diff_id if layer is not None else None,
        "recorded_bytes": layer.size_bytes if layer is not None else None,
        "created_by": owner.created_by,
        "images": [
            {
                "id": use.image.id,
                "references": list(use.image.references),
                "layer": use.index,
                "layers": use.layers,
                "created_by": use.created_by,
                **path_fields(use.path),
            }
            for use in owner.images
        ],
        "containers": [
            {
                "id": use.id,
                "name": use.name,
                "state": use.state,
                "image": use.image,
                "role": use.role,
                **path_fields(use.path),
            }
            for use in owner.containers
        ],
        "build_records": [
            {
                "id": build.id,
                "kind": build.kind,
                "description": build.description,
                "size_bytes": build.size_bytes,
                "created": build.created,
                "last_used": build.last_used,
            }
            for build in owner.builds
        ],
        "evidence": evidence_document(owner.evidence),
        "signs": [printable(sign) for sign in owner.signs],
        "commands": commands(owner),
        "note": owner.remedies[owner.purpose].note,
    }


def owner_schema() -> Schema:
    image = path_record(
        id=DIGEST,
        references=listed(TEXT),
        layer=described(nullable(INDEX), "Null: a blob of the image, not one of its layers."),
        layers=COUNT,
        created_by=described(nullable(TEXT), "The instruction that made the layer, as this image tells it."),
    )
    container = path_record(id=TEXT, name=TEXT, state=TEXT, image=nullable(TEXT), role=one_of(Role))
    build = record(
        id=TEXT,
        kind=TEXT,
        description=TEXT,
        size_bytes=nullable(COUNT),
        created=nullable(TIME),
        last_used=nullable(TIME),
    )
    directory = path_record(
        exists=FLAG,
        suspected=described(nullable(one_of(Purpose)), "The class of what is too young, or unknown."),
        link_id=nullable(TEXT),
        chain_id=nullable(DIGEST),
        diff_id=nullable(DIGEST),
        recorded_bytes=described(nullable(COUNT), "Size as the engine recorded it when it made the layer."),
        created_by=nullable(TEXT),
        images=listed(image, "Images that hold it as a layer."),
        containers=listed(container, "Containers that it is the upper, init or a lower layer of."),
        build_records=listed(build),
        evidence=EVIDENCE,
        signs=SIGNS,
        commands=listed(TEXT, "What to run, all of it, for the directory to go. It is never run."),
        note=TEXT,
        **{"class": one_of(Purpose)},
    )
    inside = described(nullable(TEXT), "The path in the directory, where WHAT was one.")
    base64 = {"type": "string", "contentEncoding": "base64"}
    return record(
        ("what_b64", "inside_b64"),
        what=TEXT,
        what_b64=base64,
        driver=described(nullable(TEXT), "Of the store that it is in."),
        stands_for=described(TEXT, "What WHAT was taken for."),
        inside=inside,
        inside_b64=base64,
        merged=described(FLAG, "Whether that path is one of all layers together."),
        directories=listed(directory, "Several only for a diff_id."),
    )
