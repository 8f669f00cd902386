"""`deepscan model calibrate`: thresholds from one's own clips, in place of those that ship."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepscan.archive.options import ArchiveOptions
from deepscan.cli import arguments
from deepscan.cli.archive import open_pool, stop_at_signals
from deepscan.cli.arguments import one_of, rate
from deepscan.cli.console import errors, log_to_stderr, print_answer, print_message
from deepscan.errors import UsageError
from deepscan.exit_codes import INTERRUPTED
from deepscan.options import ScanOptions

if TYPE_CHECKING:
    from deepscan.archive.calibrate import Calibrated, GroupBy, Material
    from deepscan.models.card import Card

DEFAULTS = ScanOptions()
PAGE = "calibration.html"
_LISTED = 5  # names of files in a line


Real = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="Clips and pictures of which you know that no face is manipulated, of the kind that "
        "you will scan. A subfolder is one recording or person.",
    ),
]
To = Annotated[str, typer.Option(metavar="NAME", help="Name of the calibrated model.")]
Manipulated = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Clips with manipulated faces: verdicts then state likelihood ratios.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keep the scans and the report here; by default in NAME-calibration. The same command "
        "resumes a stopped run.",
    ),
]
MaxFalseAlarms = Annotated[
    str,
    typer.Option(metavar="N/1000", help="Accepted rate of real recordings called manipulated."),
]
MaxSuspicious = Annotated[
    str, typer.Option(metavar="N/1000", help="The same for suspicious or manipulated.")
]
GroupByOption = Annotated[
    str,
    typer.Option(
        "--group-by",
        metavar="WHAT",
        help="Take the files of one folder for one recording, or each file: folder, file.",
        callback=one_of("--group-by", "folder", "file"),
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace a model of that name in your folder.")
]


def calibrate(
    model: arguments.Name,
    real: Real,
    to: To,
    manipulated: Manipulated = None,
    out: Out = None,
    max_false_alarms: MaxFalseAlarms = "10/1000",
    max_suspicious: MaxSuspicious = "50/1000",
    group_by: GroupByOption = "folder",
    engine: arguments.Engine = DEFAULTS.engine,
    jobs: arguments.Jobs = None,
    force: Force = False,
    format_: arguments.Format = "text",
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
) -> None:
    """Set a model's thresholds by your own clips. False alarms on them then have a known rate.

    The new model lies in your folder: scan with `deepscan --model NAME`. With real clips alone
    its verdicts keep the two rates and state no likelihood ratio. 1 of 100 needs 99 recordings.
    """
    log_to_stderr(quiet=quiet, debug=debug)
    with errors(debug=debug):
        grouping: GroupBy = group_by  # type: ignore[assignment]
        over = rate("--max-false-alarms", max_false_alarms) or 0.01
        review = rate("--max-suspicious", max_suspicious) or 0.05
        if over > review:
            raise UsageError("--max-suspicious counts the manipulated too: give no less than it")
        from deepscan.archive.calibrate import calibrate as fit
        from deepscan.archive.calibrate import card_of, check_folders, save
        from deepscan.archive.calibration_page import write_page
        from deepscan.models.library import check_name, read_card
        from deepscan.verdict.calibration import Calibration

        check_folders(real, manipulated)
        check_name(to, force=force)
        card = read_card(model)
        options = ScanOptions(model=model, engine=engine)
        folder = out if out is not None else Path(f"{to}-calibration")
        archive_options = ArchiveOptions(jobs=jobs, write=(), command=tuple(sys.argv))
        scanned: list[Material] = []
        for source, kind in ((real, "real"), (manipulated, "manipulated")):
            if source is None:
                continue
            material = _scan(source, folder / kind, options, archive_options, grouping, quiet=quiet)
            if material is None:
                print_message("run the same command again to resume")
                raise typer.Exit(INTERRUPTED)
            scanned.append(material)
        found = fit(
            card,
            to,
            scanned[0],
            scanned[1] if len(scanned) > 1 else None,
            rate=over,
            review_rate=review,
        )
        written, page = card_of(found, to), folder / PAGE
        write_page(found, Calibration.from_card(written), page)
        saved = save(found, to, written, force=force)
        _print(found, saved, page, format_)


def _scan(
    source: Path,
    results: Path,
    options: ScanOptions,
    archive_options: ArchiveOptions,
    group_by: GroupBy,
    *,
    quiet: bool,
) -> Material | None:
    """Scan a folder and read the results; None if the scan was interrupted."""
    from dataclasses import replace

    from deepscan.archive import run
    from deepscan.archive.calibrate import WRITE, read_material
    from deepscan.archive.progress import open_view
    from deepscan.wording import file_count

    wanted = replace(archive_options, write=WRITE, write_found=(), reports=("csv",))
    pool = open_pool(options, wanted, results)
    with open_view(sys.stderr, quiet=quiet) as view:
        result = run.scan_archive(
            [str(source)],
            results,
            options=options,
            pool=pool,
            archive_options=wanted,
            on_event=view.take,
            stop_request=stop_at_signals(),
        )
    if result.interrupted:
        return None
    manipulated = results.name == "manipulated"
    material = read_material(
        result.outcomes, result.results.folder, source, manipulated=manipulated, group_by=group_by
    )
    for why, names in (
        ("that cannot be read", [name for name, _ in material.unreadable]),
        ("without a face that can be judged", material.without_face),
    ):
        if names and not quiet:
            first = ", ".join(names[:_LISTED]) + " ..." * (len(names) > _LISTED)
            print_message(f"{source}: {file_count(len(names))} left out {why}: {first}")
    return material


def _print(found: Calibrated, saved: Card, page: Path, format_: str) -> None:
    from deepscan.archive.calibration_page import outliers, sentences
    from deepscan.wording import visible

    rates, calibration = found.fitted.rates, found.fitted.calibration
    values = {
        "model": saved.name,
        "path": str(saved.path),
        "sha256": saved.sha256,
        "calibration": saved.calibration and saved.calibration["name"],
        "population": calibration.population,
        "recordings": calibration.clips,
        "rate": calibration.rate,
        "review_rate": calibration.review_rate,
        "measured_manipulated": rates.manipulated,
        "measured_suspicious": rates.suspicious,
        "found": rates.found,
        "likelihood_ratio": calibration.likelihood_ratio,
        "bands": len(calibration.bands),
        "outliers": [each.clip.name for each in outliers(found)],
        "page": str(page),
    }
    next_step = f"Scan with it: deepscan --model {saved.name} FOLDER --out RESULTS"
    lines = (*sentences(found), f"Report with pictures: {page}", next_step)
    print_answer(format_, values, map(visible, lines))
