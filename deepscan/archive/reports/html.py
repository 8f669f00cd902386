"""Writes summary.html, the page over all files, for people.

It opens from disk without a server or network. Its one script sorts and searches; the page's policy
allows only its hash, and without it rows, counts and the filter by label still work. Values from
names and records are escaped, and control characters are spelled out. Rows are sorted by the
attention that they need; there are at most `ROWS` and `PICTURES` thumbnails, so that the page of a
large archive opens fast. Rows outside the window need no layout (`content-visibility`).
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deepscan import wording
from deepscan.archive.records import Accepted, Outcome, OutputFile, Results, Run
from deepscan.archive.reports import SEVERITY, address, gone_text, inside, unfinished_text
from deepscan.files import atomic_output
from deepscan.sinks.template import load_template, plain
from deepscan.types import Interval, Label

ROWS = 10_000  # 5 MB of page
PICTURES = 300  # thumbnails, of the strongest findings
PICTURE = 80  # pixels of a thumbnail's side
STRETCHES = 3  # named in a row
SUPERSEDED = 500  # rows of older results

_FOUND = (Label.MANIPULATED, Label.SUSPICIOUS)
_JUDGED = (*_FOUND, Label.NO_EVIDENCE)
_KINDS = {  # in the order of the links
    "html": "Page",
    "overlay": "Video",
    "masks": "Masks",
    "frames": "Frames",
    "record": "Record",
}
_PAGE_SIZE = 8 * 2**20  # bytes of a file's page that are searched for a picture
_FIGURE = re.compile(
    rb'<figure>.{0,400}?src="data:image/jpeg;base64,([A-Za-z0-9+/]+=*)"', re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table. `keys` are the values to sort by, "" if unknown."""

    number: int
    label: Label
    folder: str
    name: str
    keys: str
    score: str
    stretches: int
    strongest: str
    judged: str
    length: str
    reason: str
    notes: tuple[tuple[str, int | None], ...]
    page: str | None
    links: tuple[tuple[str, str], ...]
    picture: str
    anchor: bool  # another row leads here


@dataclass(frozen=True, slots=True)
class Part:
    """A label's share of all files, and its position on the bar in percent of the width."""

    label: Label
    title: str
    count: int
    share: str
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Older:
    """A superseded result."""

    name: str
    before: Label
    now: Label | None
    score: str
    started: str


def write_html(results: Results, path: Path) -> None:
    """Write the page. It links to files in the results folder; thumbnails are taken from the pages
    of single files.

    Raises:
        OutputError: the file cannot be written.
    """
    page = _page(results, path.parent)
    with atomic_output(path) as part:
        part.write_text(page, encoding="utf-8", newline="\n")


def _page(results: Results, here: Path) -> str:
    template = load_template("deepscan.archive.reports", "summary.html.j2")
    outcomes = results.outcomes
    counts = Counter(each.label for each in outcomes)
    gravest = next((label for label in SEVERITY if counts[label]), Label.NOT_APPLICABLE)
    rows = _rows(results, here)
    return template.render(
        labels=SEVERITY,
        results=results,
        run=results.run,
        folder=wording.visible(results.folder.name),
        total=len(outcomes),
        gravest=gravest,
        headline=headline(counts),
        means=wording.phrase(f"means.{gravest}"),
        caveat=wording.phrase(f"caveat.{gravest}"),
        parts=parts_of(counts),
        figures=_figures(outcomes),
        rows=rows,
        rows_left=len(outcomes) - len(rows),
        facts=_facts(results.run),
        settings=[(name, plain(value)) for name, value in results.run.settings],
        older=_older(results),
        older_left=max(0, len(results.superseded) - SUPERSEDED),
        reasons=_reasons(outcomes),
        unfinished=unfinished_text(results),
        passed_over=wording.passed_over_text(results.run.passed_over),
        gone=gone_text(results),
    )


def headline(counts: Mapping[Label, int]) -> str:
    """One sentence on the findings and on files that were not judged."""
    total = sum(counts.values())
    found, weak = counts.get(Label.MANIPULATED, 0), counts.get(Label.SUSPICIOUS, 0)
    clear = counts.get(Label.NO_EVIDENCE, 0)
    open_ = counts.get(Label.INCONCLUSIVE, 0) + counts.get(Label.ERROR, 0)
    files = wording.file_count(total)
    if not total:
        return "No file was scanned."
    if found:
        return f"Signs of face manipulation were found in {found:,} of {files}."
    if weak:
        return f"{weak:,} of {files} need{'s' * (weak == 1)} a closer look."
    if open_ and clear:
        were = "was" if open_ == 1 else "were"
        return (
            "No evidence of face manipulation was found,"
            f" but {open_:,} of {files} {were} not judged to the end."
        )
    if open_:
        return f"{open_:,} of {files} could not be judged."
    if clear == total:
        return f"No evidence of face manipulation was found in {files}."
    if clear:
        return (
            "No evidence of face manipulation was found;"
            f" {total - clear:,} of {files} show{'s' * (total - clear == 1)} no face to analyse."
        )
    return f"There was no face to analyse in {files}."


def parts_of(counts: Mapping[Label, int]) -> list[Part]:
    """The parts of the bar of labels: to scale, but never too small to see."""
    total = sum(counts.values())
    widths = {
        label: max(0.6, 100 * counts[label] / total) for label in SEVERITY if counts.get(label)
    }
    scale = 100 / sum(widths.values()) if widths else 1.0
    parts, x = [], 0.0
    for label in SEVERITY:
        count, width = counts.get(label, 0), widths.get(label, 0.0) * scale
        share = wording.percent(count / total) if total else ""
        title = wording.phrase(f"label.{label}")
        parts.append(Part(label, title, count, share, round(x, 3), round(width, 3)))
        x += width
    return parts


def picture_of(page: Path) -> str:
    """The strongest frame on a file's page as a small JPEG data URI, "" if there is none.

    Only the page is opened, never a video; any error means no picture.
    """
    try:
        with page.open("rb") as file:
            found = _FIGURE.search(file.read(_PAGE_SIZE))
    except OSError:
        return ""
    return _small(found[1]) if found else ""


def _small(encoded: bytes) -> str:
    from PIL import Image as Pictures

    try:
        with Pictures.open(io.BytesIO(base64.b64decode(encoded)), formats=("JPEG",)) as picture:
            if max(picture.size) > 2_048:
                return ""
            small = picture.convert("RGB").resize((PICTURE, PICTURE), Pictures.Resampling.LANCZOS)
    except (
        OSError,
        ValueError,
        SyntaxError,
    ):  # Pillow's ways to say that it is no picture
        return ""
    held = io.BytesIO()
    small.save(held, "JPEG", quality=72, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode("ascii")


def _rows(results: Results, here: Path) -> list[Row]:
    ranks = {label: rank for rank, label in enumerate(SEVERITY)}
    ordered = sorted(
        results.outcomes, key=lambda each: (ranks[each.label], -(each.score or 0.0), each.name)
    )[:ROWS]
    by_name = {each.name: each for each in results.outcomes}
    numbers = {each.name: number for number, each in enumerate(ordered)}
    twins: dict[str, list[str]] = {}
    for each in results.outcomes:
        if each.same_as is not None:
            twins.setdefault(each.same_as, []).append(each.name)
    up = os.path.relpath(results.folder, here).replace(os.sep, "/")
    rows, pictures = [], 0
    for number, outcome in enumerate(ordered):
        owner = outcome if outcome.outputs else by_name.get(outcome.same_as or "", outcome)
        picture = ""
        page = next((each for each in owner.outputs if each.kind == "html"), None)
        if outcome.label in _FOUND and pictures < PICTURES and page and inside(page.path):
            picture = picture_of(results.folder / page.path)
            pictures += bool(picture)
        folder, slash, name = outcome.name.rpartition("/")
        links = _links(owner.outputs, up)
        rows.append(
            Row(
                number=number,
                label=outcome.label,
                folder=wording.visible(folder + slash),
                name=wording.visible(name),
                keys=_keys(outcome),
                score="" if outcome.score is None else wording.probability(outcome.score),
                stretches=len(outcome.intervals),
                strongest=_strongest(outcome.intervals),
                judged="" if outcome.judged is None else _percent(outcome.judged),
                length=wording.timestamp(outcome.seconds) if outcome.seconds else "",
                reason=wording.visible(_sentence(outcome)),
                notes=_notes(
                    outcome,
                    outcome.name in results.not_listed,
                    results.accepted(outcome),
                    numbers,
                    twins.get(outcome.name, []),
                ),
                page=links.pop(0)[1] if links and links[0][0] == _KINDS["html"] else None,
                links=tuple(links),
                picture=picture,
                anchor=outcome.same_as is not None or outcome.name in twins,
            )
        )
    return rows


def _keys(outcome: Outcome) -> str:
    numbers = (outcome.score, len(outcome.intervals), outcome.judged, outcome.seconds)
    return ",".join("" if each is None else f"{each:.4g}" for each in numbers)


def _strongest(intervals: Iterable[Interval]) -> str:
    ranked = sorted(intervals, key=lambda each: (each.label is not Label.MANIPULATED, -each.score))
    told = [
        f"{wording.timestamp(each.start)}–{wording.timestamp(each.end)} face {each.track_id}"
        f" ({wording.probability(each.score)})"
        for each in sorted(ranked[:STRETCHES], key=lambda each: each.start)
    ]
    left = len(ranked) - STRETCHES
    return ", ".join([*told, f"{left} more"] if left > 0 else told)


def _sentence(outcome: Outcome) -> str:
    text = "; ".join(reason.text for reason in outcome.reasons) or "no reason was given"
    return text[:1].upper() + text[1:]


def _notes(
    outcome: Outcome,
    not_listed: bool,
    accepted: Accepted | None,
    numbers: Mapping[str, int],
    twins: list[str],
) -> tuple[tuple[str, int | None], ...]:
    """Notes of a row, each with the number of the row that it links to."""
    notes: list[tuple[str, int | None]] = []
    if not_listed:
        notes.append(("not listed by the last run", None))
    if accepted is not None:
        told = f"accepted until {accepted.expires}: {wording.visible(accepted.reason)}"
        notes.append((told, None))
    if outcome.same_as is not None:
        told = f"same content as {wording.visible(outcome.same_as)}"
        notes.append((told, numbers.get(outcome.same_as)))
    if twins:
        more = f" and {len(twins) - 1} more" if len(twins) > 1 else ""
        told = f"same content: {wording.visible(twins[0])}{more}"
        notes.append((told, numbers.get(twins[0])))
    if outcome.provenance not in (None, "absent", "unknown", "unsupported"):
        notes.append((f"content credentials: {wording.visible(outcome.provenance or '')}", None))
    return tuple(notes)


def _links(outputs: Iterable[OutputFile], up: str) -> list[tuple[str, str]]:
    order = {kind: place for place, kind in enumerate(_KINDS)}
    return [
        (_KINDS.get(each.kind, wording.visible(each.kind)), f"{up}/{address(each.path)}")
        for each in sorted(outputs, key=lambda each: order.get(each.kind, len(order)))
        if inside(each.path)
    ]


def _figures(outcomes: tuple[Outcome, ...]) -> list[tuple[str, str, str]]:
    """The large figures at the top: name, value, unit or base."""
    judged = sum(each.label in _JUDGED for each in outcomes)
    # Copies were not scanned, so their seconds must not be counted.
    scanned = [each for each in outcomes if each.same_as is None]
    seconds = sum(each.seconds for each in scanned)
    faces = [(each.judged, each.seconds or 1.0) for each in scanned if each.judged is not None]
    weight = sum(each for _, each in faces)
    share = sum(judged * each for judged, each in faces) / weight if faces else None
    work = sum(each.took for each in scanned)
    copies = len(outcomes) - len(scanned)
    return [
        (
            "Judged",
            wording.percent(judged / len(outcomes)) if outcomes else "nothing",
            f"{judged:,} of {wording.file_count(len(outcomes))}",
        ),
        (
            "Faces judged",
            "none" if share is None else wording.percent(share),
            f"of what was seen, in {wording.file_count(len(faces))} with a face",
        ),
        ("Media", _long(seconds), f"{sum(each.frames for each in scanned):,} frames"),
        (
            "Work",
            _long(work),
            f"{copies:,} cop{'y' if copies == 1 else 'ies'} scanned once"
            if copies
            else "on all files",
        ),
    ]


def _facts(run: Run) -> list[tuple[str, str]]:
    facts = [
        ("Command", " ".join(run.command) or "none"),
        ("Started", run.started),
        ("deepscan", run.version),
        ("Model", run.model),
        ("Weights SHA-256", run.model_sha256),
        ("Engine", run.engine),
        ("Calibration", run.calibration),
    ]
    if run.operating_point is not None:
        point = f"P(manipulated) {run.operating_point:.3f} at even prior odds, for one look"
        facts.append(("Operating point", point))
    if run.false_alarm_rate is not None:
        rate = wording.percent(run.false_alarm_rate)
        facts.append(
            ("False alarms", f"{rate} of unmanipulated clips like those of the calibration")
        )
    if run.controls:
        state = {True: "passed", False: "FAILED", None: "not judged"}[run.controls_passed]
        scores = ", ".join(f"{name} {score:.3f}" for name, score in run.controls)
        facts.append(("Known crops", f"{state}: {scores}"))
    if run.shard is not None:
        facts.append(("Shard", f"{run.shard[0]} of {run.shard[1]}"))
    facts += [("Run", run.id), ("Settings SHA-256", run.settings_hash)]
    facts.append(("Versions", ", ".join(f"{name} {version}" for name, version in run.versions)))
    return [(name, wording.visible(value)) for name, value in facts]


def _older(results: Results) -> list[Older]:
    now = {each.name: each.label for each in results.outcomes}
    return [
        Older(
            name=wording.visible(each.name),
            before=each.label,
            now=now.get(each.name),
            score="" if each.score is None else wording.probability(each.score),
            started=wording.visible(each.started),
        )
        for each in results.superseded[::-1][:SUPERSEDED]
    ]


def _reasons(outcomes: Iterable[Outcome]) -> list[tuple[str, Label, int]]:
    """Reasons why files were not judged: code, label and number of files, by frequency."""
    counts = Counter(
        (each.reasons[0].code if each.reasons else "error", each.label)
        for each in outcomes
        if each.label in (Label.ERROR, Label.INCONCLUSIVE)
    )
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(wording.visible(code), label, count) for (code, label), count in ranked[:12]]


def _percent(share: float) -> str:
    """Format a share as whole percents, rounded down so that 100 % means all."""
    return "<1 %" if 0 < share < 0.01 else f"{int(100 * share + 1e-9)} %"


def _long(seconds: float) -> str:
    """Format a duration: "42 s", "3 min 10 s", "5 h 12 min"."""
    whole_seconds = round(max(0.0, seconds))
    minutes, rest = divmod(whole_seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
