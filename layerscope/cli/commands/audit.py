"""``audit``: the secrets that layers and configurations hold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.output import open_output
from layerscope.cli.session import Session
from layerscope.errors import ExitCode, UsageError
from layerscope.model import Caution, DiffId, TargetKind
from layerscope.secrets.match import Confidence

if TYPE_CHECKING:
    from layerscope.analysis.audit import Audit, Means, Skipped, Subject
    from layerscope.analysis.selection import Selection
    from layerscope.secrets.baseline import Baseline
    from layerscope.secrets.scan import Reach

PANEL: Final = "Audit"
GATE: Final = "Gate"
RULES: Final = "Rules"

Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TARGET",
        help="Images or containers, mount points, lowerdir=A:B:C. Default: all images and containers.",
        show_default=False,
    ),
]
Everything = Annotated[
    bool, typer.Option("--all", "-a", help="All images and containers, and the legacy builder's untagged steps.")
]
ShowSecrets = Annotated[bool, typer.Option("--show-secrets", help="Show the secrets themselves.")]
LeastConfidence = Annotated[
    Confidence | None,
    typer.Option(
        "--confidence",
        help="Report what is so sure or surer. Default: medium, or as --fail-on.",
        show_default=False,
    ),
]
FailOn = Annotated[
    Confidence,
    typer.Option("--fail-on", help="Exit 1 when such findings or surer ones remain.", rich_help_panel=GATE),
]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit 0 whatever is found.", rich_help_panel=GATE)]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit 3 when anything could not be read.", rich_help_panel=GATE)
]
BaselineFile = Annotated[
    str | None,
    typer.Option(
        "--baseline", metavar="FILE", help="Leave out what it accepts.", rich_help_panel=GATE, show_default=False
    ),
]
WriteBaseline = Annotated[
    str | None,
    typer.Option(
        "--write-baseline",
        metavar="FILE",
        help="Accept what is found: write it there, and exit 0.",
        rich_help_panel=GATE,
        show_default=False,
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="RULE:PATH",
        help="Leave out findings of a rule below a path; globs.",
        rich_help_panel=GATE,
        show_default=False,
    ),
]
IgnoreLayersOf = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore-layers-of",
        metavar="IMAGE",
        help="Leave out the layers of a known base image.",
        rich_help_panel=GATE,
        show_default=False,
    ),
]
IgnoreDiffId = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore-diff-id",
        metavar="DIGEST",
        help="Leave out the layer with this diff_id.",
        rich_help_panel=GATE,
        show_default=False,
    ),
]
RulesFile = Annotated[
    str | None,
    typer.Option(
        "--rules",
        metavar="FILE",
        help="Rules of your own, a gitleaks configuration.",
        rich_help_panel=RULES,
        show_default=False,
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="RULE", help="Use these rules alone; globs.", rich_help_panel=RULES, show_default=False
    ),
]
Disable = Annotated[
    list[str] | None,
    typer.Option(
        "--disable",
        metavar="RULE",
        help="Do without these rules; globs.",
        rich_help_panel=RULES,
        show_default=False,
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Scan everything anew, and keep nothing.")]
LookIntoArchives = Annotated[
    bool,
    typer.Option("--archives/--no-archives", help="Look into zip, jar, whl, tar, gz, xz, zst and bz2 files."),
]
LookIntoGit = Annotated[
    bool, typer.Option("--git", help="Scan what git repositories keep: every version of every file.")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", min=1, help="Processes to scan with. Default: one a core.", show_default=False
    ),
]


@command("audit", PANEL, "Find secrets, hidden ones too")
def audit(
    session: Session,
    targets: Targets = None,
    everything: Everything = False,
    confidence: LeastConfidence = None,
    show_secrets: ShowSecrets = False,
    archives: LookIntoArchives = True,
    git: LookIntoGit = False,
    no_cache: NoCache = False,
    jobs: Jobs = None,
    rules: RulesFile = None,
    only: Only = None,
    disable: Disable = None,
    fail_on: FailOn = Confidence.MEDIUM,
    exit_zero: ExitZero = False,
    strict: Strict = False,
    baseline: BaselineFile = None,
    write_baseline: WriteBaseline = None,
    allow: Allow = None,
    ignore_layers_of: IgnoreLayersOf = None,
    ignore_diff_id: IgnoreDiffId = None,
) -> None:
    """Find the secrets that images and containers hold: in files that show, in files that a later layer deleted or
    overwrote, and in the configuration and history.

    Nothing leaves this machine, and secrets are never shown whole unless you ask for it. Each layer is scanned
    once, however many images share it; what was found is kept, without the secrets, in your cache directory.
    Exits 1 when findings remain, 3 with --strict when something could not be read.
    """
    session.allow(Format.TABLE, Format.JSON, Format.JSONL, Format.SARIF)
    from layerscope.analysis.audit import audit as run_audit
    from layerscope.analysis.selection import select
    from layerscope.secrets.baseline import Baseline, read_baseline
    from layerscope.secrets.baseline import allow as allow_entry
    from layerscope.secrets.scan import Reach
    from layerscope.stores.archive_names import archive_named, is_piped

    if everything and targets:
        raise UsageError("--all and targets contradict each other", "without a target everything is audited")
    if git and any(map(is_piped, targets or ())):
        raise UsageError("--git reads files twice, which no pipe allows", "save the archive to a file first")
    kept = read_baseline(baseline) if baseline is not None else Baseline()
    inline = [allow_entry(text) for text in allow or ()]
    reach = Reach(archives, git)
    means = _means(session, rules, only or [], disable or [], jobs, show_secrets, no_cache, reach)
    if any(archive_named(name) for name in targets or ()):
        means = _watching(session, means)
    subjects, unread = _subjects(session, targets, everything)
    ignored, clean = _ignored(session, ignore_layers_of or [], ignore_diff_id or [])
    found = run_audit(subjects, means, ignored=ignored, clean=clean, warn=session.cautions, tick=session.progress)
    found.scanned.skipped[:0] = unread
    least = confidence or max(Confidence.MEDIUM, fail_on, key=lambda one: one.rank)
    chosen = select(found.findings, least, Baseline([*kept.entries, *inline]), datetime.now(UTC).date())
    for finding, entry in chosen.expired:
        message = f"its entry in the baseline expired on {entry.expires} ({finding.rule_id} {finding.fingerprint})"
        session.cautions(Caution("baseline-expired", finding.path, message))
    _answer(session, found, chosen)
    if write_baseline is not None:
        _write_baseline(write_baseline, chosen, kept)
    elif not exit_zero and chosen.at_least(fail_on):
        raise typer.Exit(ExitCode.GATE)
    if strict and found.scanned.skipped:
        raise typer.Exit(ExitCode.FAILED)


def _means(
    session: Session,
    rules_file: str | None,
    only: list[str],
    disable: list[str],
    jobs: int | None,
    reveal: bool,
    no_cache: bool,
    reach: Reach,
) -> Means:
    """What to scan with. Raises RulesError, or UsageError for a rule that does not exist."""
    from layerscope.analysis.audit import Means
    from layerscope.secrets.cache import cache_directory, open_cache
    from layerscope.secrets.engine import Scanner
    from layerscope.secrets.rules import RuleSet
    from layerscope.secrets.rules_file import load_rules, own_rules
    from layerscope.workers import usable_cores

    cache = None if no_cache else open_cache(cache_directory(), session.cautions)
    place = cache.path if cache is not None else None
    known = load_rules(rules_file) if rules_file is not None else own_rules()
    rules = known.select(only, disable) if only or disable else known
    scanner = masking = Scanner(rules, cache_dir=place)
    if rules is not own_rules():
        every = {rule.id: rule for rule in (*known.rules, *own_rules().rules)}
        masking = Scanner(RuleSet(tuple(every.values()), own_rules().allowlists), cache_dir=place)
    session.say(f"scanning by {len(rules.rules)} rules with {scanner.engine}")
    return Means(scanner, masking, jobs or usable_cores(), reveal, cache, reach)


def _watching(session: Session, means: Means) -> Means:
    """The same, with something that scans what comes through a pipe."""
    from layerscope.secrets.passing import PassingScan

    passing = PassingScan(means.scanner, means.reach, reveal=means.reveal)
    session.onlooker, session.rereads = passing, means.reach.git
    return replace(means, passing=passing)


def _subjects(session: Session, targets: list[str] | None, everything: bool) -> tuple[list[Subject], list[Skipped]]:
    from layerscope.analysis.audit import Subject
    from layerscope.analysis.subjects import all_subjects, subject_of

    if not targets:
        return all_subjects(session.store, session.cautions, intermediate=everything)
    subjects: dict[object, Subject] = {}
    unread: list[Skipped] = []
    for name in targets:
        archive = session.archive(name)
        if archive is not None and archive[1].image is None:
            found, left_out = all_subjects(archive[0], session.cautions, intermediate=everything)
            subjects.update({(one.target.kind, one.target.id): one for one in found})
            unread += left_out
            continue
        target = session.target(name)
        if target.kind is TargetKind.MOUNT:
            subjects.setdefault((target.kind, target.name), Subject(target))
        else:
            subjects.setdefault((target.kind, target.id), subject_of(session.store_of(target), target))
    return list(subjects.values()), unread


def _ignored(session: Session, images: list[str], diff_ids: list[str]) -> tuple[dict[DiffId, str], list[Subject]]:
    """The layers to leave out, with the option that says so, and the images whose configurations are known."""
    from layerscope.analysis.subjects import subject_of
    from layerscope.stores.records import diff_id

    ignored: dict[DiffId, str] = {}
    for text in diff_ids:
        known = diff_id(text)
        if known is None:
            raise UsageError(f"--ignore-diff-id {text!r} is no digest", "give sha256: and 64 hex digits")
        ignored[known] = "--ignore-diff-id"
    clean = []
    for name in images:
        target = session.target(name, TargetKind.IMAGE)
        clean.append(subject_of(session.store_of(target), target))
        for layer in target.stack:
            if layer.diff_id is not None:
                ignored.setdefault(layer.diff_id, f"--ignore-layers-of {name}")
    return ignored, clean


def _answer(session: Session, found: Audit, chosen: Selection) -> None:
    from layerscope.report.audit import audit_table
    from layerscope.report.audit_document import audit_document, finding_document
    from layerscope.report.document import dump
    from layerscope.report.sarif import sarif_document

    if session.format in (Format.TABLE, Format.JSON):
        session.answer(lambda: audit_table(found, chosen, session.style), lambda: audit_document(found, chosen))
        return
    session.progress.clear()
    if session.format is Format.SARIF:
        texts = [dump(sarif_document(found, chosen, session.cautions))]
    else:
        texts = [dump(finding_document(finding), indent=None) for finding in chosen.findings]
    with session.output() as stream:
        for text in texts:
            stream.write(text.encode("ascii") + b"\n")


def _write_baseline(path: str, chosen: Selection, kept: Baseline) -> None:
    from layerscope.secrets.baseline import baseline_text

    with open_output(path) as stream:
        stream.write(baseline_text(chosen.findings, kept).encode())
