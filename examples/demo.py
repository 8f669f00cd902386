"""The demo: `python -m examples.demo OUT` makes a clip, scans it, compares with the truth.

The clip shows the portrait of Eileen Collins (NASA, public domain, ships with scikit-image) through
a moving camera for six seconds, with sound. From second 2 to second 4 the face is manipulated in a
region that the demo knows: its inner part is redrawn at a low resolution and blended back with a
soft border. The scan knows nothing of that.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from skimage import data

from deepscan.cli.file_progress import open_progress
from deepscan.cli.text_answer import text_answer
from deepscan.errors import DeepscanError
from deepscan.faces.mtcnn import MTCNNDetector
from deepscan.options import ScanOptions
from deepscan.scan.scanner import Scanner
from deepscan.sinks.masks import read_masks
from deepscan.types import Face, Image, Scanned
from deepscan.wording import counted
from tests.media import make_video
from train.calibration.clips import Camera, handheld_camera
from train.forge.blend import blend
from train.forge.degrade import grain, sharpen
from train.forge.shape import draw, place

SECONDS, RATE = 6, 25
START, END = 2.0, 4.0  # seconds; manipulated between them
_SEED = 20


@dataclass(frozen=True, slots=True)
class Truth:
    """What was done: the mask of the manipulated region (H, W) bool in each frame from START on."""

    camera: Camera
    region: np.ndarray

    def mask(self, index: int) -> np.ndarray:
        """(H, W) bool; all False outside of the manipulated seconds."""
        if not START <= index / RATE < END:
            return np.zeros((self.camera.height, self.camera.width), bool)
        return self.camera.shoot(self.region, index) > 0.5


def portrait() -> Image:
    """The part of the portrait round the face, 640x480, the face about 180 pixels wide."""
    picture = data.astronaut()[10:250, 60:380]
    return cv2.resize(picture, (640, 480), interpolation=cv2.INTER_CUBIC)


def find_face(image: Image) -> Face:
    """The one face, with its landmarks.

    Raises:
        RuntimeError: the face detector finds none.
    """
    detector = MTCNNDetector(min_face=60, min_confidence=0.9, max_faces=4)
    try:
        faces = detector.detect(image).faces
    finally:
        detector.close()
    if not faces or faces[0].landmarks is None:
        raise RuntimeError("no face was found in the portrait: MTCNN does not work here")
    return faces[0]


def manipulate(image: Image) -> tuple[Image, np.ndarray]:
    """The manipulated picture and the soft mask of what was changed.

    Raises:
        RuntimeError: the face detector finds no face in the portrait.
    """
    height, width = image.shape[:2]
    mask = draw("inner face", place(np.array(find_face(image).landmarks)), height, width)
    mask = cv2.GaussianBlur(cv2.erode(mask, np.ones((9, 9))), (0, 0), 5)
    small = cv2.resize(image, None, fx=0.22, fy=0.22, interpolation=cv2.INTER_AREA)
    redrawn = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    redrawn = sharpen(redrawn, 0.8)
    redrawn = np.clip(redrawn.astype(np.int16) + np.array([5, 1, -4]), 0, 255).astype(np.uint8)
    return blend(redrawn, image, mask), mask


def make_clip(path: Path) -> Truth:
    """Write the clip; gives what only the demo knows."""
    image = portrait()
    forged, mask = manipulate(image)
    rng = np.random.default_rng(_SEED)
    camera = handheld_camera(image, SECONDS * RATE, rng)
    truth = Truth(camera, mask)

    def picture(index: int) -> Image:
        shown = forged if START <= index / RATE < END else image
        frame_rng = np.random.default_rng([_SEED, index])
        return grain(camera.shoot(shown, index), frame_rng, 2.0, 1.3)

    make_video(
        path,
        frames=SECONDS * RATE,
        size=(camera.width, camera.height),
        rate=RATE,
        audio="aac",
        draw=picture,
        gop=50,
        options={"crf": "20", "preset": "fast"},
    )
    return truth


@dataclass(frozen=True, slots=True)
class Comparison:
    """Found against true masks: pooled IoU over the manipulated seconds, share of judged pixels
    marked in the untouched seconds, and the overlap of the intervals in time (IoU)."""

    mask_iou: float
    false_pixels: float
    interval_iou: float


def compare(scanned: Scanned, truth: Truth) -> Comparison:
    """Hold the masks and intervals that a scan wrote against the truth."""
    path = next(output.path for output in scanned.outputs if output.kind == "masks")
    both = either = marked = judged = 0
    for frame in read_masks(path):
        found = frame.analysed & (np.nan_to_num(frame.probability) > 0.5)
        true = truth.mask(frame.index)
        if true.any():
            both += int((found & true).sum())
            either += int((found | true).sum())
        else:
            marked += int(found.sum())
            judged += int(frame.analysed.sum())
    spans = [(i.start, i.end) for i in scanned.scan.verdict.intervals]
    inside = sum(max(0.0, min(end, END) - max(start, START)) for start, end in spans)
    union = sum(end - start for start, end in spans) + (END - START) - inside
    return Comparison(both / max(either, 1), marked / max(judged, 1), inside / union)


def main(
    out: Annotated[Path, typer.Argument(help="Folder for the clip and what the scan makes of it")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar")] = False,
) -> None:
    """Make a clip with two manipulated seconds, scan it, and compare."""
    logging.basicConfig(level=logging.WARNING, format="demo: %(message)s")
    cv2.setNumThreads(0)
    out.mkdir(parents=True, exist_ok=True)
    clip = out / "clip.mp4"
    truth = make_clip(clip)
    typer.echo(f"made {clip}: {SECONDS} s with sound; seconds {START:g} to {END:g} manipulated\n")
    names = {
        "overlay": "result.mp4", "masks": "result.masks.mkv", "record": "result.json",
        "frames": "result.frames.jsonl", "html": "result.html",
    }  # fmt: skip
    outputs = {kind: out / name for kind, name in names.items()}
    try:
        with (
            open_progress(sys.stderr, quiet=quiet) as shown,
            Scanner(ScanOptions()) as scanner,
        ):
            outcome = scanner.scan(clip, outputs, force=True, progress=shown.of(clip))
    except DeepscanError as error:
        typer.echo(f"demo: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(text_answer(outcome))
    if not isinstance(outcome, Scanned):
        raise typer.Exit(2)
    result = compare(outcome, truth)
    typer.echo(
        f"\nfound against true: masks IoU {result.mask_iou:.2f}; intervals IoU "
        f"{result.interval_iou:.2f}; {result.false_pixels:.2%} of the judged pixels of the "
        f"untouched seconds are marked"
    )
    typer.echo(f"look at {outputs['overlay']} and {outputs['html']}")
    typer.echo(counted([outcome.label]))


if __name__ == "__main__":
    typer.run(main)
