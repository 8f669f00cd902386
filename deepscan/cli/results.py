"""Commands for existing results: diff, verify, merge, report, baseline, journal.

They scan nothing, except for the frames that `verify` judges again. The help of each explains its
exit codes.
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
from deepscan.cli.arguments import KINDS, listed
from deepscan.cli.console import errors, print_answer, print_line, print_message
from deepscan.errors import OutputError, UsageError
from deepscan.exit_codes import ERROR, FOUND, OK, ExitPolicy
from deepscan.options import ScanOptions
from deepscan.wording import counted, visible

if TYPE_CHECKING:
    from deepscan.archive.journal import JournalState
    from deepscan.archive.records import Results
    from deepscan.archive.reports import Report
    from deepscan.types import Label


_MOVED = """
Exit codes: 0 no verdict changed; 1 at least one changed, or a file is on one side only; 2 the
comparison failed. A verdict has changed if its label differs, or P(manipulated) differs by more
than the tolerance.
"""
_CHECKED = """
Exit codes: 0 everything is as recorded; 1 something differs; 2 nothing differs, but something could
not be checked (the input is gone, other weights are installed), or the command failed.

Scores may differ by the tolerances of both engines, and by 0.02 since boxes are recorded to a tenth
of a pixel. A result without a list of frames is scanned again completely.
"""
_MERGED = """
Exit codes as for a scan of all files: 1 at least one manipulated; 2 a file failed, or parts are
missing or unfinished (the others are merged anyway); 3 at least one inconclusive; 0 otherwise.
"""

journal_app = arguments.group("Show or repair the journal of a results folder.")


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
        Path, typer.Argument(metavar="OLD", help="The earlier results folder or result.json.")
    ],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The later one.")],
    tolerance: Annotated[
        float, typer.Option(help="Allowed difference of P(manipulated).", min=0.0, max=1.0)
    ] = 0.02,
    format_: arguments.Format = "text",
    debug: arguments.Debug = False,
) -> None:
    """Compare two results: which verdicts changed, by how much, and why.

    deepscan diff RESULTS.old RESULTS

    Lists all differences that may have changed a verdict: content, model, settings, decoder,
    engine, calibration, version.
    """
    with errors(debug=debug):
        from deepscan.archive.diff import compare, to_json, to_text

        found = compare(old, new, tolerance=tolerance)
        print_answer(format_, to_json(found), to_text(found))
    raise typer.Exit(FOUND if found.moved else OK)


def verify(
    result: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT",
            help="A record (result.json), another file beside it, their common name (result) or "
            "folder; or a results folder.",
        ),
    ],
    frames: Annotated[
        int,
        typer.Option(help="Number of random frames to judge again.", min=0, max=10_000),
    ] = 8,
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
    input_: Annotated[
        Path | None,
        typer.Option(
            "--input",
            show_default=False,
            help="Path of the scanned file now; for a results folder, the folder of its files.",
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="Engine, as for a scan.")] = ScanOptions().engine,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="Print only failed checks and the counts (default for folders)."
        ),
    ] = False,
    format_: arguments.Format = "text",
    debug: arguments.Debug = False,
) -> None:
    """Check a result without trusting its author: hashes, schema, and some frames judged again.

    deepscan verify result.json --frames 20
    """
    with errors(debug=debug):
        from deepscan.archive.verify import verify as check

        named = _record_named(result)
        found = check(named, frames=frames, seed=seed, input=input_, engine=engine)
        # For a folder only failed checks: there may be hundreds of passed ones.
        lines = found.to_text(everything=not quiet and not named.is_dir())
        print_answer(format_, found.to_json(), lines)
    raise typer.Exit({"ok": OK, "differs": FOUND, "unchecked": ERROR}[found.state])


def _record_named(path: Path) -> Path:
    """The record or results folder at a path.

    That is the path itself; the record beside another output (result.mp4) or with a common name
    (result); or the only record in a folder.

    Raises:
        UsageError: there is no record, or there are several.
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
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the results.")],
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD", help="Results folders, one or more.")
    ],
    report: arguments.Reports = arguments.REPORT_DEFAULT,
    sarif_root: arguments.SarifRoot = None,
    sarif_category: arguments.SarifCategory = "",
    copy: Annotated[
        bool,
        typer.Option("--copy", help="Copy outputs and check them, instead of hard links."),
    ] = False,
    mixed: Annotated[
        bool,
        typer.Option("--mixed", help="Accept parts with other settings, weights or engines."),
    ] = False,
    newest: Annotated[
        bool,
        typer.Option("--newest", help="Of two results under one name keep the newest."),
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
    """Merge results of shards or separate scans into one folder.

    deepscan ARCHIVE --shard 1/3 --out part1   (and 2/3, 3/3, anywhere)

    deepscan merge RESULTS part1 part2 part3
    """
    with errors(debug=debug):
        reports = _reports(report, sarif_root, sarif_category)
        from deepscan.archive.merge import merge as unite

        merged = unite(out, shards, copy=copy, mixed=mixed, newest=newest, command=tuple(sys.argv))
        results = _with_baseline(merged.results, baseline)
        _write_reports(results, reports)
        for line in merged.missing:
            print_message(line)
        outcomes = merged.results.outcomes
        values = {
            "out": str(out),
            "files": len(outcomes),
            "linked": merged.linked,
            "copied": merged.copied,
            "missing": list(merged.missing),
        }
        print_answer(format_, values, [counted(outcome.label for outcome in outcomes)])
    allowed = sys.maxsize if allow_inconclusive else 0
    policy = ExitPolicy(fail_on == "suspicious", require_face, allowed, exit_zero)
    code = policy.code(each.label for each in outcomes if results.accepted(each) is None)
    raise typer.Exit(ERROR if merged.missing else code)


def report(
    results: arguments.Results,
    report: arguments.Reports = arguments.REPORT_DEFAULT,
    sarif_root: arguments.SarifRoot = None,
    sarif_category: arguments.SarifCategory = "",
    baseline: arguments.Baseline = None,
    debug: arguments.Debug = False,
) -> None:
    """Write the reports of a results folder again from its journal. Nothing is scanned."""
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
    until: Annotated[str, typer.Option(metavar="DAY", help="Last valid day, such as 2027-03-31.")],
    reviewer: Annotated[str | None, typer.Option(help="Name of the reviewer.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the baseline.")] = False,
    debug: arguments.Debug = False,
) -> None:
    """Write a baseline that accepts all contents labelled manipulated or suspicious.

    Review the file, then scan with --baseline FILE.
    """
    with errors(debug=debug):
        from datetime import UTC, date, datetime

        from deepscan.archive.baseline import write_baseline
        from deepscan.archive.journal import read_journal

        try:
            expires = date.fromisoformat(until)
        except ValueError:
            raise UsageError(f"--until {until}: give a day such as 2027-03-31") from None
        if expires < datetime.now(UTC).date():  # as a scan counts days
            raise UsageError(f"--until {until} has passed: give the last day on which it holds")
        if out.exists() and not force:
            raise OutputError(f"{out} exists: name another file, or give --force")
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
    """Show the last run, its files by label, and unfinished files."""
    with errors(debug=debug):
        from deepscan.archive.journal import read_state

        state = read_state(results)
        print_answer(format_, _journal_json(state), map(visible, _journal_lines(state)))


@journal_app.command()
def repair(
    results: arguments.Results,
    debug: arguments.Debug = False,
) -> None:
    """Keep all whole lines of a damaged journal. The next scan repeats the files of lost lines."""
    with errors(debug=debug):
        from deepscan.archive.journal import repair as mend

        kept, lost = mend(results)
        if lost:
            print_line(
                f"{kept} lines kept, {lost} lost; the damaged journal is kept beside the new one"
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
    """The labels of files that are current or not listed."""
    counting = ("current", "not-listed")
    return [state.outcomes[name].label for name, each in state.states().items() if each in counting]


def _journal_lines(state: JournalState) -> Iterator[str]:
    from deepscan.archive.states import FileState

    run = state.run
    if run is None:
        yield "no run has started here"
        return
    part = f", shard {run.shard[0]}/{run.shard[1]}" if run.shard else ""
    yield f"last run   {run.id}, {run.started}, deepscan {run.version}{part}"
    ended = "yes, with all files" if state.finished else "no: run the same scan again to resume"
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
        yield f"not listed {unlisted} of these by the last run"
    if gone := states[FileState.GONE]:
        yield f"gone       {gone} that are no longer in the archive"
    if older := len(state.superseded) + states[FileState.SUPERSEDED]:
        yield f"older      {older} results by other settings or from other contents"
    for name in state.unfinished():
        yield f"unfinished {name}"


def _reports(text: str, sarif_root: Path | None, sarif_category: str) -> list[tuple[str, Report]]:
    """Load the reports that `--report` names: file names and functions.

    Raises:
        UsageError: one is unknown or needs a package that is not installed, or none is named.
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
