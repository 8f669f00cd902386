"""Complete scans and frame results, made from nothing, for every test of a sink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from deepscan.sinks import draw
from deepscan.sinks.draw import Area, Plane
from deepscan.sinks.styles import RGB, Style
from deepscan.sinks.surface import Surface
from deepscan.types import (
    Box,
    CalibrationInfo,
    Colour,
    Coverage,
    EngineInfo,
    Face,
    FaceCrop,
    FacePrediction,
    FaceTrack,
    Frame,
    FrameResult,
    Image,
    Interval,
    Label,
    Mask,
    ModelInfo,
    Planes,
    ReadReport,
    Reason,
    Scan,
    UnscoredFace,
    Verdict,
    VideoInfo,
)
from deepscan.video.planes import PlanesConverter, samples_of

TIME_BASE = Fraction(1, 12_800)
FRAME_RATE = Fraction(25)
REASONS = ("too_small", "too_blurred", "limit_faces")


def video(
    width: int = 320,
    height: int = 240,
    *,
    path: Path = Path("clip.mp4"),
    frames: int = 25,
    audio: tuple[str, ...] = (),
    still: bool = False,
    sample_aspect_ratio: Fraction = Fraction(1),
) -> VideoInfo:
    """The facts of a clip that need not exist."""
    return VideoInfo(
        path=path,
        container="mp4",
        codec="h264",
        pixel_format="yuv420p",
        width=width,
        height=height,
        frame_rate=FRAME_RATE,
        time_base=TIME_BASE,
        duration=float(frames / FRAME_RATE),
        rotation=0,
        sample_aspect_ratio=sample_aspect_ratio,
        colour=Colour("bt709", False, "bt709", "bt709", True),
        audio=audio,
        still=still,
        decoder="pyav",
        decoder_reason="asked for",
    )


def track(track_id: int, *, score: float | None, end: float, unscored: str = "") -> FaceTrack:
    """A face that is there from 0 to `end` seconds."""
    frames = round(end * FRAME_RATE)
    return FaceTrack(
        track_id=track_id,
        start=0.0,
        end=end,
        frames=frames,
        scored=0 if score is None else frames,
        score=score,
        llr=None if score is None else 10 * score - 5,
        size=80.0,
        sharpness=120.0,
        mask_share=None if score is None else score / 2,
        unscored=((unscored, frames),) if unscored else (),
    )


def scan(
    *,
    info: VideoInfo | None = None,
    path: Path = Path("clip.mp4"),
    label: Label = Label.MANIPULATED,
    faces: int = 2,
    unjudged: int = 1,
    frames: int = 25,
) -> Scan:
    """A scan of `faces` judged and `unjudged` other tracks.

    With `Label.MANIPULATED`, track 0 is manipulated in the middle third and, if there is one,
    track 1 suspicious in the last third.
    """
    seconds = float(frames / FRAME_RATE)
    found = label is Label.MANIPULATED and faces > 0
    tracks = [
        track(number, score=0.97 if found and number == 0 else 0.12, end=seconds)
        for number in range(faces)
    ]
    tracks += [
        track(faces + number, score=None, end=seconds, unscored=REASONS[number % len(REASONS)])
        for number in range(unjudged)
    ]
    intervals = []
    if found:
        third = seconds / 3
        intervals.append(Interval(third, 2 * third, 0, 0.97, 5.1, Label.MANIPULATED))
        if faces > 1:
            intervals.append(Interval(2 * third, seconds, 1, 0.71, 1.2, Label.SUSPICIOUS))
    verdict = Verdict(
        label=label,
        intervals=tuple(intervals),
        tracks=tuple(tracks),
        coverage=Coverage(
            decoded=frames,
            failed=0,
            with_face=frames if tracks else 0,
            analysed=frames,
            faces=len(tracks) * frames,
            faces_scored=faces * frames,
            faces_unscored=(("too_small", unjudged * frames),) if unjudged else (),
            seconds=seconds,
            seconds_scored=seconds if faces else 0.0,
            complete=True,
        ),
        score=(0.97 if found else 0.12) if faces else None,
        looks=float(max(1, faces)),
        reasons=(Reason("over_operating_point", "One face lies over the operating point."),),
        calibration=CalibrationInfo("clips-1", "test clips", 0.9, 0.7, 0.01, (0.0, 0.03), 300),
        model=ModelInfo("msccnet-s", "ab" * 32, 256, 0.9, (0.88, 0.92), "drawn faces"),
        engine=EngineInfo("torch-cpu-fp32", "asked for"),
        video=info,
    )
    return Scan(
        path=path,
        sha256="0123456789abcdef" * 4,
        size=1_234,
        verdict=verdict,
        report=ReadReport(frames, 0, True, (), "pyav", "asked for"),
        settings=(("decoder", "auto"), ("stride", 1)),
        versions=(("deepscan", "0.1.0"), ("python", "3.11")),
        timings=(("decode", 0.5), ("predict", 1.5)),
        started="2026-01-02T03:04:05Z",
        ignored=(),
    )


def picture(height: int, width: int, boxes: Sequence[Box] = ()) -> Image:
    """A gradient with a drawn face in every box."""
    y, x = np.ogrid[0:height, 0:width]
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = 40 + 60 * x // max(1, width)
    image[..., 1] = 60 + 70 * y // max(1, height)
    image[..., 2] = 110
    for box in boxes:
        (cx, cy), rx, ry = box.centre, box.width / 2, box.height / 2
        image[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = (205, 160, 130)
        for eye in (-0.4, 0.4):
            image[((x - cx - eye * rx) / rx) ** 2 + ((y - cy + 0.25 * ry) / ry) ** 2 < 0.02] = 30
        image[(abs(x - cx) < 0.4 * rx) & (abs(y - cy - 0.5 * ry) < 0.06 * ry)] = (140, 60, 60)
    return image


def planes(image: Image, matrix: int) -> Planes:
    """A picture as 4:2:0 samples; of an odd size, too."""
    height, width = image.shape[:2]
    made = Planes(np.zeros(Planes.count(width, height), np.uint8), width, height, matrix)
    Surface.of(made).copy(*samples_of(PlanesConverter(matrix).convert(image)))
    return made


def places(height: int, width: int, count: int, shift: float = 0.0) -> list[Box]:
    """Boxes of `count` faces in a grid that drifts to the right by `shift` (share of a cell)."""
    columns = max(1, int(np.ceil(np.sqrt(count * width / height))))
    rows = max(1, -(-count // columns))
    cell = min(width / columns, height / rows)
    boxes = []
    for number in range(count):
        cx = (number % columns + 0.5 + 0.1 * shift) * width / columns
        cy = (number // columns + 0.5) * height / rows
        boxes.append(Box(cx - 0.22 * cell, cy - 0.28 * cell, cx + 0.22 * cell, cy + 0.28 * cell))
    return boxes


def blob(side: int, score: float) -> Mask:
    """A mask that marks the lower half of the face, with soft edges, if the score is high."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    distance = np.sqrt((x / 0.32) ** 2 + ((y - 0.12) / 0.24) ** 2)
    marked: Mask = (score / (1 + np.exp((distance - 1) * 12))).astype(np.float32)
    return marked


def prediction(image: Image, box: Box, track_id: int, score: float, side: int) -> FacePrediction:
    """What a network could have said about the face in `box`."""
    half = 0.65 * max(box.width, box.height)
    cx, cy = box.centre
    square = Box(cx - half, cy - half, cx + half, cy + half)
    face = Face(box, 0.99, None, track_id)
    crop = FaceCrop(face, square, np.zeros((side, side, 3), np.uint8), 120.0)
    return FacePrediction(crop, score, blob(side, score))


def results(
    made: Scan,
    *,
    frames: int = 25,
    size: tuple[int, int] | None = None,
    side: int = 32,
    images: bool = True,
) -> Iterator[FrameResult]:
    """Frames that agree with the tracks and intervals of `made`; every 10th is not analysed."""
    info = made.verdict.video
    width, height = size or ((info.width, info.height) if info else (320, 240))
    tracks = made.verdict.tracks
    for index in range(frames):
        time = float(index / FRAME_RATE)
        boxes = places(height, width, len(tracks), shift=index / max(1, frames))
        image = picture(height, width, boxes) if images else np.zeros((0, 0, 3), np.uint8)
        frame = Frame(index, round(index / FRAME_RATE / TIME_BASE), time, image)
        if index % 10 == 9:
            yield FrameResult(frame, (), (), analysed=False)
            continue
        judged, unjudged = [], []
        for face, box in zip(tracks, boxes, strict=True):
            if face.score is None:
                seen = Face(box, 0.95, None, face.track_id)
                unjudged.append(UnscoredFace(seen, face.unscored[0][0]))
                continue
            marked = [
                interval.score
                for interval in made.verdict.intervals
                if interval.track_id == face.track_id and interval.start <= time < interval.end
            ]
            score = max(marked, default=0.12)
            judged.append(prediction(image, box, face.track_id, score, side))
        yield FrameResult(frame, tuple(judged), tuple(unjudged))


def at(result: FrameResult, index: int) -> FrameResult:
    """The same result as the frame number `index`."""
    pts = round(index / FRAME_RATE / TIME_BASE)
    frame = replace(result.frame, index=index, pts=pts, time=float(index / FRAME_RATE))
    return replace(result, frame=frame)


# What `Surface` draws into planes, drawn into (H, W, 3) pictures in place


def fill(picture: Image, area: Area, colour: RGB) -> None:
    picture[max(0, area.y1) : max(0, area.y2), max(0, area.x1) : max(0, area.x2)] = colour


def frame(picture: Image, area: Area, style: Style, line: int) -> None:
    shadows, lines = draw.outline(area, style, line)
    for part in shadows:
        picture[max(0, part.y1) : max(0, part.y2), max(0, part.x1) : max(0, part.x2)] //= 3
    for part in lines:
        fill(picture, part, style.colour)


def blit(picture: Image, sprite: Pillow.Image, x: int, y: int) -> None:
    whole = Pillow.fromarray(picture)
    whole.paste(sprite, (x, y), sprite)
    picture[:] = np.asarray(whole)


def mark(picture: Image, inside: Plane, style: Style, line: int) -> None:
    layers, x, y = draw.marking(inside, style, line)
    for colour, alpha in layers:
        part = picture[y : y + alpha.height, x : x + alpha.width]
        below = Pillow.fromarray(part)
        below.paste(colour, (0, 0), alpha)
        part[:] = np.asarray(below)
