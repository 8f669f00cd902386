"""The records of deepscan: frozen dataclasses that pass from the file to the verdict.

Polarity is fixed: class 1, score 1.0 and mask 1.0 (255 in a picture) mean *manipulated*. Stages
wrap the records of earlier stages: a `FacePrediction` still has its crop, face and box.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:  # the command line needs labels long before it needs arrays
    import numpy as np
    from numpy.typing import NDArray

Image: TypeAlias = "NDArray[np.uint8]"  # (H, W, 3) uint8 RGB, upright
Mask: TypeAlias = "NDArray[np.float32]"  # (h, w) float32 in [0, 1], P(manipulated)


class Label(StrEnum):
    """The verdict over a file. A closed set; none says "real": deepscan can only fail to find."""

    MANIPULATED = "manipulated"
    SUSPICIOUS = "suspicious"
    NO_EVIDENCE = "no-evidence"
    INCONCLUSIVE = "inconclusive"
    NOT_APPLICABLE = "not-applicable"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in frame pixels; `x2` and `y2` are exclusive. It may exceed the frame."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        return max(0.0, self.width) * max(0.0, self.height)

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    def iou(self, other: Box) -> float:
        """Intersection over union with another box, 0 to 1."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        if width <= 0 or height <= 0:
            return 0.0
        both = width * height
        return both / (self.area + other.area - both)


@dataclass(frozen=True, slots=True)
class Colour:
    """The colour encoding of a stream, in FFmpeg's names ("bt709", "unknown", ...).

    `matrix` is the one used for the conversion to RGB, also if the stream names none; `tagged` is
    True if the stream named it. `tone_mapped` is True if HDR was mapped to BT.709: the pictures are
    BT.709 then, while the other fields describe the stream.
    """

    matrix: str
    full_range: bool
    primaries: str
    transfer: str
    tagged: bool
    tone_mapped: bool = False


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """A video stream as known before its frames are read.

    There is no frame count, since that of containers is not reliable. `width` and `height` are
    those of the upright picture in decoded pixels (before `sample_aspect_ratio` is applied for
    display). `rotation` is the clockwise rotation in degrees that made the picture upright.
    `duration` is in seconds, None if unknown.

    Time 0 is the start of the container, the earliest start time of its streams, as in players.
    `start_pts` is this stream's timestamp at time 0, `time_offset` the time of its first frame in
    seconds.
    """

    path: Path
    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    frame_rate: Fraction
    time_base: Fraction
    duration: float | None
    rotation: int
    sample_aspect_ratio: Fraction
    colour: Colour
    audio: tuple[str, ...]
    still: bool
    decoder: str
    decoder_reason: str
    start_pts: int = 0
    time_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Planes:
    """A picture in the format of decoders: limited range, 4:2:0, a colour sample per 2x2 pixels.

    `samples` is a flat uint8 array of luma, then blue, then red differences, row by row without
    gaps. `matrix` is the H.273 number of the matrix that makes RGB of them.
    """

    samples: NDArray[np.uint8]
    width: int
    height: int
    matrix: int

    @staticmethod
    def count(width: int, height: int) -> int:
        """Samples of a picture of `width` x `height` pixels."""
        return width * height + 2 * ((width + 1) // 2) * ((height + 1) // 2)

    @property
    def luma(self) -> NDArray[np.uint8]:
        """A view, (height, width)."""
        return self.samples[: self.width * self.height].reshape(self.height, self.width)

    @property
    def blue(self) -> NDArray[np.uint8]:
        """A view, half as high and wide, rounded up."""
        return self._colour(0)

    @property
    def red(self) -> NDArray[np.uint8]:
        """A view, half as high and wide, rounded up."""
        return self._colour(1)

    def _colour(self, which: int) -> NDArray[np.uint8]:
        height, width = (self.height + 1) // 2, (self.width + 1) // 2
        start = self.width * self.height + which * height * width
        return self.samples[start : start + height * width].reshape(height, width)


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture. `pts` counts the stream's time base, `time` is seconds from time 0.

    `image` is (H, W, 3) uint8 RGB, upright; treat it as read-only. It is (0, 0, 3) if pictures were
    not requested, or if `planes` replace it, which have to be requested and need a decoder that
    gives 4:2:0.
    """

    index: int
    pts: int
    time: float
    image: Image
    planes: Planes | None = None


@dataclass(frozen=True, slots=True)
class ReadReport:
    """The reader's report at the end of a stream.

    `failed` counts packets or frames that could not be decoded. `complete` is True only if there is
    no sign of missing frames; otherwise `reasons` has one line for each sign.
    """

    decoded: int
    failed: int
    complete: bool
    reasons: tuple[str, ...]
    decoder: str
    decoder_reason: str


@dataclass(frozen=True, slots=True)
class Face:
    """A face in one frame: tight box, detector's confidence in [0, 1], five landmarks or None.

    Landmarks are ((x, y), ...) in frame pixels: left eye, right eye, nose, left and right corner of
    the mouth, as seen in the picture. `track_id` is None until the tracker has set it.
    `interpolated` is True if the box lies between two detections. `turn` is the clockwise rotation
    in degrees that makes the face upright; box and landmarks refer to the picture before it.
    """

    box: Box
    confidence: float
    landmarks: tuple[tuple[float, float], ...] | None = None
    track_id: int | None = None
    interpolated: bool = False
    turn: int = 0


@dataclass(frozen=True, slots=True)
class FaceCrop:
    """A square crop around a face. `box` is its area in the frame; `image` is (S, S, 3) uint8 RGB
    with the face upright.

    `sharpness` is the variance of the Laplacian of the crop's luma (grey levels squared), `detail`
    the share of its pixels, 0 to 1, that an encoder left detail in (`deepscan.faces.crop`).
    """

    face: Face
    box: Box
    image: Image
    sharpness: float
    detail: float = 0.0


@dataclass(frozen=True, slots=True)
class UnscoredFace:
    """A face that was seen but not judged, and why: "too_small", "too_blurred", "limit_faces"."""

    face: Face
    reason: str


@dataclass(frozen=True, slots=True)
class FrameCrops:
    """A frame with its face crops. `analysed` is False if no face search covered it."""

    frame: Frame
    crops: tuple[FaceCrop, ...]
    unscored: tuple[UnscoredFace, ...] = ()
    analysed: bool = True


@dataclass(frozen=True, slots=True)
class FacePrediction:
    """What the network said about one crop: `score` = P(manipulated), `mask` over the crop.

    `mask` is None of a model that has none.
    """

    crop: FaceCrop
    score: float
    mask: Mask | None


@dataclass(frozen=True, slots=True)
class FrameResult:
    """A frame with its findings. `analysed` is False if the frame was not analysed."""

    frame: Frame
    faces: tuple[FacePrediction, ...]
    unscored: tuple[UnscoredFace, ...] = ()
    analysed: bool = True


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval [start, end) in seconds where one face's evidence is above a threshold.

    `score` is the calibrated P(manipulated) of its strongest window, `llr` that window's natural
    log-likelihood ratio. `label` is manipulated or suspicious. A calibration on real material alone
    knows no likelihood: `score` is then the model's own, and `llr` None.
    """

    start: float
    end: float
    track_id: int
    score: float
    llr: float | None
    label: Label


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """One face over time, [start, end) in seconds.

    `frames` counts the frames where it was seen, `scored` those where it was judged. `score` is the
    calibrated P(manipulated) of its strongest window, None if it was never judged. `size` is the
    median box side in pixels, `sharpness` the median. `mask_share` is the mean share of the crop
    where the mask passes 0.5, over the strongest window.
    """

    track_id: int
    start: float
    end: float
    frames: int
    scored: int
    score: float | None
    llr: float | None
    size: float
    sharpness: float
    mask_share: float | None
    unscored: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """The analysed part of a file. Faces are counted as sightings (one face in one frame)."""

    decoded: int
    failed: int
    with_face: int
    analysed: int  # frames on which every face found was judged, or none was found
    faces: int
    faces_scored: int
    faces_unscored: tuple[tuple[str, int], ...]
    seconds: float
    seconds_scored: float  # time during which at least one face was judged
    complete: bool


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason for a verdict: a stable code and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class CalibrationInfo:
    """Which calibration turned scores into likelihood ratios, and what it promises.

    `operating_point` and `review_point` are P(manipulated) at even prior odds, for this file's
    number of looks: a window at or above them is manipulated or suspicious.
    `clips` clips of `population` stand behind the ratios. `false_alarm_rate` is the measured share
    of unmanipulated files labelled manipulated at the operating point, with a 95 % interval, on
    what `measured_on` names: of made and real material the one that shows more.
    """

    name: str
    population: str
    operating_point: float
    review_point: float
    false_alarm_rate: float
    false_alarm_interval: tuple[float, float]
    clips: int
    measured_on: str = ""  # what the false-alarm rate was measured on, "432 made clips"


@dataclass(frozen=True, slots=True)
class Counted:
    """Of `files` files of one kind, of `groups` people or recordings, so many are called
    manipulated at the operating point; `interval` is the 95 % interval of that share. `seen`:
    training may have seen them."""

    name: str
    manipulated: bool
    called: int
    files: int
    groups: int
    interval: tuple[float, float]
    seen: bool = False

    @property
    def share(self) -> float:
        return self.called / self.files


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure that stands behind a model: what was measured, on what, and its 95 % interval."""

    what: str
    on: str
    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The network that judged: name, SHA-256 of the weights file, input side in pixels.

    `auc` and `auc_interval` are the measured frame AUC on people that training never saw, on
    manipulations of the kinds in `evaluated_on`, not on deepfakes at large; None and "" of a model
    that is not certified. `evidence` holds the other figures of the model's card; shares and areas,
    so in [0, 1]. `has_mask` is False for a detector that gives a score alone.
    """

    name: str
    sha256: str
    input_size: int
    auc: float | None
    auc_interval: tuple[float, float] | None
    evaluated_on: str
    evidence: tuple[Measured, ...] = ()
    has_mask: bool = True


@dataclass(frozen=True, slots=True)
class Parity:
    """Agreement of an engine with torch in fp32 over the same crops; also the limits of it.

    Differences are of probabilities. `mean_mask_iou` is of the masks thresholded at 0.5, where two
    empty masks count as 1. `verdict_equality` is the share of crops that, each a file of its own,
    get the same label at the operating points of the model's calibration.
    """

    max_score_difference: float
    mean_score_difference: float
    mean_mask_iou: float
    max_mask_difference: float
    verdict_equality: float


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The program that ran the network, why it was chosen, and its measured parity with torch.

    `parity` is None for the reference itself.
    """

    name: str
    reason: str
    parity: Parity | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for one file. The label is derived from the intervals, never from a mean.

    `score` is the highest calibrated P(manipulated) of any window, None if nothing was judged.
    `looks` is the number of independent chances of a false alarm that the rule corrected for.
    `calibration` is None of a model that has none: then nothing is concluded of its scores.
    `measured` is what the model says, at this operating point, of material whose truth is known.
    """

    label: Label
    intervals: tuple[Interval, ...]
    tracks: tuple[FaceTrack, ...]
    coverage: Coverage
    score: float | None
    looks: float
    reasons: tuple[Reason, ...]
    calibration: CalibrationInfo | None
    model: ModelInfo
    engine: EngineInfo
    video: VideoInfo | None
    measured: tuple[Counted, ...] = ()

    @property
    def end(self) -> float:
        """Seconds from time 0 to the end of the last frame or track."""
        offset = self.video.time_offset if self.video else 0.0
        return max([offset + self.coverage.seconds, *(track.end for track in self.tracks)])


@dataclass(frozen=True, slots=True)
class Output:
    """A file that a scan wrote: its sink, path, SHA-256 and size in bytes.

    `notes` are sentences on parts of the source that it could not keep.
    """

    kind: str
    path: Path
    sha256: str
    size: int
    notes: tuple[str, ...] = ()


CredentialState = Literal["absent", "valid", "invalid", "unsupported", "unreadable", "unknown"]
Integrity = Literal["valid", "invalid"]
Trust = Literal["unchecked", "trusted", "untrusted", "invalid"]
AI_SOURCES = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
"""IPTC digital source types of media that generative models made, wholly or in part."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The content credentials of a file.

    `state` is absent, valid (the content is unchanged since it was signed, by any signer), invalid,
    unsupported (C2PA does not support the container), unreadable (they cannot be read, or reading
    was stopped), or unknown (not read). `integrity` is valid if content and claims are unchanged;
    `trust` rates the certificate: unchecked without a trust list, else trusted, untrusted or
    invalid (expired, revoked, for another purpose). Both are None without credentials. `signer` is
    the certificate's common name, `issuer` its organisation, `time` the stated time of the
    signature; all are claims, to be shown as text. `source_type` is the last part of the IPTC code
    for the origin of the picture ("digitalCapture"), one of `AI_SOURCES` before any other.
    """

    state: CredentialState
    integrity: Integrity | None = None
    trust: Trust | None = None
    signer: str | None = None
    issuer: str | None = None
    time: str | None = None
    generator: str | None = None  # the program that made the claim
    notes: tuple[str, ...] = ()
    source_type: str | None = None

    def to_json(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**values, "notes": list(self.notes)}


@dataclass(frozen=True, slots=True)
class Scan:
    """Everything known about one scanned file, for the sinks.

    `sha256` and `size` are those of the input before decoding. `timings` are (stage, seconds)
    pairs. `settings` are the options with defaults, ready for JSON, and so are `versions`.
    `ignored` are notes for people on parts that were not judged.
    """

    path: Path
    sha256: str
    size: int
    verdict: Verdict
    report: ReadReport
    settings: tuple[tuple[str, str | int | float | bool | None], ...]
    versions: tuple[tuple[str, str], ...]
    timings: tuple[tuple[str, float], ...]
    started: str  # UTC, ISO 8601
    first_pts: int = 0  # the stream's timestamp at time zero
    ignored: tuple[str, ...] = ()
    provenance: Provenance | None = None  # None: not read


@dataclass(frozen=True, slots=True)
class Scanned:
    """One scanned file: its scan and the files that were written for it."""

    path: Path
    scan: Scan
    outputs: tuple[Output, ...]

    @property
    def label(self) -> Label:
        return self.scan.verdict.label


@dataclass(frozen=True, slots=True)
class Skipped:
    """One file without a verdict from its content: the reason, and the label."""

    path: Path
    label: Label
    reason: Reason
    outputs: tuple[Output, ...] = ()
