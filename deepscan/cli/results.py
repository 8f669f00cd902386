"""Commands over results that are there: compare, check, merge, report, and the journal.

They scan nothing anew, but for the frames that `verify` judges again. Each says in its help what
its exit codes mean.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepscan.cli import arguments
from deepscan.cli.arguments import KINDS, listed, one_of
from deepscan.cli.console import errors, print_json, print_line, print_message
from deepscan.errors import OutputError, UsageError
from deepscan.exit_codes import ERROR, FOUND, OK, ExitPolicy, counted
from deepscan.options import ScanOptions
from deepscan.sinks.wording import visible

if TYPE_CHECKING:
    from deepscan.archive.journal import JournalState
    from deepscan.archive.records import Results
    from deepscan.archive.reports import Report
    from deepscan.types import Label


_MOVED = """
Exit codes: 0 no verdict moved; 1 at least one moved, or a file is known on one side only; 2 they
could not be compared. A verdict moves if its label is another, or P(manipulated) differs by more
than the tolerance.
"""
_CHECKED = """
Exit codes: 0 all is as recorded; 1 something differs; 2 nothing differs, but something could not be
checked (the input is gone, other weights are installed), or the command failed.

Scores may differ by what the two engines may be apart from torch in fp32, and 0.02 since boxes are
recorded to a tenth of a pixel. A result without a list of frames is scanned again as a whole.
"""
_MERGED = """
Exit codes are those of a scan of all files: 1 at least one manipulated; 2 a file failed, or parts
are missing or unfinished (which is told; the rest is merged all the same); 3 at least one
inconclusive; 0 otherwise.
"""

journal_app = typer.Typer(
    help="Look at the journal of a results folder, or repair it.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command("diff", epilog=_MOVED)(diff)
    app.command("verify", epilog=_CHECKED)(verify)
    app.command("merge", epilog=_MERGED)(merge)
    app.command("report")(report)
    app.command("baseline")(accept)
    app.add_typer(journal_app, name="journal")


def diff(
    old: Annotated[
        Path, typer.Argument(metavar="OLD", help="Results folder or result.json of before.")
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The same of now.")],
    tolerance: Annotated[
        float, typer.Option(help="How far P(manipulated) may be apart.", min=0.0, max=1.0)
    ] = 0.02,
    format_: arguments.Format = "text",
    debug: arguments.Debug = False,
) -> None:
    """Tell which verdicts moved between two results, by how much, and why.

    deepscan diff RESULTS.old RESULTS

    Named beside each are all differences that may have moved it: content, model, settings, decoder,
    engine, calibration, version.
    """
    with errors(debug=debug):
        one_of("--format", format_, ("text", "json"))
        from deepscan.archive.diff import compare, to_json, to_text

        found = compare(old, new, tolerance=tolerance)
        if format_ == "json":
            print_json(to_json(found))
        else:
            for line in to_text(found):
                print_line(line)
    raise typer.Exit(FOUND if found.moved else OK)


def verify(
    result: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT",
            help="A record (result.json), any file beside it, their common name (result) or "
            "folder; or a results folder.",
        ),
    ],
    frames: Annotated[
        int,
        typer.Option(help="Frames to judge again, drawn at random; 0: none.", min=0, max=10_000),
    ] = 8,
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            show_default=False,
            help="Where the scanned file lies now; for a results folder, the folder of its files.",
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="As for a scan.")] = ScanOptions().engine,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Only what is not in order, and the counts (of a folder always)."
        ),
    ] = False,
    format_: arguments.Format = "text",
    debug: arguments.Debug = False,
) -> None:
    """Check a result without trusting who made it: hashes, shape, and some scores judged again.

    deepscan verify result.json --frames 20
    """
    with errors(debug=debug):
        one_of("--format", format_, ("text", "json"))
        from deepscan.archive.verify import verify as check

        named = _record_named(result)
        found = check(named, frames=frames, seed=seed, input=input_, engine=engine)
        if format_ == "json":
            print_json(found.to_json())
        else:
            # Of a folder only what is not in order: nobody reads 200 lines that say ok.
            for line in found.to_text(everything=not quiet and not named.is_dir()):
                print_line(line)
    raise typer.Exit({"ok": OK, "differs": FOUND, "unchecked": ERROR}[found.state])


def _record_named(path: Path) -> Path:
    """The record, or the results folder, that a person means.

    That is the thing itself; the record beside another output (result.mp4) or of a common name
    (result); the one record in a folder.

    Raises:
        UsageError: there is no record there, or several.
    """
    if path.is_dir():
        from deepscan.archive.journal import is_results

        records = sorted(path.glob("*.json"))
        if is_results(path) or not records:
            return path
        if len(records) > 1:
            raise UsageError(f"{path} holds {len(records)} records: name one of them")
        return records[0]
    if path.suffix == ".json":
        return path
    suffixes = sorted((suffix for _, suffix in KINDS.values()), key=len, reverse=True)
    end = next((each for each in suffixes if path.name.endswith(each)), "")
    record = path.with_name(path.name.removesuffix(end) + ".json")
    if record.is_file():
        return record
    raise UsageError(f"{path}: there is no record {record}; name a record or a results folder")


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for all results.")],
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD", help="Results folders, one or more.")
    ],
    report: arguments.Reports = arguments.DEFAULT_REPORTS,
    sarif_root: arguments.SarifRoot = None,
    sarif_category: arguments.SarifCategory = "",
    copy: Annotated[
        bool,
        typer.Option("--copy", help="Copy outputs and check them; else they are hard links."),
    ] = False,
    mixed: Annotated[
        bool,
        typer.Option("--mixed", help="Also parts with other settings, weights or engines."),
    ] = False,
    newest: Annotated[
        bool,
        typer.Option("--newest", help="Of two results under one name the newest counts."),
    ] = False,
    fail_on: arguments.FailOn = "manipulated",
    require_face: arguments.RequireFace = False,
    allow_inconclusive: Annotated[
        bool, typer.Option("--allow-inconclusive", help="Exit code 0 instead of 3.")
    ] = False,
    exit_zero: arguments.ExitZero = False,
    baseline: arguments.Baseline = None,
    format_: arguments.Format = "text",
    debug: arguments.Debug = False,
) -> None:
    """Put results that were made apart into one folder, as if one machine had made them.

    deepscan ARCHIVE --shard 1/3 --out part1        (and so on, anywhere)

    deepscan merge RESULTS part1 part2 part3
    """
    with errors(debug=debug):
        one_of("--format", format_, ("text", "json"))
        if fail_on not in ("manipulated", "suspicious"):
            raise UsageError(f"--fail-on {fail_on}: must be one of manipulated, suspicious")
        reports = _reports(report, sarif_root, sarif_category)
        from deepscan.archive.merge import merge as unite

        merged = unite(out, shards, copy=copy, mixed=mixed, newest=newest, command=tuple(sys.argv))
        results = _with_baseline(merged.results, baseline)
        _write_reports(results, reports)
        for line in merged.missing:
            print_message(line)
        outcomes = merged.results.outcomes
        if format_ == "json":
            print_json(
                {
                    "out": str(out),
                    "files": len(outcomes),
                    "linked": merged.linked,
                    "copied": merged.copied,
                    "missing": list(merged.missing),
                }
            )
        else:
            print_line(counted(outcome.label for outcome in outcomes))
    allowed = sys.maxsize if allow_inconclusive else 0
    policy = ExitPolicy(fail_on == "suspicious", require_face, allowed, exit_zero)
    code = policy.code(each.label for each in outcomes if results.accepted(each) is None)
    raise typer.Exit(ERROR if merged.missing else code)


def report(
    results: arguments.Results,
    report: arguments.Reports = arguments.DEFAULT_REPORTS,
    sarif_root: arguments.SarifRoot = None,
    sarif_category: arguments.SarifCategory = "",
    baseline: arguments.Baseline = None,
    debug: arguments.Debug = False,
) -> None:
    """Write the reports of a results folder anew, from its journal. Nothing is scanned."""
    with errors(debug=debug):
        reports = _reports(report, sarif_root, sarif_category)
        from deepscan.archive.journal import read_journal

        found = _with_baseline(read_journal(results), baseline)
        for path in _write_reports(found, reports):
            print_line(visible(f"wrote {path}"))


def accept(
    results: arguments.Results,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The baseline to write.")],
    reason: Annotated[str, typer.Option(help="Why these verdicts are accepted.")],
    until: Annotated[str, typer.Option(metavar="DAY", help="The last day, such as 2027-03-31.")],
    reviewer: Annotated[str | None, typer.Option(help="Who looked at them.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the baseline.")] = False,
    debug: arguments.Debug = False,
) -> None:
    """Write a baseline that accepts every content that is labelled manipulated or suspicious.

    Review the file, then scan with --baseline FILE.
    """
    with errors(debug=debug):
        from datetime import date

        from deepscan.archive.baseline import write_baseline
        from deepscan.archive.journal import read_journal

        try:
            expires = date.fromisoformat(until)
        except ValueError:
            raise UsageError(f"--until {until}: give a day such as 2027-03-31") from None
        if out.exists() and not force:
            raise OutputError(f"{out} is there already: name another, or give --force")
        made = write_baseline(read_journal(results), out, reason, expires, reviewer=reviewer)
        print_line(visible(f"wrote {out}: {len(made.entries)} accepted until {expires}"))


def _with_baseline(results: Results, baseline: Path | None) -> Results:
    if baseline is None:
        return results
    from deepscan.archive.baseline import read_baseline

    return replace(results, baseline=read_baseline(baseline))


@journal_app.command()
def show(
    results: arguments.Results,
    format_: arguments.Format = "text",
    debug: arguments.Debug = False,
) -> None:
    """Tell what the journal says: the last run, its files by label, what is unfinished."""
    with errors(debug=debug):
        one_of("--format", format_, ("text", "json"))
        from deepscan.archive.journal import read_state

        state = read_state(results)
        if format_ == "json":
            print_json(_journal_json(state))
        else:
            for line in _journal_lines(state):
                print_line(visible(line))


@journal_app.command()
def repair(
    results: arguments.Results,
    debug: arguments.Debug = False,
) -> None:
    """Keep every whole line of a damaged journal; files whose lines are lost are scanned again."""
    with errors(debug=debug):
        from deepscan.archive.journal import repair as mend

        kept, lost = mend(results)
        if lost:
            print_line(
                f"{kept} lines kept, {lost} lost; the damaged journal lies beside the new one"
            )
        else:
            print_line(f"{kept} lines, none of them lost")


def _journal_json(state: JournalState) -> dict[str, Any]:
    from deepscan.archive.states import FileState

    run = state.run
    states = Counter(state.states().values())
    return {
        "run": None if run is None else run.to_json(),
        "finished": state.finished,
        "files": states[FileState.CURRENT] + states[FileState.NOT_LISTED],
        "labels": _labels(state),
        "not_listed": states[FileState.NOT_LISTED],
        "gone": states[FileState.GONE],
        "superseded": len(state.superseded) + states[FileState.SUPERSEDED],
        "unfinished": list(state.unfinished()),
    }


def _labels(state: JournalState) -> dict[str, int]:
    return dict(sorted(Counter(map(str, _counting(state))).items()))


def _counting(state: JournalState) -> list[Label]:
    """The labels of the files that count: those that are current or not listed now."""
    counting = ("current", "not-listed")
    return [state.outcomes[name].label for name, each in state.states().items() if each in counting]


def _journal_lines(state: JournalState) -> Iterator[str]:
    from deepscan.archive.states import FileState

    run = state.run
    if run is None:
        yield "no run has begun here"
        return
    part = f", shard {run.shard[0]}/{run.shard[1]}" if run.shard else ""
    yield f"last run   {run.id}, {run.started}, deepscan {run.version}{part}"
    ended = "yes, with every file" if state.finished else "no: give the same scan again to go on"
    yield f"ended      {ended}"
    yield f"model      {run.model}, {run.model_sha256[:12]}; engine {run.engine}"
    point = "" if run.operating_point is None else f", operating point {run.operating_point:.3f}"
    yield f"judged by  calibration {run.calibration}{point}"
    if run.controls:
        words = {True: "passed", False: "FAILED", None: "not judged"}
        yield f"controls   {len(run.controls)} known crops: {words[run.controls_passed]}"
    states = Counter(state.states().values())
    yield f"files      {counted(_counting(state))}"
    if unlisted := states[FileState.NOT_LISTED]:
        yield f"not listed {unlisted} of them, by the last run"
    if gone := states[FileState.GONE]:
        yield f"gone       {gone} that are no longer in the archive"
    if older := len(state.superseded) + states[FileState.SUPERSEDED]:
        yield f"older      {older} results by other settings or from other contents"
    for name in state.unfinished():
        yield f"unfinished {name}"


def _reports(text: str, sarif_root: Path | None, sarif_category: str) -> list[tuple[str, Report]]:
    """File name and function of each report that `--report` names.

    Raises:
        UsageError: one is unknown or needs a package that is not there, or none is named.
    """
    from deepscan.archive.reports import load_report

    names = listed(text)
    if not names:
        raise UsageError("--report names nothing; give none for no reports")
    category = arguments.sarif_category(sarif_category)
    wanted = () if names == ("none",) else names
    return [load_report(name, sarif_root, category) for name in wanted]


def _write_reports(results: Results, reports: list[tuple[str, Report]]) -> list[Path]:
    for file, write in reports:
        write(results, results.folder / file)
    return [results.folder / file for file, _ in reports]
