"""Draws the strip below the picture of a verdict video: verdict, timeline, legend, origin.

It lies below the picture and hides nothing. The static part is rendered once; per frame only the
play head and the time are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pillow

from deepscan.sinks import draw
from deepscan.sinks.draw import Area
from deepscan.sinks.styles import GREY, LINE, NIGHT, RGB, SIGNS, SKY, SOFT, WHITE, Mark
from deepscan.sinks.surface import Surface
from deepscan.types import FaceTrack, Image, Interval, Label, Scan
from deepscan.wording import phrase, probability, said_by_other_stream

_LEGEND = (
    (Mark.MANIPULATED, "manipulated"),
    (Mark.SUSPICIOUS, "suspicious"),
    (Mark.JUDGED, "no evidence"),
    (Mark.UNJUDGED, "not judged"),
)
_SWATCH, _SHADED_SWATCH = (60, 64, 72), (20, 21, 24)  # behind the look of a face in the legend


@dataclass(frozen=True, slots=True)
class Footer:
    """A rendered strip with the positions of its moving parts.

    `strip` is (h, width, 3) uint8. `axis` is the area that the play head crosses, None for a still
    picture. `duration` is in seconds. `corner` (x, y) is the upper right corner of the time.
    """

    strip: Image
    axis: Area | None
    duration: float
    corner: tuple[int, int]
    size: int
    aspect: float


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the timeline: a name, its tracks and their intervals."""

    name: str
    tracks: tuple[FaceTrack, ...]
    intervals: tuple[Interval, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes in the strip, in pixels: `size` is that of its text, `width` that of the strip.

    `aspect` is the width of a pixel over its height when shown.
    """

    width: int
    size: int
    aspect: float

    @property
    def small(self) -> int:
        return max(10, round(0.82 * self.size))

    @property
    def big(self) -> int:
        return round(1.15 * self.size)

    @property
    def pad(self) -> int:
        return round(0.7 * self.size)

    @property
    def gap(self) -> int:
        return round(0.9 * self.size)

    def text(self, content: str) -> Pillow.Image:
        """Render small text in a soft colour."""
        return draw.text(content, self.small, SOFT, self.aspect)


def lay_out(scan: Scan, width: int, height: int, size: int, aspect: float = 1.0) -> Footer:
    """Render the strip for a picture of `width` x `height` with text of `size` pixels.

    The strip and the picture together are an even number of pixels high. `aspect` is the width of
    a pixel over its height when shown; text is narrowed by it.
    """
    sizes = Sizes(width, size, aspect)
    video = scan.verdict.video
    still = video is not None and video.still
    end = scan.verdict.end
    head, left_over = _head(scan, sizes)
    bands = [head]
    axis = None
    if not still:
        pitch = round(1.25 * sizes.small)
        # Rows may take an eighth of the picture's height; more than five are not legible.
        limit = max(1, min(5, int(0.12 * height / pitch)))
        lines, axis = _time_line(_rows(scan, limit), end, pitch, sizes)
        axis = axis.moved(0, head.height)
        bands += [lines, _blank(round(0.35 * size), width)]
    time_top = sum(band.height for band in bands)
    reserve = 0 if still else _time_width(end, sizes)
    bands.append(_legend(left_over, reserve, sizes))
    total = sum(band.height for band in bands)
    strip = _blank(total + (height + total) % 2, width)
    top = 0
    for band in bands:
        strip.paste(band, (0, top))
        top += band.height
    _fill(strip, Area(0, 0, width, max(1, size // 12)), LINE)
    corner = (width - sizes.pad, time_top + draw.top(sizes.small, _line(sizes)))
    return Footer(np.array(strip), axis, end, corner, sizes.small, aspect)


def _line(sizes: Sizes) -> int:
    """Height of a line of the legend."""
    return round(1.5 * sizes.small)


def _blank(height: int, width: int) -> Pillow.Image:
    return Pillow.new("RGB", (width, height), NIGHT)


def _fill(band: Pillow.Image, area: Area, colour: RGB) -> None:
    band.paste(colour, (area.x1, area.y1, area.x2, area.y2))


def _paste(band: Pillow.Image, sprite: Pillow.Image, x: int, y: int) -> None:
    band.paste(sprite, (x, y), sprite)


def _head(scan: Scan, sizes: Sizes) -> tuple[Pillow.Image, list[Pillow.Image]]:
    """Draw the line with the verdict and the words "analysis copy".

    Between them stand the headline, model and source, as far as they fit. Returns the line, and the
    sprites of model and source if they did not fit.
    """
    verdict = scan.verdict
    size, gap, aspect = sizes.size, sizes.gap, sizes.aspect
    band = _blank(round(1.9 * size), sizes.width)
    height = band.height
    base = draw.top(sizes.big, height) + draw.ascent(sizes.big)  # of all words in the line
    small_top = base - draw.ascent(sizes.small)

    colour = Mark.of(verdict.label).value.colour
    symbol = draw.sign(SIGNS[verdict.label], size, colour, aspect)
    label = draw.text(phrase(f"label.{verdict.label}"), sizes.big, WHITE, aspect)
    x = sizes.pad
    _paste(band, symbol, x, (height - symbol.height) // 2)
    x += symbol.width + gap // 2
    _paste(band, label, x, base - draw.ascent(sizes.big))
    x += label.width + gap
    if verdict.score is not None and not said_by_other_stream(verdict.reasons):
        score = sizes.text(f"P(manipulated) {probability(verdict.score)}")
        _paste(band, score, x, small_top)
        x += score.width + gap

    pill = _pill("analysis copy", sizes.small, aspect)
    end = sizes.width - sizes.pad - pill.width
    _paste(band, pill, end, (height - pill.height) // 2)
    origin = [
        sizes.text(f"model {verdict.model.name}"),
        sizes.text(f"source {scan.sha256[:12]}"),
    ]
    if x + sum(item.width + gap for item in origin) > end:
        return band, origin
    for item in reversed(origin):
        end -= gap + item.width
        _paste(band, item, end, small_top)
    sentence = sizes.text(phrase(f"headline.{verdict.label}"))
    if x + sentence.width + gap <= end:
        _paste(band, sentence, x, small_top)
    return band, []


def _legend(more: list[Pillow.Image], reserve: int, sizes: Sizes) -> Pillow.Image:
    """Draw the legend, then `more`; `reserve` pixels of the first line stay free."""
    entries = [_entry(mark, content, sizes) for mark, content in _LEGEND]
    inner = sizes.width - 2 * sizes.pad
    lines = _flow(entries + more, inner, sizes.gap, reserve)
    # Only where it needs no extra line: the number at a face is not the calibrated one above.
    hint = sizes.text("number at a face: network score, this frame")
    hinted = _flow([*entries, *more, hint], inner, sizes.gap, reserve)
    lines = hinted if len(hinted) == len(lines) else lines
    height = _line(sizes)
    band = _blank(height * len(lines) + round(0.35 * sizes.size), sizes.width)
    for number, line in enumerate(lines):
        x, y = sizes.pad, number * height
        for item in line:
            _paste(band, item, x, y + (height - item.height) // 2)
            x += item.width + sizes.gap
    return band


def _time_width(end: float, sizes: Sizes) -> int:
    times = (time_text(end, end), unanalysed_text(end, end))
    return sizes.gap + max(sizes.text(content).width for content in times)


def show(surface: Surface, top: int, footer: Footer, time: float, analysed: bool) -> None:
    """Draw play head and time into the strip, which starts at row `top` of the surface."""
    if footer.axis is None:
        return
    axis = footer.axis.moved(0, top)
    share = min(1.0, max(0.0, time / footer.duration)) if footer.duration > 0 else 0.0
    x = axis.x1 + round(share * (axis.width - 1))
    half = max(1, footer.size // 10)
    surface.fill(Area(x - 2 * half, axis.y1, x + 2 * half + 1, axis.y2), NIGHT)
    surface.fill(Area(x - half // 2, axis.y1, x - half // 2 + half, axis.y2), WHITE)
    content = (time_text if analysed else unanalysed_text)(time, footer.duration)
    sprite = draw.text(content, footer.size, WHITE, footer.aspect)
    surface.blit(sprite, footer.corner[0] - sprite.width, top + footer.corner[1])


def time_text(time: float, end: float) -> str:
    """Format the current time and the end as "1:02.34 / 5:00.00", with hours if needed."""
    return f"{_timestamp(time, end)} / {_timestamp(end, end)}"


def unanalysed_text(time: float, end: float) -> str:
    """Format the time of a frame that was not analysed; `end` decides whether hours are shown."""
    return f"not analysed · {_timestamp(time, end)}"


def _timestamp(time: float, end: float) -> str:
    cents = round(max(0.0, time) * 100)
    minutes, cents = divmod(cents, 6000)
    seconds = f"{cents // 100:02d}.{cents % 100:02d}"
    if end < 3600:
        return f"{minutes}:{seconds}"
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds}"


def _pill(content: str, size: int, aspect: float) -> Pillow.Image:
    line = draw.text(content, size, NIGHT)
    pad, height = round(0.5 * size), round(1.4 * size)
    sprite = draw.panel(line.width + 2 * pad, height, height // 2, SOFT, 255)
    sprite.alpha_composite(line, (pad, draw.top(size, height)))
    return draw.squeeze(sprite, aspect)


def _entry(mark: Mark, content: str, sizes: Sizes) -> Pillow.Image:
    """Draw a legend entry: a small face box in the look of `mark`, and its name."""
    style, size = mark.value, sizes.small
    line = draw.text(content, size, SOFT)
    width, side = round(1.5 * size), size
    swatch = Pillow.new("RGB", (width, side), _SWATCH)
    thin = max(1, size // 12)
    if style.corners:
        layers, x, y = draw.marking(np.full((side, width), 255, np.uint8), style, thin)
        for colour, alpha in layers:
            swatch.paste(colour, (x, y), alpha)
    shadows, lines = draw.outline(Area(0, 0, width, side), style, thin)
    for areas, colour in ((shadows, _SHADED_SWATCH), (lines, style.colour)):
        for area in areas:
            _fill(swatch, area, colour)
    gap = round(0.4 * size)
    sprite = Pillow.new("RGBA", (width + gap + line.width, max(side, line.height)), (0, 0, 0, 0))
    sprite.paste(swatch, (0, (sprite.height - side) // 2))
    sprite.alpha_composite(line, (width + gap, draw.top(size, sprite.height)))
    return draw.squeeze(sprite, sizes.aspect)


def _flow(
    items: Sequence[Pillow.Image], width: int, gap: int, reserve: int
) -> list[list[Pillow.Image]]:
    """Break items into lines of at most `width` pixels; the first is shorter by `reserve`."""
    lines: list[list[Pillow.Image]] = [[]]
    x = 0
    for item in items:
        room = width - (reserve if len(lines) == 1 else 0)
        if lines[-1] and x + item.width > room:
            lines.append([])
            x = 0
        lines[-1].append(item)
        x += item.width + gap
    return lines


def _rows(scan: Scan, limit: int) -> list[Row]:
    """Assign the tracks with the strongest evidence a row each, and the others the last row."""
    verdict = scan.verdict

    def strength(track: FaceTrack) -> tuple[bool, float, int]:
        marked = any(interval.track_id == track.track_id for interval in verdict.intervals)
        score = -1.0 if track.score is None else track.score
        return (not marked, -score, track.track_id)

    tracks = sorted(verdict.tracks, key=strength)
    own = tracks if len(tracks) <= limit else tracks[: limit - 1]
    rest = tracks[len(own) :]
    rows = [
        Row(
            f"face {track.track_id}",
            (track,),
            tuple(i for i in verdict.intervals if i.track_id == track.track_id),
        )
        for track in own
    ]
    if rest:
        ids = {track.track_id for track in rest}
        name = f"{len(rest)} more" if own else f"{len(rest)} faces"
        intervals = tuple(i for i in verdict.intervals if i.track_id in ids)
        rows.append(Row(name, tuple(rest), intervals))
    return rows or [Row("", (), ())]


def _time_line(
    rows: Sequence[Row], end: float, pitch: int, sizes: Sizes
) -> tuple[Pillow.Image, Area]:
    """Draw the rows, `pitch` pixels each; also returns the area that represents 0 to `end`."""
    band = _blank(pitch * len(rows), sizes.width)
    names = [sizes.text(row.name) for row in rows]
    named = any(row.name for row in rows)
    pad, size = sizes.pad, sizes.small
    x1 = pad + (max(name.width for name in names) + round(0.7 * size) if named else 0)
    axis = Area(x1, 0, sizes.width - pad, band.height)
    thin = max(1, size // 8)

    def column(time: float) -> int:
        share = min(1.0, max(0.0, time / end)) if end > 0 else 0.0
        return axis.x1 + round(share * axis.width)

    for number, (row, name) in enumerate(zip(rows, names, strict=True)):
        top = number * pitch
        middle = top + pitch // 2
        if row.name:
            _paste(band, name, pad, top + draw.top(size, pitch))
        _fill(band, Area(axis.x1, middle, axis.x2, middle + max(1, thin // 2)), LINE)
        # If a row holds several tracks, judged ones are drawn over unjudged ones.
        for track in sorted(row.tracks, key=lambda track: track.score is not None):
            start = column(track.start)
            stop = max(column(track.end), start + 2)
            line = Area(start, middle - thin // 2, stop, middle - thin // 2 + thin)
            if track.score is not None:
                _fill(band, line, SKY)
                continue
            for dash in draw.dashes(line, 3 * thin):
                _fill(band, dash, GREY)
        for interval in sorted(row.intervals, key=lambda i: i.label is Label.MANIPULATED):
            start = column(interval.start)
            stop = max(column(interval.end), start + 3)
            # The two kinds differ in height, not in colour alone.
            half = round((0.4 if interval.label is Label.MANIPULATED else 0.22) * pitch)
            colour = Mark.of(interval.label).value.colour
            _fill(band, Area(start, middle - half, stop, middle + half + 1), colour)
    return band, axis
