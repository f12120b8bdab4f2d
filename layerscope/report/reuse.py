"""What ``reuse`` prints: tables, a document and its schema, and graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from layerscope.analysis.reuse import Node, Reuse, Twice, TwiceReason
from layerscope.model import ImageId, Source, short_id
from layerscope.report.document import Document
from layerscope.report.shapes import (
    COUNT,
    DIGEST,
    FLAG,
    TEXT,
    Schema,
    described,
    listed,
    nullable,
    one_of,
    record,
)
from layerscope.report.style import Style
from layerscope.report.table import bold_grid, fit_last
from layerscope.report.text import instruction, plural, printable, shorten, storage

MOST_IN_MATRIX: Final = 8
"""Images in the table of shared bytes; with more only the tree says who shares what."""
MOST_TWICE: Final = 10
LABEL: Final = 60
LEAST_LABEL: Final = 12
_ATTRIBUTES: Final = {"mode": "modes", "owner": "owners", "mtime": "times", "xattrs": "xattrs"}


def reuse_tables(found: Sequence[tuple[Source, Reuse]], style: Style) -> str:
    """A table for each store, headed by where it is where there are several."""
    if len(found) == 1:
        return reuse_table(found[0][1], style)
    return "\n\n".join(f"{'Storage':<10} {storage(source)}\n\n{reuse_table(one, style)}" for source, one in found)


def reuse_table(found: Reuse, style: Style) -> str:
    """Sizes by image, bytes that pairs share, the tree, and what is stored twice."""
    if not found.images:
        return "No images."
    names = _names(found)
    rows = [
        [
            names[image.record.id],
            str(len(image.record.diff_ids)),
            style.size(image.size_bytes),
            style.size(image.shared_bytes),
            style.size(image.unique_bytes),
        ]
        for image in found.images
    ]
    parts = [bold_grid(rows, ["IMAGE", "LAYERS", "SIZE", "SHARED", "UNIQUE"], {1, 2, 3, 4}, style)]
    if 1 < len(found.images) <= MOST_IN_MATRIX and found.pairs:
        parts += ["", *_matrix(found, names, style)]
    parts += ["", style.paint("Layers, each once, under what they lie on:", "bold")]
    for root in found.roots:
        parts += _tree(root, names, style)
    if found.twice:
        parts += ["", *_twice_lines(found.twice, names, style)]
    return "\n".join(parts)


def _names(found: Reuse) -> dict[ImageId, str]:
    return {
        image.record.id: printable(
            image.record.references[0] if image.record.references else short_id(image.record.id)
        )
        for image in found.images
    }


def _matrix(found: Reuse, names: Mapping[ImageId, str], style: Style) -> Iterator[str]:
    shared = {frozenset((pair.one, pair.other)): pair.shared_bytes for pair in found.pairs or ()}
    ids = [image.record.id for image in found.images]
    rows = [
        [f"{index + 1}", *(_cell(one, other, shared, style) for other in ids), names[one]]
        for index, one in enumerate(ids)
    ]
    headers = ["", *(str(index + 1) for index in range(len(ids))), "BYTES THAT BOTH HOLD"]
    yield fit_last(rows, headers, set(range(len(ids) + 1)), style)


def _cell(one: ImageId, other: ImageId, shared: Mapping[frozenset[ImageId], int], style: Style) -> str:
    if one == other:
        return "·"
    return style.size(shared[frozenset((one, other))]) if frozenset((one, other)) in shared else "-"


def _tree(root: Node, names: Mapping[ImageId, str], style: Style) -> Iterator[str]:
    """Layers of one run below each other; what branches off is indented. Iterative: chains may be long."""
    pending: list[tuple[Node, str, str]] = [(root, "", "")]
    while pending:
        node, lead, rest = pending.pop()
        ends = ", ".join(names[identifier] for identifier in node.tops)
        tail = f"  = {ends}" if ends else ""
        start = f"{lead}{style.size(node.size_bytes):>9}  "
        label = style.fit(_label(node), max(style.width - len(start) - len(tail), LEAST_LABEL))
        yield f"{start}{label}{style.paint(tail, 'cyan')}"
        if len(node.children) == 1:
            pending.append((node.children[0], rest, rest))
        else:
            for child in reversed(node.children):
                last = child is node.children[-1]
                pending.append((child, f"{rest}{'└─' if last else '├─'}", f"{rest}{'  ' if last else '│ '}"))


def _label(node: Node) -> str:
    return instruction(node.created_by) or f"(no instruction recorded, {node.chain_id[7:19]})"


def _twice_lines(twice: Sequence[Twice], names: Mapping[ImageId, str], style: Style) -> Iterator[str]:
    ordered = sorted(twice, key=lambda item: -item.wasted_bytes)
    wasted = sum(item.wasted_bytes for item in twice if item.reason is TwiceReason.OTHER_PARENT)
    head = "Not shared, though alike:"
    if wasted:
        head += f" the same content takes {style.size(wasted)} more than once"
    yield style.paint(head, "bold")
    for item in ordered[:MOST_TWICE]:
        yield style.fit(f"  {style.size(item.nodes[0].size_bytes):>9}  {_label(item.nodes[0])}", style.width)
        for node in item.nodes:
            holders = ", ".join(names[identifier] for identifier in node.images[:3])
            more = f" and {len(node.images) - 3} more" if len(node.images) > 3 else ""
            yield f"             {style.id(node.cache_id)}  {holders}{more}"
        yield f"             {_why(item)}"
    if len(ordered) > MOST_TWICE:
        yield f"  … and {plural(len(ordered) - MOST_TWICE, 'more case')}; --json lists them"


def _why(item: Twice) -> str:
    if item.reason is TwiceReason.OTHER_PARENT:
        same = "" if item.same_instruction else " (by other instructions)"
        return f"the same diff_id{same} on other layers: a layer is shared only with all below it"
    if item.same_files:
        told = ", ".join(_ATTRIBUTES[name] for name in item.attributes) or "the form of the tar"
        return f"the same files by name, size and CRC-64; what differs: {told}"
    if item.same_files is False:
        return f"the same instruction on the same layers, other content: {printable(item.first_difference or '')}"
    return "the same instruction on the same layers, another diff_id; why can't be told from the records"


# -- JSON -----------------------------------------------------------------------------------------------------


def reuse_documents(found: Sequence[tuple[Source, Reuse]]) -> Document:
    """One document of all stores, the one in use first: no image and no layer is in two of them."""
    documents = [_document(source, one) for source, one in found]
    return {
        "images": [item for one in documents for item in one["images"]],
        "pairs": None
        if any(one["pairs"] is None for one in documents)
        else [item for one in documents for item in one["pairs"]],
        "layers": [item for one in documents for item in one["layers"]],
        "not_shared": [item for one in documents for item in one["not_shared"]],
        "removal": None,
    }


def _document(source: Source, found: Reuse) -> Document:
    return {
        "images": [
            {
                "driver": source.driver,
                "id": image.record.id,
                "references": list(image.record.references),
                "layers": len(image.record.diff_ids),
                "size_bytes": image.size_bytes,
                "shared_bytes": image.shared_bytes,
                "unique_bytes": image.unique_bytes,
            }
            for image in found.images
        ],
        "pairs": None
        if found.pairs is None
        else [
            {"images": [pair.one, pair.other], "layers": pair.layers, "shared_bytes": pair.shared_bytes}
            for pair in found.pairs
        ],
        "layers": [
            {
                "driver": source.driver,
                "chain_id": node.chain_id,
                "parent": node.parent.chain_id if node.parent is not None else None,
                "diff_id": node.diff_id,
                "cache_id": node.cache_id,
                "created_by": node.created_by,
                "size_bytes": node.size_bytes,
                "images": list(node.images),
                "top_of": list(node.tops),
                "holders": node.holders,
            }
            for node in nodes_of(found)
        ],
        "not_shared": [
            {
                "reason": item.reason,
                "layers": [node.chain_id for node in item.nodes],
                "same_instruction": item.same_instruction,
                "same_files": item.same_files,
                "differing_attributes": list(item.attributes),
                "differing_path": None if item.first_difference is None else printable(item.first_difference),
                "wasted_bytes": item.wasted_bytes,
            }
            for item in found.twice
        ],
    }


def nodes_of(found: Reuse) -> Iterator[Node]:
    """Every layer, parents first."""
    pending = [*reversed(found.roots)]
    while pending:
        node = pending.pop()
        yield node
        pending += reversed(node.children)


def reuse_schema(removal: Schema) -> Schema:
    driver = described(nullable(TEXT), "Of the store that has it.")
    image = record(
        driver=driver,
        id=DIGEST,
        references=listed(TEXT),
        layers=COUNT,
        size_bytes=described(nullable(COUNT), "As recorded by the engine. Null: a layer has no record."),
        shared_bytes=described(nullable(COUNT), "The part that other images of the host hold as well."),
        unique_bytes=nullable(COUNT),
    )
    layer = record(
        driver=driver,
        chain_id=DIGEST,
        parent=nullable(DIGEST),
        diff_id=DIGEST,
        cache_id=described(
            nullable(TEXT), "Name of the directory in overlay2/, or in the snapshotter's snapshots/."
        ),
        created_by=nullable(TEXT),
        size_bytes=nullable(COUNT),
        images=listed(DIGEST, "The images asked about that hold it."),
        top_of=listed(DIGEST, "Those of them that end with it."),
        holders=described(COUNT, "Images of the host that hold it."),
    )
    twice = record(
        reason=described(one_of(TwiceReason), "other-parent: same diff_id; other-content: same instruction."),
        layers=listed(DIGEST, "Their chain_ids."),
        same_instruction=FLAG,
        same_files=described(nullable(FLAG), "By name, kind, size, CRC-64. Null: can't be told."),
        differing_attributes=listed(TEXT, "Of the same files: mode, owner, mtime, xattrs."),
        differing_path=described(nullable(TEXT), "Of other files: one in which they differ."),
        wasted_bytes=described(COUNT, "Recorded sizes of all but the largest."),
    )
    pair = record(images=listed(DIGEST), layers=COUNT, shared_bytes=COUNT)
    return record(
        images=listed(image),
        pairs=described(nullable(listed(pair)), "Null: too many images."),
        layers=listed(layer, "The tree, parents first."),
        not_shared=listed(twice),
        removal=described(nullable(removal), "With --remove."),
    )


# -- graphs ---------------------------------------------------------------------------------------------------


def reuse_dot(found: Reuse) -> str:
    """The tree in Graphviz' language: layers are boxes, images ellipses."""
    lines = ["digraph reuse {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    for identifier, label, is_image in _graph_nodes(found):
        shape = ", shape=ellipse, style=bold" if is_image else ""
        lines.append(f'  {identifier} [label="{_quoted(label, chr(92) + "n")}"{shape}];')
    lines += [f"  {one} -> {other};" for one, other in _graph_edges(found)]
    return "\n".join([*lines, "}"])


def reuse_mermaid(found: Reuse) -> str:
    """The tree in Mermaid's language."""
    lines = ["flowchart LR"]
    for identifier, label, is_image in _graph_nodes(found):
        opening, closing = ("([", "])") if is_image else ("[", "]")
        escaped = "".join(
            character if character.isalnum() or character in " .:/_-,=" else f"#{ord(character)};"
            for character in label.replace("\n", "\0")
        ).replace("#0;", "<br/>")
        lines.append(f'  {identifier}{opening}"{escaped}"{closing}')
    lines += [f"  {one} --> {other}" for one, other in _graph_edges(found)]
    return "\n".join(lines)


def _quoted(text: str, newline: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", newline)


def _graph_nodes(found: Reuse) -> Iterator[tuple[str, str, bool]]:
    names = _names(found)
    style = Style()
    for node in nodes_of(found):
        yield f"l{node.chain_id[7:23]}", f"{shorten(_label(node), LABEL)}\n{style.size(node.size_bytes)}", False
    for image in found.images:
        label = (
            f"{names[image.record.id]}\n{style.size(image.size_bytes)}, {style.size(image.unique_bytes)} of its own"
        )
        yield f"i{image.record.id[7:23]}", label, True


def _graph_edges(found: Reuse) -> Iterator[tuple[str, str]]:
    for node in nodes_of(found):
        if node.parent is not None:
            yield f"l{node.parent.chain_id[7:23]}", f"l{node.chain_id[7:23]}"
        for identifier in node.tops:
            yield f"l{node.chain_id[7:23]}", f"i{identifier[7:23]}"
