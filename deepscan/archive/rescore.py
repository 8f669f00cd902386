"""Checks the scores of a record by scoring some of its frames again on this machine.

The allowed difference: each engine is within a tolerance of torch in fp32
(`deepscan.engines.parity`), so two engines may differ by the sum of both; and boxes are recorded to
a tenth of a pixel, which changed scores by at most 0.014 in the demo (`ROUNDING`). If a result has
no list of frames, the whole file is scanned again and the verdicts are compared.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepscan.archive.checks import CheckList, VerifiedRecord
from deepscan.archive.schema_check import violations
from deepscan.errors import DeepscanError, EngineError, ModelError, UsageError
from deepscan.files import resolve
from deepscan.options import Limits, ScanOptions

if TYPE_CHECKING:
    from deepscan.scan.scanner import Scanner
    from deepscan.types import Frame

ROUNDING = 0.02  # of a score: boxes are recorded to 0.1 pixels
MASK_DIFFERENCE = 0.05  # of P(manipulated), mean over the pixels of a frame that were analysed
MASK_OVERLAP = 0.7  # IoU of the pixels above 0.5, over all frames that were judged again
SEEN_OVERLAP = 0.85  # IoU of the analysed pixels: an edge may fall one pixel further
LEAST_MASK = 0.01  # share of analysed pixels above 0.5; for fewer the overlap is not compared
SHARE_DIFFERENCE = 0.1  # of the mask share of a face, where no masks were written

_LINE = 2**20  # bytes; a frame with 64 faces has 12 kB
_SHOWN = 3  # differences in one detail
_GONE = re.compile(r"nvdec|.+-int8")  # decoders and engines of records by earlier versions
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Make = Callable[[ScanOptions], "Scanner"]


def options_of(settings: Mapping[str, Any], engine: str) -> ScanOptions:
    """The settings of a record, with this engine and the default limits.

    Raises:
        UsageError: a setting is unknown to this version, or invalid.
    """
    # A record may come from anyone, so it must not set limits or disable isolation.
    own = {"engine", "isolate", "limits"}
    known = {each.name for each in fields(ScanOptions)} - own
    given = {
        name: value
        for name, value in settings.items()
        if not name.startswith("limits.") and name not in own
    }
    if unknown := sorted(given.keys() - known):
        raise UsageError(f"this version does not know the settings {', '.join(unknown)}")
    for name in ("model", "detector", "decoder"):
        if name in given and not _NAME.fullmatch(str(given[name])):
            raise UsageError(f"no {name} {given[name]!a}")
    return ScanOptions(**given, engine=engine, limits=Limits(), isolate=True)


def make_scanner(options: ScanOptions) -> Scanner:
    import deepscan.scan.scanner

    return deepscan.scan.scanner.Scanner(options)


class Scanners:
    """Loads one scanner for each combination of settings, when it is needed."""

    def __init__(self, make: Make, engine: str, held: ExitStack) -> None:
        self._make = make
        self._engine = engine
        self._held = held
        self._loaded: dict[ScanOptions, Scanner] = {}

    def of(self, record: Mapping[str, Any]) -> Scanner:
        """Raises what `options_of` and `Scanner` raise."""
        options = options_of({**record["settings"], "model": _model_of(record)}, self._engine)
        if options not in self._loaded:
            self._loaded[options] = self._held.enter_context(self._make(options))
        return self._loaded[options]


def _model_of(record: Mapping[str, Any]) -> Any:
    """The name of a model here with the weights of a record, else the name that it gives itself.

    Raises:
        UsageError: it was named by a path, which a record from anybody does not choose here.
    """
    from deepscan.models.library import is_path, list_cards

    named, model = record["settings"].get("model"), record["model"]
    here = [card.name for card, _ in list_cards() if card.sha256 == model["sha256"]]
    if named in here or not (here or is_path(str(named))):
        return named
    if not here:
        raise UsageError(
            f"the model {model['name']!a} (weights {str(model['sha256'])[:12]}) is not here: copy "
            "it into your folder with deepscan model import"
        )
    return here[0]


def check_scores(
    checks: CheckList,
    found: VerifiedRecord | None,
    frames: int,
    chance: random.Random,
    scanners: Scanners,
) -> None:
    """Judge some frames again, or the whole file if there is no list of frames."""
    if found is None:
        return
    record = found.record
    if record["model"] is None:
        checks.add("scores", "unchecked", "the record has no scores: nothing could be judged")
        return
    gone = [
        f"{what} {named}"
        for what, named in (
            ("decoder", record["decoder"]["name"]),
            ("engine", record["engine"]["name"]),
        )
        if _GONE.fullmatch(named)
    ]
    if gone:
        checks.add(
            "scores",
            "unchecked",
            f"scanned with {' and '.join(gone)}, which this version of deepscan no longer has: "
            "verify it with the version that wrote it, or scan the file again",
        )
        return
    if found.input is None:
        checks.add("scores", "unchecked", "the scanned file is missing or differs")
        return
    try:
        scanner = scanners.of(record)
        if scanner.engine.model.sha256 != record["model"]["sha256"]:
            checks.add(
                "scores",
                "unchecked",
                f"other weights are installed here ({scanner.engine.model.sha256[:12]}, recorded "
                f"is {record['model']['sha256'][:12]}): install the recorded version",
            )
        elif "frames" in found.outputs:
            _compare_frames(checks, found, found.input, frames, chance, scanner)
        else:
            _compare_verdicts(checks, found, found.input, scanner)
    except (EngineError, ModelError):
        raise  # it affects every file
    except DeepscanError as error:
        checks.add("scores", "unchecked", str(error))


def tolerance_between(recorded: str, present: str) -> float:
    """The allowed difference of two scores of one face, by the names of their engines."""
    from deepscan.engines.parity import score_tolerance

    return ROUNDING + score_tolerance(recorded) + score_tolerance(present)


def _compare_frames(
    checks: CheckList,
    found: VerifiedRecord,
    source: Path,
    count: int,
    chance: random.Random,
    scanner: Scanner,
) -> None:
    lines = _drawn(found, count, chance)
    if isinstance(lines, str):
        checks.add("scores", "differs", lines)
        return
    if not lines:
        checks.add("scores", "ok", "no frame holds a face that was judged")
        return
    allowed = tolerance_between(found.record["engine"]["name"], scanner.engine.name)
    worst, faces, wrong = 0.0, 0, []
    masks = _Masks(found.outputs.get("masks"), max(line["index"] for line in lines))
    for line, frame in read_frames(source, found.record, lines):
        if frame is None or frame.pts != line["pts"]:
            wrong.append(f"frame {line['index']} is not where it was recorded")
            continue
        if not all(_is_near(face["box"], frame) for face in line["faces"]):
            wrong.append(f"frame {line['index']} has a face that lies nowhere near the picture")
            continue
        judged = _judged(frame, line, scanner)
        for face, prediction in judged:
            faces += 1
            apart = abs(prediction.score - face["p_manipulated"])
            worst = max(worst, apart)
            if not apart <= allowed:
                wrong.append(
                    f"frame {line['index']}, face {face['track']}: {prediction.score:.3f} now, "
                    f"{face['p_manipulated']:.3f} recorded"
                )
            share = None if prediction.mask is None else float((prediction.mask > 0.5).mean())
            if (share is None) != (face["mask_share"] is None):
                wrong.append(f"frame {line['index']}: only one of two scans had a mask")
            elif share is not None and not abs(share - face["mask_share"]) <= SHARE_DIFFERENCE:
                shares = abs(share - face["mask_share"])
                wrong.append(f"frame {line['index']}: a mask share differs by {shares:.2f}")
        masks.take(frame, [prediction for _, prediction in judged])
    told = (
        f"{faces} faces in {len(lines)} frames judged again by {scanner.engine.name}: largest "
        f"difference {worst:.4f}, up to {allowed:g} allowed"
    )
    if wrong:
        told += f"; {'; '.join(wrong[:_SHOWN])}"
        told += f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    checks.add("scores", "differs" if wrong else "ok", told)
    masks.report(checks)


def _drawn(found: VerifiedRecord, count: int, chance: random.Random) -> list[dict[str, Any]] | str:
    """Draw lines with a judged face from the frame list, in order; or a text on what is wrong.

    Every such line has the same chance; only the drawn ones are kept in memory.
    """
    held: list[dict[str, Any]] = []
    seen = 0
    try:
        with found.outputs["frames"].open("rb") as file:
            number = 0
            while raw := file.readline(_LINE):
                number += 1
                line = json.loads(raw)
                wrong = next(violations(line, "frames-1"), None)
                if wrong is not None:
                    return f"line {number} of the frame list: {wrong}"
                if number == 1:
                    if line.get("input_sha256") != found.record["input"]["sha256"]:
                        return "the frame list is of another file"
                    if line["model_sha256"] != found.record["model"]["sha256"]:
                        return "the frame list is of other weights"
                    continue
                if "index" not in line:
                    return f"line {number} of the frame list is no frame"
                if not any(face["p_manipulated"] is not None for face in line["faces"]):
                    continue
                seen += 1
                if len(held) < count:
                    held.append(line)
                elif (place := chance.randrange(seen)) < count:
                    held[place] = line
            if not number:
                return "the frame list is empty"
    except (OSError, ValueError, RecursionError) as error:
        return f"the frame list cannot be read ({error})"
    return sorted(held, key=lambda line: int(line["index"]))


def read_frames(
    source: Path, record: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], Frame | None]]:
    """Yield each line with its frame, read by the recorded decoder; None if there is none."""
    from deepscan.options import Decoder
    from deepscan.video import open_video

    still = record["input"]["stream"] is not None and record["input"]["stream"]["still"]
    decoder: Decoder = "auto" if still else "pyav"
    if record["decoder"]["name"] == "decord":
        decoder = "decord"
    waiting = iter(lines)
    line = next(waiting, None)
    with open_video(resolve(source), decoder=decoder, limits=Limits(), isolate=True) as reader:
        for frame in reader.frames():
            while line is not None and frame.index > line["index"]:
                yield line, None
                line = next(waiting, None)
            if line is None:
                return
            if frame.index == line["index"]:
                yield line, frame
                line = next(waiting, None)
                if line is None:
                    return
    while line is not None:
        yield line, None
        line = next(waiting, None)


def _is_near(box: Sequence[float], frame: Frame) -> bool:
    """True if a recorded box is plausible: a list may come from anyone."""
    height, width = frame.image.shape[:2]
    x1, y1, x2, y2 = box
    reach = 2.0 * max(height, width)
    return all(-reach <= side <= 2 * reach for side in box) and x1 < x2 and y1 < y2


def _judged(frame: Frame, line: Mapping[str, Any], scanner: Scanner) -> list[tuple[Any, Any]]:
    """Judge the recorded faces of a frame again; returns each with its new prediction."""
    import numpy as np

    from deepscan.engines.parity import predict_all
    from deepscan.faces.crop import cut, square
    from deepscan.faces.turned import turn_picture
    from deepscan.types import Box, Face, FaceCrop, FacePrediction

    engine, scale = scanner.engine, scanner.options.crop_scale
    faces = [face for face in line["faces"] if face["p_manipulated"] is not None]
    boxes = [square(Box(*face["box"]), scale) for face in faces]
    turns = [face.get("turn", 0) for face in faces]
    crops = [
        turn_picture(cut(frame.image, box, engine.input_size), turn)
        for box, turn in zip(boxes, turns, strict=True)
    ]
    found = predict_all(engine, np.stack(crops))
    return [
        (
            face,
            FacePrediction(
                FaceCrop(Face(Box(*face["box"]), 1.0, turn=turn), box, crop, 0.0),
                float(score),
                None if found.masks is None else turn_picture(found.masks[place], -turn),
            ),
        )
        for place, (face, box, turn, crop, score) in enumerate(
            zip(faces, boxes, turns, crops, found.scores, strict=True)
        )
    ]


class _Masks:
    """Compares new masks with the recorded mask video, which is read as untrusted."""

    def __init__(self, path: Path | None, last: int) -> None:
        self._path = path
        self._last = last
        self._new: dict[int, Any] = {}

    def take(self, frame: Frame, predictions: Sequence[Any]) -> None:
        if self._path is None:
            return
        from deepscan.sinks.masks import to_levels
        from deepscan.types import FrameResult

        height, width = frame.image.shape[:2]
        self._new[frame.index] = to_levels(FrameResult(frame, tuple(predictions)), height, width)

    def report(self, checks: CheckList) -> None:
        """Add a check of the masks.

        Raises:
            VideoError: the mask video cannot be read.
        """
        if self._path is None or not self._new:
            return
        import numpy as np

        from deepscan.sinks.masks import STEPS
        from deepscan.video import open_video

        wrong: list[str] = []
        mean = overlap = 0.0
        both = either = analysed = compared = 0
        least = 1.0
        with open_video(
            resolve(self._path), decoder="pyav", limits=Limits(), isolate=True
        ) as reader:
            for frame in reader.frames():
                new = self._new.get(frame.index)
                if new is not None:
                    compared += 1
                    old = frame.image[..., 0]  # grey: all three channels are the level
                    if old.shape != new.shape:
                        wrong.append(f"frame {frame.index} has another size")
                        continue
                    seen = (old > 0) & (new > 0)
                    least = min(least, seen.sum() / max(1, ((old > 0) | (new > 0)).sum()))
                    apart = np.abs(old.astype(np.int16) - new)[seen] / STEPS
                    mean = max(mean, float(apart.mean()) if apart.size else 0.0)
                    before, now = old > STEPS // 2 + 1, new > STEPS // 2 + 1
                    both += int((before & now).sum())
                    either += int((before | now).sum())
                    analysed += int(seen.sum())
                if frame.index >= self._last:
                    break
        if compared < len(self._new):
            wrong.append(f"{len(self._new) - compared} frames are missing in the mask video")
        if mean > MASK_DIFFERENCE:
            wrong.append(f"over {MASK_DIFFERENCE:g}")
        if least < SEEN_OVERLAP:
            wrong.append(f"other pixels were analysed (overlap {least:.2f})")
        overlap = both / either if either else 1.0
        if either > LEAST_MASK * analysed and overlap < MASK_OVERLAP:
            wrong.append(f"other pixels are marked (overlap {overlap:.2f})")
        told = f"{compared} frames: largest mean difference of a frame {mean:.4f}"
        told += f", overlap of what is marked {overlap:.2f}" if either else ", nothing is marked"
        checks.add("masks", "differs" if wrong else "ok", "; ".join([told, *wrong]))


def _compare_verdicts(
    checks: CheckList, found: VerifiedRecord, source: Path, scanner: Scanner
) -> None:
    """Scan the whole file again: without a list of frames the places of its faces are unknown."""
    from deepscan.types import Skipped

    if scanner.options.budget is not None:
        checks.add("scores", "unchecked", "a scan with a budget ends at another place each time")
        return
    again = scanner.scan(source)
    verdict = found.record["verdict"]
    if isinstance(again, Skipped):
        label, score, intervals = again.label, None, 0
    else:
        judged = again.scan.verdict
        label, score, intervals = judged.label, judged.score, len(judged.intervals)
    recorded = verdict["p_manipulated"]
    allowed = tolerance_between(found.record["engine"]["name"], scanner.engine.name)
    wrong = []
    if label != verdict["label"]:
        wrong.append(f"the verdict is {label} now, recorded is {verdict['label']}")
    if (score is None) != (recorded is None):
        wrong.append(f"P(manipulated) is {score} now, recorded is {recorded}")
    apart = abs(score - recorded) if score is not None and recorded is not None else 0.0
    if apart > allowed:
        wrong.append(f"P(manipulated) is {score:.3f} now, recorded is {recorded:.3f}")
    if intervals != len(verdict["intervals"]):
        wrong.append(f"{intervals} intervals now, recorded are {len(verdict['intervals'])}")
    told = f"the whole file scanned again by {scanner.engine.name}: {label}, "
    told += f"P(manipulated) differs by {apart:.4f}, up to {allowed:g} allowed"
    checks.add("verdict again", "differs" if wrong else "ok", "; ".join([told, *wrong]))
