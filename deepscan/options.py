"""The settings of a scan, with their defaults and reasons."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

Decoder = Literal["auto", "decord", "pyav"]
DECODERS: tuple[Decoder, ...] = get_args(Decoder)
Setting = str | int | float | bool | None
DEFAULT_MODEL = "msccnet-lite0"  # one of those in deepscan/weights


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one input file. Reaching a limit is an error, never a clean result."""

    file_size: int = 64 * 2**30  # bytes
    pixels: int = 2**25  # a frame; 33.5 M is above 7680x4320
    side: int = 16_384  # pixels
    streams: int = 32
    frames: int = 2_000_000
    duration: float = 24 * 3600.0  # seconds of media
    idle: float = 30.0  # seconds without a frame or packet before the decoder counts as hung
    time_factor: float = 10.0  # wall seconds a second of media ...
    time_floor: float = 120.0  # ... but never less than this
    memory: int = 2 * 2**30  # address space of the decoder process in bytes; doubled above 4K
    consecutive_errors: int = 8  # decode errors in a row before reading stops (as PySceneDetect)


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """Settings of a scan. Defaults are what `deepscan VIDEO` uses."""

    decoder: Decoder = "auto"
    engine: str = "auto"
    model: str = DEFAULT_MODEL
    detector: str = "mtcnn"

    # Faces
    min_face: int = 40  # smallest face that is judged: box side in frame pixels
    min_sharpness: float = 5.0  # variance of the crop's Laplacian below which nothing is judged
    min_confidence: float = 0.90  # of the face detector
    crop_scale: float = 1.3  # side of the square crop over the longer side of the box (the field's)
    detect_every: float = 0.5  # seconds between two key frames of the face search
    agree_iou: float = 0.6  # boxes of two key frames that overlap so much are joined by a line
    max_faces: int = 64  # a frame; more are counted as limit_faces

    # Verdict
    min_coverage: float = 0.5  # share of face time that must have been judged
    stride: int = 1  # judge every n-th frame
    false_alarm_rate: float | None = None  # of a clip; None: the calibration's own

    # Triage
    start: float = 0.0  # seconds; nothing before is judged
    end: float | None = None  # seconds; nothing from here on is judged
    triage: bool = False  # a coarse pass, then dense ones where it is uncertain
    budget: float | None = None  # seconds of work a file, turns triage on; 0 or None: no limit

    # Content credentials
    trust_list: str | None = None  # a file of trusted certificates; None: no issuer is checked

    # Limits
    limits: Limits = field(default_factory=Limits)
    isolate: bool = True  # decode in a process of its own

    def flat(self) -> tuple[tuple[str, Setting], ...]:
        """(name, value) of every setting, `limits` as "limits.name"; ready for JSON."""
        flat: dict[str, Setting] = {}
        for name, value in asdict(self).items():
            inner = value if isinstance(value, dict) else {}
            flat |= {f"{name}.{key}": each for key, each in inner.items()} or {name: value}
        return tuple(flat.items())
