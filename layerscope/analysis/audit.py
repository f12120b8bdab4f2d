"""Secrets in the layers and configurations of many targets: each layer scanned once, each finding placed in each.

A finding is one secret at one place of one layer. Targets that share the layer share the finding, as long as the
same layer hides it in all of them, or none does.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from layerscope.analysis.configuration import ConfigText
from layerscope.analysis.exposure import Exposure, Fate, Fates
from layerscope.analysis.findings import Finding, Findings, HiddenBy, Holder
from layerscope.model import Caution, DiffId, Layer, Role, Stack, Target, Tick, Warn, ignore, no_tick
from layerscope.overlay.layers import warn_of_tar
from layerscope.secrets.cache import Key, LayerCache, is_cacheable
from layerscope.secrets.engine import Scanner
from layerscope.secrets.hits import Hit, LayerScan, hit_of
from layerscope.secrets.match import Match
from layerscope.secrets.scan import FILES_AND_ARCHIVES, LayerSource, Reach, scan_layers

if TYPE_CHECKING:
    from layerscope.secrets.passing import PassingScan

DATA_ONLY: Final = "a data-only layer, whose files have no names of their own: give it as lowerdir=DIR"


class Subject(NamedTuple):
    """A target to audit, with the texts of its configuration."""

    target: Target
    texts: tuple[ConfigText, ...] = ()


class Skipped(NamedTuple):
    """Something that was not read: a path on this machine or a target's name, and why."""

    path: str
    reason: str


@dataclass(slots=True)
class Scanned:
    """How much was read, and what was not."""

    layers: int = 0
    files: int = 0
    """Each unique layer's files, each inode once."""
    size_bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    ignored: dict[DiffId, str] = field(default_factory=dict)
    """Layers that the user asked to leave out, and by which option."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found: all confidences, sorted."""

    targets: tuple[Target, ...]
    findings: tuple[Finding, ...]
    scanned: Scanned


@dataclass(frozen=True, slots=True)
class Means:
    """What an audit works with."""

    scanner: Scanner
    masking: Scanner
    """Finds secrets in instructions: by all rules, whatever was asked for."""
    jobs: int = 1
    reveal: bool = False
    cache: LayerCache | None = None
    """Not used to reveal: it holds no secret."""
    reach: Reach = FILES_AND_ARCHIVES
    passing: PassingScan | None = None
    """What scanned the layers that came through a pipe."""


def audit(
    subjects: Sequence[Subject],
    means: Means,
    *,
    ignored: Mapping[DiffId, str] | None = None,
    clean: Collection[Subject] = (),
    warn: Warn = ignore,
    tick: Tick = no_tick,
) -> Audit:
    """Audit the subjects, in their order: the first that holds a finding is its target.

    ``ignored`` layers are left out, each with the option that says so; what the configurations of ``clean`` images
    say is no finding. Raises WorkerDiedError.
    """
    scanned = Scanned()
    scans = _scan(subjects, means, ignored or {}, scanned, warn, tick)
    found = Findings(means.reveal, frozenset(subject.target.id for subject in subjects))
    for subject in subjects:
        _place_files(subject.target, scans, found, warn)
    known = {match.fingerprint for subject in clean for _, match in _text_matches(subject, means.scanner)}
    for subject in subjects:
        _place_texts(subject, means.scanner, known, found)
    return Audit(
        tuple(subject.target for subject in subjects),
        tuple(sorted(found.masked(means.masking), key=lambda finding: finding.sort_key)),
        scanned,
    )


# -- scanning ------------------------------------------------------------------------------------------------


def _scan(
    subjects: Sequence[Subject],
    means: Means,
    ignored: Mapping[DiffId, str],
    scanned: Scanned,
    warn: Warn,
    tick: Tick,
) -> dict[LayerSource, LayerScan]:
    """The results of all layers but the ignored ones, from the cache or from the disk."""
    wanted: dict[LayerSource, Layer] = {}
    for subject in subjects:
        for layer in subject.target.stack:
            if layer.diff_id is not None and layer.diff_id in ignored:
                scanned.ignored[layer.diff_id] = ignored[layer.diff_id]
            else:
                wanted.setdefault(_source(subject.target.stack, layer), layer)
        for path in subject.target.stack.data_dirs:
            scanned.skipped.append(Skipped(path, DATA_ONLY))
            warn(Caution("not-scanned", path, DATA_ONLY))
    for source, layer in list(wanted.items()):
        if not _is_readable(layer, scanned, warn):
            del wanted[source]
    cache = None if means.reveal else means.cache
    keys = {source: _key(layer, means) for source, layer in wanted.items()} if cache else {}
    passed = means.passing.scans if means.passing is not None else {}
    scans = {source: passed[source.tar] for source in wanted if source.tar is not None and source.tar in passed}
    for source, key in keys.items():
        known = cache.get(key) if cache and key else None
        if known is not None:
            scans[source] = known
    missing = [source for source in wanted if source not in scans]
    for index, scan in scan_layers(
        missing, means.scanner, jobs=means.jobs, reveal=means.reveal, reach=means.reach, tick=tick
    ):
        source = missing[index]
        scans[source] = scan
        key = keys.get(source)
        if cache and key and is_cacheable(scan):
            cache.put(key, scan)
    for source, layer in wanted.items():
        _account(layer, scans[source], scanned, warn)
    return scans


def _is_readable(layer: Layer, scanned: Scanned, warn: Warn) -> bool:
    """Read a layer's tar, if it lies in one; what is missing of it was not scanned."""
    why = "it does not go to its end: what is missing was not scanned"
    try:
        whole, readable = warn_of_tar(layer, warn), True
    except OSError as error:
        whole, readable = False, False
        why = error.strerror or str(error)
    if not whole:
        scanned.skipped.append(Skipped(layer.diff_dir, why))
        warn(Caution("not-scanned", layer.diff_dir, why))
    return readable


def _source(stack: Stack, layer: Layer) -> LayerSource:
    return LayerSource(layer.diff_dir, stack.options.xattrs, layer.accumulated, layer.tar)


def _key(layer: Layer, means: Means) -> Key | None:
    """What an immutable layer's result depends on; None for a layer that may change.

    A chain_id is what a store claims of a directory, and the disk may be anybody's: the directory counts, too.
    """
    means_used: dict[str, str | int] = {
        "scanner": means.scanner.version,
        "archives": means.reach.archives,
        "git": means.reach.git,
    }
    if layer.tar is not None:  # its digest was taken just now: it is what it is, wherever it lies
        actual = None if layer.tar.index.damaged else layer.tar.actual_diff_id
        return {"tar": actual, **means_used} if actual is not None else None
    if layer.chain_id is None or layer.role is not Role.IMAGE:
        return None
    try:
        stat = os.lstat(layer.diff_dir)
    except OSError:
        return None
    return {
        "chain_id": layer.chain_id,
        **means_used,
        "directory": os.fsencode(layer.diff_dir).hex(),
        "inode": stat.st_ino,
        "ctime_ns": stat.st_ctime_ns,
    }


def _account(layer: Layer, scan: LayerScan, scanned: Scanned, warn: Warn) -> None:
    scanned.layers += 1
    scanned.files += scan.files
    scanned.size_bytes += scan.size_bytes
    for skip in scan.skips:
        path = layer.place_of(skip.path) if skip.path else layer.diff_dir
        scanned.skipped.append(Skipped(path, skip.reason))
        warn(Caution("not-scanned", path, skip.reason))


# -- placing -------------------------------------------------------------------------------------------------


def _place_files(target: Target, scans: Mapping[LayerSource, LayerScan], found: Findings, warn: Warn) -> None:
    """Say of every hit in a target's layers what became of it there."""
    stack = target.stack
    holding = [(layer, scan) for layer in stack if (scan := scans.get(_source(stack, layer))) and scan.hits]
    if not holding:
        return
    redirects = any(scan.redirects for layer in stack if (scan := scans.get(_source(stack, layer))))
    fates = Fates(stack, warn, redirects=redirects)
    for layer, scan in holding:
        for hit in scan.hits:
            fate = fates.of(layer, hit.path)
            hidden_by = _hidden_by(stack, fate)
            by = (hidden_by.layer.diff_dir, hidden_by.reason, hidden_by.path) if hidden_by else None
            key = (_source(stack, layer), replace(hit, secret=None), fate.exposure, by, fate.shown_at)
            found.add(key, _finding(target, layer, hit, fate, hidden_by))


def _hidden_by(stack: Stack, fate: Fate) -> HiddenBy | None:
    hider = fate.hider
    if hider is None:
        return None
    layer = stack.layers[hider.layer]
    return HiddenBy(layer, hider.reason, hider.path, layer.created_by)


def _finding(target: Target, layer: Layer, hit: Hit, fate: Fate, hidden_by: HiddenBy | None) -> Finding:
    return Finding(
        rule_id=hit.rule_id,
        title=hit.title,
        confidence=hit.told_confidence,
        exposure=fate.exposure,
        target=_holder(target),
        layer=layer,
        created_by=layer.created_by,
        hidden_by=hidden_by,
        path=hit.shown_path,
        shown_at=fate.shown_at,
        line=hit.line,
        column=hit.column,
        offset=hit.offset,
        redacted=hit.redacted,
        fingerprint=hit.fingerprint,
        on_disk_path=layer.place_of(hit.path),
        secret=hit.secret,
    )


def _holder(target: Target) -> Holder:
    return Holder(target.kind, target.id, target.name)


def _place_texts(subject: Subject, scanner: Scanner, clean: Collection[str], found: Findings) -> None:
    """Findings in a target's configuration: each value once a place, and not again where it is only repeated."""
    places: set[tuple[str, bytes]] = set()
    values: set[bytes] = set()
    steps = [text.created_by for text in subject.texts if text.created_by]
    for text, match in _text_matches(subject, scanner):
        value = match.secret.reveal()
        if (text.place, value) in places or (text.repeats and value in values):
            continue
        places.add((text.place, value))
        values.add(value)
        hit = hit_of(match, text.place, reveal=found.reveal)
        if hit.fingerprint in clean:
            continue
        told = os.fsdecode(value)
        finding = Finding(
            rule_id=hit.rule_id,
            title=hit.title,
            confidence=hit.confidence,
            exposure=Exposure.CONFIG,
            target=_holder(subject.target),
            layer=text.layer,
            created_by=text.created_by or next((step for step in steps if told in step), None),
            hidden_by=None,
            path=text.place,
            shown_at=None,
            line=None,
            column=None,
            offset=None,
            redacted=hit.redacted,
            fingerprint=hit.fingerprint,
            on_disk_path=text.file,
            secret=hit.secret,
        )
        found.add((text.place, hit.rule_id, hit.fingerprint), finding)


def _text_matches(subject: Subject, scanner: Scanner) -> Iterator[tuple[ConfigText, Match]]:
    scans = scanner.scan_small([(text.syntax, os.fsencode(text.text)) for text in subject.texts])
    for text, scan in zip(subject.texts, scans, strict=True):
        for match in scan.matches:
            yield text, match
