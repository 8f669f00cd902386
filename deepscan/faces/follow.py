"""Finding and following faces through a stream of frames without searching every frame.

A search costs more than decoding, so only key frames are searched. Where two key frames tell the
same story, the frames between get boxes on the straight line between them; where they do not, the
frame in the middle is searched, down to neighbouring frames if it has to be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from deepscan.faces.crop import cut, sharpness, square
from deepscan.faces.detector import Detection, FaceDetector
from deepscan.faces.quality import detail
from deepscan.faces.track import Thumbnail, Tracker, is_cut, match, near, thumbnail
from deepscan.options import ScanOptions
from deepscan.types import Box, Face, FaceCrop, Frame, FrameCrops, UnscoredFace

MAX_FRAMES = 32  # most frames held back between two key frames: 0.4 s at 80 frames/s
MAX_BYTES = 256 * 2**20  # and most bytes of their pictures; 10 frames of 3840x2160
_ROUNDING = 1e-6  # seconds; 1.2 - 0.8 is less than 0.4


def find_faces(
    frames: Iterable[Frame],
    detector: FaceDetector,
    options: ScanOptions,
    *,
    size: int,
    sampled: Callable[[Frame], bool] | None = None,
) -> Iterator[FrameCrops]:
    """Yield every frame once, in order, with its faces named, followed and cut out.

    Searched are the first and the last frame, key frames `options.detect_every` seconds apart, both
    sides of a cut in the picture, and frames between where two searches disagree: a face came or
    went, or its boxes overlap by less than `options.agree_iou`. All other boxes are interpolated in
    time. What happens only between two key frames of one shot is not seen: a face that comes and
    goes is missed, and one that is hidden for a moment gets boxes all the same.

    Only sampled frames are searched and cut; the others come out with `analysed=False` and without
    crops.

    Frames are held back from one key frame to the next, at most `MAX_FRAMES` of them and at most
    `MAX_BYTES` of pictures (but always one). The crops of a frame are cut when it is yielded.
    Closing the generator early leaves `frames` and `detector` open; they belong to the caller.

    Args:
        frames: in order of time.
        detector: searches one frame at a time, in no particular order.
        options: see above, and `crop_scale`, `min_face`, `min_sharpness`, `max_faces`.
        size: side of the square crops in pixels.
        sampled: asked once for every frame, in order; by default those whose index is a multiple of
            `options.stride` are.

    Yields:
        Faces in the order of their track ids. A face is unscored as "too_small" if the longer side
        of its box is below `min_face`, as "limit_faces" if there are more than `max_faces` (the
        largest are judged), as "too_blurred" if its crop's sharpness is below `min_sharpness`. If
        the detector had more faces than it returned, a stand-in over the whole frame, with
        confidence 0 and without a track, is unscored as "limit_faces".
    """
    tracker = Tracker()
    previous: _Searched | None = None
    for after_cut, group in _groups(frames, options, sampled):
        if after_cut:
            tracker.cut()
            previous = None
        searched = [] if previous is None else [previous]
        for found in _search(previous, [each for each, on in group if on], detector, options):
            faces = tracker.name(found.time, found.detection.faces)
            named = Detection(faces, found.detection.truncated)
            searched.append(dataclasses.replace(found, detection=named))
        position = 0
        for frame, on in group:
            if not on:
                yield FrameCrops(frame, (), analysed=False)
                continue
            while searched[position].index < frame.index:
                position += 1
            detection = _between(searched[max(0, position - 1)], searched[position], frame)
            yield _cut_out(frame, detection, options, size)
        if searched:
            previous = searched[-1]


@dataclass(frozen=True, slots=True)
class _Searched:
    """A frame that was searched, without its picture, and what was found in it."""

    index: int
    time: float
    detection: Detection


def _groups(
    frames: Iterable[Frame], options: ScanOptions, sampled: Callable[[Frame], bool] | None
) -> Iterator[tuple[bool, list[tuple[Frame, bool]]]]:
    """Split the stream behind key frames and at cuts: (begins a shot, [(frame, is sampled)])."""
    group: list[tuple[Frame, bool]] = []
    begins = True
    key_time: float | None = None
    last: Thumbnail | None = None
    for frame in frames:
        sample = thumbnail(frame.image)
        if last is not None and is_cut(last, sample):
            if group:
                yield begins, group
            group, begins, key_time = [], True, None
        last = sample
        on = frame.index % options.stride == 0 if sampled is None else sampled(frame)
        group.append((frame, on))
        is_key = False
        if on:
            if key_time is None:
                key_time = frame.time  # the first of a shot is searched in any case
            is_key = frame.time - key_time >= options.detect_every - _ROUNDING
        if is_key or len(group) >= min(MAX_FRAMES, MAX_BYTES // max(1, frame.image.nbytes)):
            yield begins, group
            group, begins, key_time = [], False, frame.time
    if group:
        yield begins, group


def _search(
    previous: _Searched | None,
    sampled: Sequence[Frame],
    detector: FaceDetector,
    options: ScanOptions,
) -> list[_Searched]:
    """Search as few frames as tell what lies on all of them; in order, without `previous`."""
    if not sampled:
        return []
    found: dict[int, _Searched] = {}

    def detect(position: int) -> None:
        frame = sampled[position]
        found[position] = _Searched(frame.index, frame.time, detector.detect(frame.image))

    if previous is None:
        detect(0)
    first, last = (0 if previous is None else -1), len(sampled) - 1
    if last not in found:
        detect(last)
    open_spans = [(first, last)]
    while open_spans:
        low, high = open_spans.pop()
        if high - low < 2:
            continue
        before = previous if low < 0 and previous is not None else found[low]
        if _agree(before.detection, found[high].detection, options):
            continue
        middle = (low + high) // 2
        detect(middle)
        open_spans += [(low, middle), (middle, high)]
    return [found[position] for position in sorted(found)]


def _agree(a: Detection, b: Detection, options: ScanOptions) -> bool:
    """Whether two searches saw the same faces in about the same places."""

    def allowed(before: Box, after: Box) -> bool:
        return before.iou(after) >= options.agree_iou and near(before, after)

    pairs = match([face.box for face in a.faces], [face.box for face in b.faces], allowed)
    alone = [face for i, face in enumerate(a.faces) if i not in {old for old, _ in pairs}]
    alone += [face for j, face in enumerate(b.faces) if j not in {new for _, new in pairs}]
    # A face too small to be judged comes and goes at the edge of what the detector can see; looking
    # for the moment when it does would mean searching every frame of a crowd.
    return all(_longer_side(face) < options.min_face for face in alone)


def _between(low: _Searched, high: _Searched, frame: Frame) -> Detection:
    """The faces of a frame from `low` to `high`, of which `high` is never before it."""
    if frame.index == high.index:
        return high.detection
    span = high.time - low.time
    weight = (frame.time - low.time) / span if span > 0 else 0.0
    later = {face.track_id: face for face in high.detection.faces}
    faces = tuple(
        _blend(face, later[face.track_id], weight)
        for face in low.detection.faces
        if face.track_id in later
    )
    return Detection(faces, low.detection.truncated or high.detection.truncated)


def _blend(a: Face, b: Face, weight: float) -> Face:
    def mix(p: float, q: float) -> float:
        return p + (q - p) * weight

    box = Box(
        mix(a.box.x1, b.box.x1),
        mix(a.box.y1, b.box.y1),
        mix(a.box.x2, b.box.x2),
        mix(a.box.y2, b.box.y2),
    )
    landmarks = None
    if a.landmarks is not None and b.landmarks is not None:
        landmarks = tuple(
            (mix(px, qx), mix(py, qy))
            for (px, py), (qx, qy) in zip(a.landmarks, b.landmarks, strict=True)
        )
    return Face(box, mix(a.confidence, b.confidence), landmarks, a.track_id, interpolated=True)


def _cut_out(frame: Frame, detection: Detection, options: ScanOptions, size: int) -> FrameCrops:
    crops: list[FaceCrop] = []
    unscored: list[UnscoredFace] = []
    judged = 0
    for face in sorted(detection.faces, key=lambda face: -face.box.area):
        if _longer_side(face) < options.min_face:
            unscored.append(UnscoredFace(face, "too_small"))
            continue
        judged += 1
        if judged > options.max_faces:
            unscored.append(UnscoredFace(face, "limit_faces"))
            continue
        box = square(face.box, options.crop_scale)
        image = cut(frame.image, box, size)
        sharp = sharpness(image)
        if sharp < options.min_sharpness:
            unscored.append(UnscoredFace(face, "too_blurred"))
        else:
            crops.append(FaceCrop(face, box, image, sharp, detail(image)))
    crops.sort(key=lambda crop: _track(crop.face))
    unscored.sort(key=lambda item: _track(item.face))
    if detection.truncated:
        height, width = frame.image.shape[:2]
        rest = Face(Box(0.0, 0.0, float(width), float(height)), confidence=0.0)
        unscored.append(UnscoredFace(rest, "limit_faces"))
    return FrameCrops(frame, tuple(crops), tuple(unscored))


def _longer_side(face: Face) -> float:
    return max(face.box.width, face.box.height)


def _track(face: Face) -> int:
    return -1 if face.track_id is None else face.track_id
