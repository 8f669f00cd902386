"""Writes the page for people: one HTML file with verdict, timelines, faces and provenance.

The page is safe to open and to share: it contacts no server, holds pictures only as data URIs, and
escapes everything from the input. It plays the verdict video beside it, and its script seeks to the
time that is clicked. The script contains nothing from the input, and the page's policy allows only
its hash. Without script or video the rest works. Memory is bounded: a score line keeps the maximum
of at most 1,000 bins, and only the strongest frames are kept, as thumbnails. Colours are those of
Okabe and Ito, always with a shape, hatching or word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from deepscan import wording
from deepscan.errors import OutputError, system_errors_as
from deepscan.sinks.key_frames import (
    ORDER,
    KeyFrame,
    KeyFrames,
    data_uri,
    marked,
    over_context,
)
from deepscan.sinks.pictures import Pictures, Portraits
from deepscan.sinks.record import name_bytes, record_of
from deepscan.sinks.score_chart import Chart, ScoreLine
from deepscan.sinks.template import load_template, plain
from deepscan.types import (
    CalibrationInfo,
    Coverage,
    FaceTrack,
    FrameResult,
    Output,
    Provenance,
    Scan,
    Verdict,
)

TRACKS = 24  # faces with a card; the record has all
INTERVALS = 24  # intervals listed
SENTENCES = 6


class HtmlSink:
    """Collects scores and thumbnails of all frames, then writes the page."""

    suffix: ClassVar[str] = ".html"
    needs_images: ClassVar[bool] = True

    def __init__(self, path: Path, scan: Scan, pictures: Pictures | None = None) -> None:
        """`pictures` are those of all frames, which then come without any."""
        self._path = path
        self._scan = scan
        verdict = scan.verdict
        self._length = max(verdict.end, 1e-3)  # above zero also for a still picture
        self._tracks = sorted(verdict.tracks, key=lambda track: _rank(track, verdict))[:TRACKS]
        self._lines = {
            track.track_id: ScoreLine(track, self._length, verdict.coverage)
            for track in self._tracks
        }
        self._portraits = Portraits()
        self._key_frames = KeyFrames(self._tracks, verdict.intervals)
        self._has_pictures = pictures is not None
        if pictures is not None:
            self._portraits = pictures.portraits
            for frame in pictures.frames():
                self._key_frames.take(frame)

    def write(self, result: FrameResult) -> None:
        """Take a frame's scores, and keep its pictures if they are among the strongest."""
        time = result.frame.time
        for prediction in result.faces:
            face = prediction.crop.face
            line = self._lines.get(face.track_id) if face.track_id is not None else None
            if line is None or face.track_id is None:
                continue
            line.add(time, prediction.score)
            if not self._has_pictures:
                self._key_frames.add(result, prediction)
                self._portraits.add_judged(result, prediction)
        for unscored in result.unscored:
            track_id = unscored.face.track_id
            line = self._lines.get(track_id) if track_id is not None else None
            if line is None or track_id is None:
                continue
            line.add(time, None)
            if not self._has_pictures:
                self._portraits.add_unscored(result, unscored)

    def close(self, made: tuple[Output, ...] = ()) -> None:
        """Write the page.

        Raises:
            OutputError: the file cannot be written.
        """
        page = self._page(made)
        with system_errors_as(OutputError, f"{self._path}: the page cannot be written"):
            self._path.write_text(page, encoding="utf-8", newline="\n")

    def abort(self) -> None:
        """Drop the pictures."""
        self._lines.clear()
        self._portraits = Portraits()
        self._key_frames = KeyFrames((), ())

    def _page(self, made: tuple[Output, ...]) -> str:
        template = load_template("deepscan.sinks", "report.html.j2")
        scan, verdict = self._scan, self._scan.verdict
        record = record_of(scan, made)
        words = wording.wording_of(verdict)
        still = verdict.video is not None and verdict.video.still
        intervals = sorted(verdict.intervals, key=lambda each: (ORDER[each.label], -each.score))
        return template.render(
            scan=scan,
            verdict=verdict,
            words=words,
            evidence=wording.evidence_sentence(verdict),
            found=wording.found_sentence(verdict),
            sentences=[wording.interval_sentence(each, verdict) for each in intervals[:SENTENCES]]
            or [wording.screening_sentence(verdict)],
            sentences_left=max(0, len(intervals) - SENTENCES),
            intervals=[
                (
                    each,
                    "" if each.llr is None else wording.ratio(each.llr),
                    wording.phrase(f"label.{each.label}"),
                )
                for each in sorted(intervals[:INTERVALS], key=lambda each: each.start)
            ],
            intervals_left=max(0, len(intervals) - INTERVALS),
            length=self._length,
            cards=[self._card(track) for track in self._tracks],
            cards_left=len(verdict.tracks) - len(self._tracks),
            key_frames=[_shown(frame) for frame in self._key_frames.strongest()],
            bars=bars_of(verdict.coverage),
            provenance=provenance_of(scan),
            links=[_link(output) for output in made],
            video=None if still else next((_link(o)[1] for o in made if o.kind == "overlay"), None),
            digest=record["digest"],
        )

    def _card(self, track: FaceTrack) -> FaceCard:
        verdict = self._scan.verdict
        intervals = [each for each in verdict.intervals if each.track_id == track.track_id]
        portrait = self._portraits.of(track.track_id)
        labels = [each.label for each in intervals]
        if not track.scored:
            state, text = "not-judged", "Not judged"
        elif track.score is None:
            state, text = "quiet", "Scored; the model is not calibrated"
        elif labels:
            label = min(labels, key=ORDER.__getitem__)
            state, text = str(label), wording.phrase(f"label.{label}")
        else:
            state, text = "quiet", "Nothing over the level for review"
        return FaceCard(
            track=track,
            state=state,
            text=text,
            portrait="" if portrait is None else data_uri(portrait),
            ratio="" if track.llr is None else wording.ratio(track.llr),
            chart=self._lines[track.track_id].chart(intervals, verdict),
        )


@dataclass(frozen=True, slots=True)
class FaceCard:
    """One face on the page."""

    track: FaceTrack
    state: str
    text: str
    portrait: str
    ratio: str
    chart: Chart


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of the coverage table; `share` is None if there was nothing to count."""

    name: str
    done: str
    of: str
    share: float | None


def bars_of(coverage: Coverage) -> list[Bar]:
    """The rows of the coverage table."""

    def bar(name: str, done: float, of: float, digits: int = 0) -> Bar:
        share = min(1.0, done / of) if of > 0 else None
        return Bar(name, f"{done:,.{digits}f}", f"{of:,.{digits}f}", share)

    frames = coverage.decoded + coverage.failed
    return [
        bar("Frames decoded", coverage.decoded, frames),
        bar("Frames analysed in full", coverage.analysed, frames),
        bar("Frames with a face", coverage.with_face, frames),
        bar("Face sightings judged", coverage.faces_scored, coverage.faces),
        bar("Seconds with a judged face", coverage.seconds_scored, coverage.seconds, 1),
    ]


def provenance_of(scan: Scan) -> list[tuple[str, list[tuple[str, str]]]]:
    """The origin of the verdict as plain text: (heading, rows of name and value)."""
    verdict, report = scan.verdict, scan.report
    model, engine, calibration, video = (
        verdict.model,
        verdict.engine,
        verdict.calibration,
        verdict.video,
    )
    source = [
        ("File", str(scan.path)),
        ("SHA-256", scan.sha256),
        ("Size", f"{scan.size:,} bytes"),
    ]
    if video is not None:
        colour = video.colour
        source += [
            ("Stream", f"{video.container}, {video.codec}, {video.pixel_format}"),
            ("Picture", f"{video.width} × {video.height}, turned by {video.rotation}°"),
            ("Frame rate", f"{float(video.frame_rate):.3f} ({video.frame_rate})"),
            ("Time base", f"{video.time_base} s"),
            (
                "Colour",
                f"{colour.matrix}, {'full' if colour.full_range else 'limited'} range,"
                f" {'as tagged' if colour.tagged else 'assumed: the stream does not say'}",
            ),
            ("Audio", ", ".join(video.audio) or "none"),
        ]
    parity = "not compared (this engine is the reference)"
    if (found := engine.parity) is not None:
        parity = (
            f"largest score difference {found.max_score_difference:.4f}, "
            f"mean mask IoU {found.mean_mask_iou:.4f}, "
            f"{found.verdict_equality:.1%} of probe crops labelled alike"
        )
    analysis = [
        ("Decoder", f"{report.decoder}: {report.decoder_reason}"),
        (
            "Reading",
            "complete" if report.complete else "not complete: " + "; ".join(report.reasons),
        ),
        ("Model", f"{model.name}, {model.input_size} px"),
        ("Weights SHA-256", model.sha256),
        ("Engine", f"{engine.name}: {engine.reason}"),
        ("Parity with the reference", parity),
        *calibration_rows(calibration),
        ("Corrected for", f"{verdict.looks:.1f} independent chances of a false alarm"),
        ("Started", scan.started),
    ]
    groups = [
        ("Input", source),
        ("Analysis", analysis),
        ("Content credentials (C2PA)", credentials_of(scan.provenance)),
        ("Evidence about the model", evidence_of(verdict)),
        ("Settings", [(name, plain(value)) for name, value in scan.settings]),
        ("Versions", list(scan.versions)),
    ]
    return [(name, rows) for name, rows in groups if rows]


def calibration_rows(calibration: CalibrationInfo | None) -> list[tuple[str, str]]:
    """Rows on the calibration and its false alarms."""
    if calibration is None:
        return [("Calibration", "none: nothing follows from the scores")]
    low, high = map(wording.percent, calibration.false_alarm_interval)
    return [
        (
            "Calibration",
            f"{calibration.name}, on {calibration.clips:,} clips of {calibration.population}",
        ),
        (
            "False alarms",
            f"{wording.percent(calibration.false_alarm_rate)} [95 % interval {low} to {high}]"
            f" on {calibration.measured_on or 'clips of the calibration'}",
        ),
        (
            "Levels",
            f"operating point {calibration.operating_point:.3f}, "
            f"review {calibration.review_point:.3f}",
        ),
    ]


def credentials_of(provenance: Provenance | None) -> list[tuple[str, str]]:
    """Rows on the file's content credentials; none if they could not be read."""
    if provenance is None or provenance.state in ("unknown", "unsupported"):
        return []
    signed = ", ".join(each for each in (provenance.signer, provenance.issuer) if each)
    rows = [
        ("State", wording.credentials(provenance)),
        ("Signed by", signed),
        ("Signed at", provenance.time or ""),
        ("Made with", provenance.generator or ""),
        ("Says of its source", provenance.source_type or ""),
        ("Notes", "; ".join(provenance.notes)),
        (
            "Meaning",
            "They say who vouches for the file. They are no part of the verdict, and their absence "
            "proves nothing.",
        ),
    ]
    return [(name, value) for name, value in rows if value]


def evidence_of(verdict: Verdict) -> list[tuple[str, str]]:
    """Measured figures of the weights: (figure, value with interval and material)."""
    return [
        (
            each.what,
            f"{each.value:.3f} [95 % interval {each.interval[0]:.3f} to {each.interval[1]:.3f}]"
            f" on {each.on}",
        )
        for each in wording.figures_of(verdict)
    ]


def _shown(frame: KeyFrame) -> tuple[KeyFrame, str, str]:
    """A frame with its pictures, the second with the mask over it, "" where there is none."""
    mask = ""
    if frame.mask is not None:
        mask = data_uri(marked(frame.picture, over_context(frame.mask)))
    return frame, data_uri(frame.picture), mask


def _rank(track: FaceTrack, verdict: Verdict) -> tuple[int, float, float]:
    labels = [ORDER[each.label] for each in verdict.intervals if each.track_id == track.track_id]
    return min(labels, default=2), -(track.score or 0.0), track.start


def _link(output: Output) -> tuple[Output, str]:
    # With "./" and full quoting any name leads to a file beside the page.
    return output, "./" + quote(name_bytes(output.path.name), safe="")
