"""The page about a calibration: what the rates mean, where real clips lie, and which come nearest.

It is one file without requests or scripts, like the pages of scans. Pictures are cut out of the
clips again, each by the frame that scored highest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscan import wording
from deepscan.archive.calibrate import Calibrated, OwnClip
from deepscan.archive.rescore import read_frames
from deepscan.errors import DeepscanError
from deepscan.faces.crop import square
from deepscan.files import atomic_output
from deepscan.sinks.template import load_template
from deepscan.types import Box
from deepscan.verdict.calibration import Band, Calibration
from deepscan.verdict.fit import share_over

NEAREST = 12  # real clips with a picture
LISTED = 200  # names of files that were left out
BINS = 44  # columns of a chart
SIDE = 192  # pixels of a picture
_FAR = 3.0  # quartile ranges above the upper quartile (Tukey 1977: far out)
_FEW = 8  # recordings, below which a line of the table is not worth its interval


@dataclass(frozen=True, slots=True)
class Near:
    """A real clip, how far above or below the operating point it lies, and its picture."""

    name: str
    group: str
    time: float
    margin: float
    state: str
    picture: str
    outlier: bool


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a chart in percent of its width: how many clips, as shares of the highest."""

    x: float
    width: float
    real: float
    manipulated: float


@dataclass(frozen=True, slots=True)
class BandChart:
    """Scores of the clips of one band of quality, with its two levels in percent of the width."""

    title: str
    clips: int
    columns: tuple[Column, ...]
    operating: float
    review: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """False alarms of recordings of one kind, each judged by a fit on others."""

    what: str
    groups: int
    manipulated: tuple[float, float, float]
    suspicious: tuple[float, float, float]


def outliers(found: Calibrated) -> list[OwnClip]:
    """Real clips that score far above the others: one among them may be manipulated."""
    real = found.real.clips
    scores = np.array([each.clip.score for each in real])
    low, high = np.quantile(scores, (0.25, 0.75))
    limit = high + _FAR * (high - low)
    chosen = [(score, each) for score, each in zip(scores, real, strict=True) if score > limit]
    return [each for _, each in sorted(chosen, key=lambda pair: (-pair[0], pair[1].clip.name))]


def sentences(found: Calibrated) -> list[str]:
    """What the calibration promises and what was measured, in plain words."""
    calibration, rates = found.fitted.calibration, found.fitted.rates
    told = [
        f"{found.model.name} is calibrated on {calibration.population}.",
        f"Of 1,000 more real recordings like these, at most {1000 * calibration.rate:g} are "
        f"expected to be called manipulated, and {1000 * calibration.review_rate:g} suspicious or "
        "manipulated. The promise holds for material like this and for nothing else.",
        f"Measured on recordings that the fit had not seen: {_share(rates.manipulated)} called "
        f"manipulated, {_share(rates.suspicious)} suspicious or manipulated, of {rates.groups}.",
    ]
    if rates.held_to > calibration.rate * 1.001:
        told.append(
            "The fits behind these figures had fewer recordings, so they were held to "
            f"{wording.percent(rates.held_to)}."
        )
    if rates.found is None:
        told.append(
            "No likelihood ratio is claimed: without manipulated clips nobody knows how likely "
            "such scores are for them, nor how many of them are found."
        )
    else:
        told.append(
            f"Of the manipulated recordings {_share(rates.found)} are called manipulated; "
            "likelihood ratios hold for manipulations like these."
        )
    if far := outliers(found):
        names = ", ".join(each.clip.name for each in far[:5]) + " ..." * (len(far) > 5)
        one = len(far) == 1
        told.append(
            f"{len(far)} real clip{' stands' if one else 's stand'} out from the others, so look "
            f"at {'it' if one else 'them'}: {names}. A manipulated clip among the real ones lifts "
            "the levels for all."
        )
    return told


def write_page(found: Calibrated, calibration: Calibration, path: Path) -> None:
    """Write the page.

    Args:
        calibration: as the new model's card has it.

    Raises:
        OutputError: the file cannot be written.
    """
    template = load_template("deepscan.archive", "calibration.html.j2")
    far = {each.clip.name for each in outliers(found)}
    page = template.render(
        found=found,
        calibration=calibration,
        name=calibration.name.partition("/")[0],
        sentences=sentences(found),
        near=list(_nearest(found, far)),
        outliers=outliers(found),
        charts=_charts(found),
        tables=_tables(found),
        rates=found.fitted.rates,
        facts=_facts(found, calibration),
        left_out=_left_out(found)[:LISTED],
        share=_share,
    )
    with atomic_output(path) as part:
        part.write_text(page, encoding="utf-8", newline="\n")


def _share(value: tuple[float, float, float]) -> str:
    share, low, high = map(wording.percent, value)
    return f"{share} [95 % interval {low} to {high}]"


def _nearest(found: Calibrated, far: set[str]) -> Iterator[Near]:
    """The real clips nearest to the operating point, those above it first."""
    margins = found.fitted.margins
    real = [index for index, each in enumerate(found.clips) if not each.clip.manipulated]
    real.sort(key=lambda index: (-margins[index, 0], found.clips[index].clip.name))
    for index in real[:NEAREST]:
        own = found.clips[index]
        over, review = margins[index]
        state = "manipulated" if over >= 0 else "suspicious" if review >= 0 else "no-evidence"
        line = _strongest_line(own)
        yield Near(
            name=own.clip.name,
            group=own.clip.group,
            time=float(line["time"]),
            margin=float(over),
            state=state,
            picture=_picture(own, line, found.real.folder),
            outlier=own.clip.name in far,
        )


def _strongest_line(own: OwnClip) -> dict[str, Any]:
    best: dict[str, Any] = {}
    highest = -1.0
    with own.frames.open("rb") as file:
        for raw in file:
            line = json.loads(raw)
            for face in line.get("faces", ()):
                if face["p_manipulated"] is not None and face["p_manipulated"] > highest:
                    highest, best = face["p_manipulated"], {**line, "faces": [face]}
    return best


def _picture(own: OwnClip, line: dict[str, Any], folder: Path) -> str:
    """The face as a data URI; "" where the clip cannot be read any more."""
    from deepscan.sinks.key_frames import CONTEXT, data_uri, thumbnail

    record = {
        "input": {"stream": {"still": own.clip.still}},
        "decoder": {"name": own.outcome.decoder or "pyav"},
    }
    try:
        for _, frame in read_frames(Path(own.outcome.path), record, [line]):
            if frame is not None:
                box = square(Box(*line["faces"][0]["box"]), 1.3 * CONTEXT)
                return data_uri(thumbnail(frame.image, box, SIDE))
    except DeepscanError:
        pass
    return ""


def _charts(found: Calibrated) -> list[BandChart]:
    """One chart for each band. A clip stands as far from the levels as the rule has it, whatever
    its length, so the scale is that of a clip of the usual length."""
    fitted, calibration = found.fitted, found.fitted.calibration
    forged = np.array([each.clip.manipulated for each in found.clips])
    charts = []
    for index, band in enumerate(calibration.every_band):
        here = fitted.bands == index
        if not here.any():
            continue
        over = fitted.margins[here, 0]
        clips = [found.clips[place].clip for place in np.flatnonzero(here)]
        looks = np.median([sum(track.looks for track in clip.tracks) for clip in clips])
        operating, review = calibration.points(max(1.0, float(looks)), still=False, band=index)
        values = over + operating
        title = "All clips" if len(calibration.every_band) == 1 else _band_title(band)
        charts.append(_chart(title, values, forged[here], operating, review))
    return charts


def _chart(
    title: str, values: NDArray[np.float64], forged: NDArray[np.bool_], operating: float,
    review: float,
) -> BandChart:  # fmt: skip
    low = min(float(values.min()), review)
    high = max(float(values.max()), operating)
    pad = 0.04 * max(high - low, 1e-6)
    low, high = low - pad, high + pad
    edges = np.linspace(low, high, BINS + 1)
    real = np.histogram(values[~forged], edges)[0]
    fake = np.histogram(values[forged], edges)[0]
    most = max(1, int(max(real.max(), fake.max())))

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    step = max(1, round((high - low) / 6))
    first = int(np.ceil(low))
    return BandChart(
        title=title,
        clips=len(values),
        columns=tuple(
            Column(100 * n / BINS, 100 / BINS, 100 * int(real[n]) / most, 100 * int(fake[n]) / most)
            for n in range(BINS)
            if real[n] or fake[n]
        ),
        operating=place(operating),
        review=place(review),
        ticks=tuple((place(x), str(x)) for x in range(first, int(high) + 1, step)),
    )


def _band_title(band: Band) -> str:
    axes = (("faces", band.size, " px"), ("detail", band.detail, ""),
            ("sharpness", band.sharpness, ""))  # fmt: skip
    return ", ".join(
        f"{what} {_range(low, np.inf if high is None else high, unit)}"
        for what, (low, high), unit in axes
    )


def _tables(found: Calibrated) -> list[tuple[str, list[Row]]]:
    """False alarms of real recordings by the size of faces and by how compressed they are."""
    real = [i for i, each in enumerate(found.clips) if not each.clip.manipulated]
    qualities = np.array([found.clips[index].clip.qualities for index in real])
    margins = found.fitted.held_out[real]
    groups = np.array([found.clips[index].clip.group for index in real])
    tables = []
    for title, axis, unit in (
        ("By the size of faces", 0, " px"),
        ("By detail, which compression takes away", 2, ""),
        ("By sharpness", 1, ""),
    ):
        values = qualities[:, axis]
        bounds = sorted({float(f"{each:.3g}") for each in np.quantile(values, (1 / 3, 2 / 3))})
        edges = [-np.inf, *bounds, np.inf]
        rows = []
        for low, high in pairwise(edges):
            here = (values >= low) & (values < high)
            if len(set(groups[here])) < _FEW:
                continue
            rows.append(_row(_range(low, high, unit), margins[here], groups[here]))
        tables.append((title, [*rows, _row("all", margins, groups)]))
    return tables


def _range(low: float, high: float, unit: str) -> str:
    if low == -np.inf:
        return "all" if high == np.inf else f"below {high:g}{unit}"
    return f"{low:g}{unit} and more" if high == np.inf else f"{low:g} to {high:g}{unit}"


def _row(what: str, margins: NDArray[np.float64], names: NDArray[np.str_]) -> Row:
    groups = names.tolist()
    over, review = (share_over(margins[:, point], groups) for point in (0, 1))
    return Row(what, len(set(groups)), over, review)


def _left_out(found: Calibrated) -> list[tuple[str, str]]:
    materials = [each for each in (found.real, found.manipulated) if each is not None]
    rows = [row for each in materials for row in each.unreadable]
    rows += [
        (name, "no face that can be judged") for each in materials for name in each.without_face
    ]
    return rows


def _facts(found: Calibrated, calibration: Calibration) -> list[tuple[str, str]]:
    materials = [each for each in (found.real, found.manipulated) if each is not None]
    twice = sum(each.twice for each in materials)
    facts = [
        ("Calibration", calibration.name),
        ("Population", calibration.population),
        ("Model", found.model.name),
        ("Weights SHA-256", found.model.sha256),
        ("Source", found.model.source or "the card does not say"),
        ("Real clips", f"{found.real.folder.resolve()}: {len(found.real.clips)} files, "
         f"{found.real.groups} recordings"),
        ("Evidence", "likelihood ratios" if calibration.likelihood_ratio else
         "false-alarm rates alone, no likelihood ratio"),
        ("Bands of quality", str(len(calibration.every_band))),
    ]  # fmt: skip
    if found.manipulated is not None:
        facts.append(
            ("Manipulated clips", f"{found.manipulated.folder.resolve()}: "
             f"{len(found.manipulated.clips)} files, {found.manipulated.groups} recordings")
        )  # fmt: skip
    if twice:
        facts.append(("Same content twice", f"{twice} files, counted once"))
    return facts
