"""The baseline of the speed figures: a scan of a video as the field's scripts do it.

The face detector on every full frame, one crop at a time through eager torch in fp32, the mask
blended over the frame, everything in one thread.
"""

from __future__ import annotations

import time
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from PIL import Image as Pictures

from deepscan.models.library import read_card
from deepscan.models.torchvision_compat import import_torchvision
from deepscan.models.weights import load_model
from deepscan.options import ScanOptions
from deepscan.types import Image


def scan_plainly(
    clip: Path, out: Path, frames: int, size: tuple[int, int], options: ScanOptions
) -> tuple[float, float]:
    """Frames per second and CPU milliseconds a frame of the baseline.

    It takes the first `frames` frames of a clip of `size` (width, height), upright.
    """
    import_torchvision()
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, min_face_size=options.min_face, device="cpu")
    model = load_model(read_card(options.model))
    started, spent, done = time.monotonic(), time.process_time(), 0
    with av.open(str(clip)) as source, av.open(str(out), "w") as sink:
        stream = sink.add_stream("libx264", rate=source.streams.video[0].average_rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for decoded in source.decode(video=0):
            if done == frames:
                break
            picture: Image = decoded.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
            picture = np.ascontiguousarray(np.rot90(picture, decoded.rotation // 90))
            boxes, _ = detector.detect(Pictures.fromarray(picture))
            for box in () if boxes is None else np.asarray(boxes, float):
                picture = _judge(picture, box, model, options.crop_scale)
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            done += 1
        sink.mux(stream.encode(None))
    spent = time.process_time() - spent
    return done / (time.monotonic() - started), 1000 * spent / done


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
    height, width = picture.shape[:2]
    whole = np.zeros((height, width), np.float32)
    inside = (max(top, 0), min(square[3], height), max(left, 0), min(square[2], width))
    whole[inside[0] : inside[1], inside[2] : inside[3]] = mask[
        inside[0] - top : inside[1] - top, inside[2] - left : inside[3] - left
    ]
    red = np.array([213, 94, 0], np.float32)
    return (picture + (red - picture) * (0.5 * whole[..., None])).astype(np.uint8)
