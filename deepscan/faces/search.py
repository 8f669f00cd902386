"""Find and follow faces through a stream of frames without searching every frame.

A search costs more than decoding, so only key frames are searched. Where two key frames
agree, the frames between get boxes on the straight line between them; where they do not, the frame
in the middle is searched, down to neighbouring frames if necessary.

Faces that are not upright are looked for where a key frame shows no upright face that the detector
is sure of, and beside such faces in every `TURNED_EVERY`-th key frame and at the beginning of a
shot; there also small ones are found. One counts if two key frames show it turned the same way, or
the only frame of a shot does.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deepscan.faces.crop import cut, square
from deepscan.faces.detector import Detection, FaceDetector
from deepscan.faces.place import MOST, places_of
from deepscan.faces.quality import detail, sharpness
from deepscan.faces.track import Thumbnail, Tracker, is_cut, match, near, thumbnail
from deepscan.faces.turned import TURNS, find_turned, is_over, is_sure, turn_picture
from deepscan.options import ScanOptions
from deepscan.types import Box, Face, FaceCrop, Frame, FrameCrops, UnscoredFace

MAX_FRAMES = 32  # most frames held back between two key frames: 0.4 s at 80 frames/s
MAX_BYTES = 256 * 2**20  # and most bytes of their pictures; 10 frames of 3840x2160
ENOUGH = 2  # key frames that must show a turned face
TURNED_EVERY = 6  # key frames; with 0.5 s between them once in 3 s
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
        of its box is below `min_face`, as "limit_faces" if there are more than `max_faces` (they
        take turns, the largest first), as "too_blurred" if its crop's sharpness is below
        `min_sharpness`. If the detector had more faces than it returned, a stand-in over the whole
        frame, with confidence 0 and without a track, is unscored as "limit_faces".
    """
    tracker = Tracker()
    search = _Search(detector, options)
    judged: Counter[int] = Counter()
    previous: _Searched | None = None
    for after_cut, group in _groups(frames, options, sampled):
        if after_cut:
            tracker.cut()
            previous = None
        new = []
        for found in search.search(previous, [each for each, on in group if on]):
            faces = tracker.name(found.time, found.detection.faces)
            named = Detection(faces, found.detection.truncated)
            new.append(dataclasses.replace(found, detection=named))
        search.count_turned(new, alone=previous is None and len(new) == 1)
        searched = new if previous is None else [previous, *new]
        believed = [search.believed(each) for each in searched]
        position = 0
        for frame, on in group:
            if not on:
                yield FrameCrops(frame, (), analysed=False)
                continue
            while believed[position].index < frame.index:
                position += 1
            detection = _between(believed[max(0, position - 1)], believed[position], frame)
            yield _cut_out(frame, detection, options, size, judged)
        if new:
            previous = new[-1]


@dataclass(frozen=True, slots=True)
class _Searched:
    """A searched frame, without its picture, and the faces found in it.

    `is_key` says that it begins or ends a group; `upright` are the faces that were found without
    turning it, of which `detection` lacks those that a turned face lies over.
    """

    index: int
    time: float
    detection: Detection
    upright: tuple[Face, ...] = ()
    is_key: bool = False


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


class _Search:
    """Searches frames, and knows how often each turned face was seen in a key frame."""

    def __init__(self, detector: FaceDetector, options: ScanOptions) -> None:
        self._detector = detector
        self._options = options
        self._since = 0  # key frames since all turns were tried
        self._turned: Counter[tuple[int | None, int]] = Counter()  # by track and turn

    def search(self, previous: _Searched | None, sampled: Sequence[Frame]) -> list[_Searched]:
        """Search as few frames as place the faces of all; in order, without `previous`."""
        if not sampled:
            return []
        found: dict[int, _Searched] = {}
        if previous is None:
            self._since = 0
            found[0] = self._key_frame(sampled[0], set())
        first, last = (0 if previous is None else -1), len(sampled) - 1
        before = previous or found[0]
        if last not in found:
            found[last] = self._key_frame(sampled[last], _turns(before))
        expected = self._expected(before, found[last])
        open_spans = [(first, last)]
        while open_spans:
            low, high = open_spans.pop()
            if high - low < 2:
                continue
            before = previous if low < 0 and previous is not None else found[low]
            if _agree(before.detection, found[high].detection, self._options, expected):
                continue
            middle = (low + high) // 2
            frame = sampled[middle]
            upright = self._near(frame, before.detection, found[high].detection)
            found[middle] = self._with_turned(frame, upright, expected)
            open_spans += [(low, middle), (middle, high)]
        return [found[position] for position in sorted(found)]

    def count_turned(self, searched: Sequence[_Searched], *, alone: bool) -> None:
        """Count the named, turned faces of key frames; `alone` says that a shot has no other."""
        for each in searched:
            for face in each.detection.faces:
                if face.turn and each.is_key:
                    self._turned[face.track_id, face.turn] += ENOUGH if alone else 1

    def believed(self, searched: _Searched) -> _Searched:
        """The same without turned faces that too few key frames show."""
        faces = []
        for face in searched.detection.faces:
            if not face.turn or self._turned[face.track_id, face.turn] >= ENOUGH:
                faces.append(face)
                continue
            instead = [each for each in searched.upright if is_over(face.box, each)]
            faces += [dataclasses.replace(each, track_id=face.track_id) for each in instead[:1]]
        detection = Detection(tuple(faces), searched.detection.truncated)
        return dataclasses.replace(searched, detection=detection)

    def _key_frame(self, frame: Frame, turns: set[int]) -> _Searched:
        upright = self._detector.detect(frame.image)
        is_due = self._since % TURNED_EVERY == 0
        halved = not (is_due or turns)
        if is_due or not any(is_sure(face) for face in upright.faces):
            turns = set(TURNS)
        self._since += 1
        found = self._with_turned(frame, upright, turns, halved=halved)
        return dataclasses.replace(found, is_key=True)

    def _near(self, frame: Frame, low: Detection, high: Detection) -> Detection:
        """Search a frame between two others only where those show faces.

        The whole of it is searched if that is hardly more, or if a face that is found reaches the
        edge of where it was looked for.
        """
        height, width = frame.image.shape[:2]
        places = places_of(low, high, height, width)
        if sum(place.box.area for place in places) <= MOST * height * width:
            parts = [
                self._detector.detect(frame.image, larger_than=place.least, within=place.box)
                for place in places
            ]
            faces = [face for part in parts for face in part.faces]
            if not any(
                place.cuts(face.box, height, width)
                for place, part in zip(places, parts, strict=True)
                for face in part.faces
            ):
                return Detection(tuple(faces), any(part.truncated for part in parts))
        least = min(place.least for place in places)
        return self._detector.detect(frame.image, larger_than=least)

    def _with_turned(
        self, frame: Frame, upright: Detection, turns: set[int], *, halved: bool = False
    ) -> _Searched:
        turned: tuple[Face, ...] = ()
        if turns:
            turned = find_turned(
                frame.image, self._detector, sorted(turns), upright.faces, halved=halved
            )
        kept = (
            face for face in upright.faces if not any(is_over(face.box, other) for other in turned)
        )
        detection = Detection((*kept, *turned), upright.truncated)
        return _Searched(frame.index, frame.time, detection, upright.faces)

    def _expected(self, low: _Searched, high: _Searched) -> set[int]:
        """The turns that frames between two key frames are searched in."""
        return {
            face.turn
            for face in low.detection.faces
            if face.turn
            and (
                self._turned[face.track_id, face.turn] >= ENOUGH
                or any(
                    face.turn == other.turn and near(face.box, other.box)
                    for other in high.detection.faces
                )
            )
        }


def _turns(searched: _Searched) -> set[int]:
    return {face.turn for face in searched.detection.faces if face.turn}


def _agree(a: Detection, b: Detection, options: ScanOptions, turns: set[int]) -> bool:
    """True if two searches saw the same faces in about the same places.

    A face that is turned and none of `turns` may be missing.
    """

    def allowed(before: Box, after: Box) -> bool:
        return before.iou(after) >= options.agree_iou and near(before, after)

    pairs = match([face.box for face in a.faces], [face.box for face in b.faces], allowed)
    alone = [face for i, face in enumerate(a.faces) if i not in {old for old, _ in pairs}]
    alone += [face for j, face in enumerate(b.faces) if j not in {new for _, new in pairs}]
    # A face too small to be judged comes and goes at the edge of what the detector can see; looking
    # for the moment when it does would mean searching every frame of a crowd.
    return all(
        _longer_side(face) < options.min_face or (face.turn and face.turn not in turns)
        for face in alone
    )


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
    turn = a.turn if weight < 0.5 else b.turn
    return Face(
        box, mix(a.confidence, b.confidence), landmarks, a.track_id, interpolated=True, turn=turn
    )


def _cut_out(
    frame: Frame, detection: Detection, options: ScanOptions, size: int, judged: Counter[int]
) -> FrameCrops:
    """Cut out the faces of a frame; `judged` counts in how many frames each track was."""
    crops: list[FaceCrop] = []
    unscored: list[UnscoredFace] = []
    left = options.max_faces
    # Where there are too many, those have their turn that had fewest; of these the largest.
    for face in sorted(detection.faces, key=lambda face: (judged[_track(face)], -face.box.area)):
        if _longer_side(face) < options.min_face:
            unscored.append(UnscoredFace(face, "too_small"))
            continue
        if not left:
            unscored.append(UnscoredFace(face, "limit_faces"))
            continue
        left -= 1
        judged[_track(face)] += 1
        box = square(face.box, options.crop_scale)
        image = np.ascontiguousarray(turn_picture(cut(frame.image, box, size), face.turn))
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
