"""How fast a whole scan is, beside the plain way, in one run: `python -m train.benchmarks scan`.

The plain way is what the field's scripts do: the face detector on every full frame, one crop at a
time through eager torch in fp32, the mask blended over the frame, everything in one thread. Both
ways read the same generated clip and write a playable video; only ratios within one run count.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from PIL import Image as Pictures
from skimage import data

from deepscan.errors import DeepscanError
from deepscan.models.torchvision_compat import import_torchvision
from deepscan.models.weights import load_model, read_card
from deepscan.options import ScanOptions
from deepscan.scan.scanner import Scanner
from deepscan.testing import make_video
from deepscan.types import Image, Scanned
from train.calibration.clips import handheld_camera
from train.forge.degrade import grain

SIZE, RATE = (1280, 720), 25


@dataclass(frozen=True, slots=True)
class Speed:
    """Frames per second of both ways over one clip, their ratio, and the busy seconds by stage.

    `started` are the seconds that loading engine and detector took, not part of the rates.
    """

    frames: int
    plain: float
    deepscan: float
    ratio: float
    started: float
    engine: str
    decoder: str
    stages: dict[str, float]

    def table(self) -> str:
        """Lines for people; the shares are of the sum of busy seconds over all threads."""
        busy = sum(self.stages.values())
        shares = "\n".join(
            f"  {stage:<14}{seconds:>8.2f} s {seconds / busy:>6.1%}"
            for stage, seconds in sorted(self.stages.items(), key=lambda item: -item[1])
        )
        return (
            f"plain way   {self.plain:8.2f} frames/s\n"
            f"deepscan    {self.deepscan:8.2f} frames/s   ({self.ratio:.1f} times; engine "
            f"{self.engine}, decoder {self.decoder}; {self.frames} frames of 1280x720, one face)\n"
            f"start-up    {self.started:8.2f} s\nbusy seconds by stage:\n{shares}"
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def measure(frames: int, *, plain_frames: int) -> Speed:
    """Scan a generated clip both ways; the plain way over its first `plain_frames` frames.

    Raises:
        DeepscanError: the scan failed.
    """
    with tempfile.TemporaryDirectory(prefix="deepscan-speed-") as folder:
        clip = one_face_clip(Path(folder) / "clip.mp4", frames)
        options = ScanOptions()
        started = time.monotonic()
        with Scanner(options) as scanner:
            ready = time.monotonic()
            outputs = {
                kind: Path(folder) / f"out{suffix}"
                for kind, suffix in (
                    ("overlay", ".mp4"), ("masks", ".masks.mkv"), ("record", ".json"),
                    ("frames", ".frames.jsonl"), ("html", ".html"),
                )
            }  # fmt: skip
            outcome = scanner.scan(clip, outputs)
            scanned = time.monotonic() - ready
        if not isinstance(outcome, Scanned):
            raise DeepscanError(f"the generated clip was not scanned: {outcome.reason.text}")
        plain = plain_way(clip, Path(folder) / "plain.mp4", plain_frames, options)
        fast = frames / scanned
        return Speed(
            frames,
            plain,
            fast,
            fast / plain,
            ready - started,
            outcome.scan.verdict.engine.name,
            outcome.scan.report.decoder,
            dict(outcome.scan.timings),
        )


def one_face_clip(path: Path, frames: int) -> Path:
    """The public-domain portrait of scikit-image in 720p through a moving camera, with sound."""
    portrait = cv2.resize(data.astronaut()[:288], SIZE, interpolation=cv2.INTER_CUBIC)
    camera = handheld_camera(portrait, frames, np.random.default_rng(3))

    def picture(index: int) -> Image:
        return grain(camera.shoot(portrait, index), np.random.default_rng(index), 3.0, 1.3)

    return make_video(
        path, frames=frames, size=SIZE, rate=RATE, audio="aac", draw=picture, gop=50,
        options={"crf": "20", "preset": "veryfast"},
    )  # fmt: skip


def plain_way(clip: Path, out: Path, frames: int, options: ScanOptions) -> float:
    """Frames per second of the plain way."""
    import_torchvision()
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, min_face_size=options.min_face, device="cpu")
    model = load_model(read_card(options.model))
    started, done = time.monotonic(), 0
    with av.open(str(clip)) as source, av.open(str(out), "w") as sink:
        stream = sink.add_stream("libx264", rate=RATE)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for decoded in source.decode(video=0):
            if done == frames:
                break
            picture: Image = decoded.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
            boxes, _ = detector.detect(Pictures.fromarray(picture))
            for box in () if boxes is None else np.asarray(boxes, float):
                picture = _judge(picture, box, model, options.crop_scale)
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            done += 1
        sink.mux(stream.encode(None))
    return done / (time.monotonic() - started)


def _judge(picture: Image, box: np.ndarray, model: torch.nn.Module, scale: float) -> Image:
    x1, y1, x2, y2 = box
    side = scale * max(x2 - x1, y2 - y1)
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    square = (left, top, left + round(side), top + round(side))
    size = int(model.input_size)  # type: ignore[arg-type]
    crop = (
        Pictures.fromarray(picture).crop(square).resize((size, size), Pictures.Resampling.BILINEAR)
    )
    with torch.inference_mode():
        _, masks = model(torch.from_numpy(np.asarray(crop)[None].copy()))
    mask = cv2.resize(masks[0].numpy(), (square[2] - left, square[3] - top))
    whole = np.zeros(picture.shape[:2], np.float32)
    inside = (max(top, 0), min(square[3], SIZE[1]), max(left, 0), min(square[2], SIZE[0]))
    whole[inside[0] : inside[1], inside[2] : inside[3]] = mask[
        inside[0] - top : inside[1] - top, inside[2] - left : inside[3] - left
    ]
    red = np.array([213, 94, 0], np.float32)
    return (picture + (red - picture) * (0.5 * whole[..., None])).astype(np.uint8)
