"""Evaluation of a network on a data set, with intervals.

`python -m train.evaluation.evaluate WEIGHTS --data DIR --dataset NAME --out evaluation.json`

WEIGHTS is a safetensors file as `train.train` writes it, or a model's card (JSON beside its
weights). Every measure of `train.evaluation.metrics`, for each manipulation against all real crops
and for all together, with intervals; beside it a control that sees colours only, and, asked for,
sweeps over corruptions. A table goes to stdout, everything to a JSON file. `--dataset forged`
makes the fakes: held-out people of a folder of faces through the forges.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from deepscan.errors import ModelError, UsageError, VideoError
from deepscan.files import atomic_output
from deepscan.models.card import Card
from deepscan.models.deploy import Deployed
from deepscan.models.library import read_card
from deepscan.models.weights import load_model
from train.command import Device, Pack, Threads, check_folder_of, exit_on_error, use_threads
from train.datasets import DATASETS, VideoKey, open_dataset
from train.datasets.sample import REAL
from train.distributed import join
from train.evaluation.corruptions import CORRUPTIONS, sweep
from train.evaluation.crops import READING, Crop, Faces, Reading, choose, mtcnn, read_crops
from train.evaluation.predict import NetworkPredictor, Prediction, Predictor, predict
from train.evaluation.summary import brief, by_manipulation, summarise
from train.forge import FORGES, without_pack
from train.forge.faces import read_faces
from train.forge.pairs import PairStream
from train.media import evenly
from train.recipe import parse_recipe

log = logging.getLogger(__name__)
FORMAT = "deepscan-evaluation/1"
MADE = "forged"
_SEED = 7_000_003  # of the made data; that of train.evaluation.validation, so that figures compare


def read_network(path: Path) -> tuple[Deployed, dict[str, Any]]:
    """Load a network from weights or a card, with its identity.

    Raises:
        ModelError: the file is missing, damaged or of no network of ours.
    """
    if path.suffix == ".json":
        card = read_card(path.stem, path.parent)
        kept = {key: card.values[key] for key in ("config", "training") if key in card.values}
        return load_model(card), {"name": card.name, "sha256": card.sha256, **kept}
    from safetensors import SafetensorError, safe_open

    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
        config = json.loads(metadata["config"])
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"weights {path} cannot be read: {error}") from error
    except KeyError:
        raise ModelError(
            f"weights {path} do not say of which network they are: expected metadata 'config' as "
            "train.train and train.convert write it"
        ) from None
    model = load_model(Card(path.stem, path, sha256, {"config": config}))
    training = {key: value for key, value in metadata.items() if key != "config"}
    return model, {"name": path.stem, "sha256": sha256, "config": config, "training": training}


def forged_crops(
    folder: Path, split: str, forges: Sequence[str], size: int, pack: Path | None = None
) -> Iterator[Crop]:
    """Each person of a split through each forge, degraded, beside the original degraded alike.

    Raises:
        UsageError: the folder lacks what `read_faces` needs, or a forge needs the pack `pack`.
    """
    people = read_faces(folder, split, pack)
    length = len(people) * len(forges)
    stream = PairStream(people, dict.fromkeys(forges, 1.0), size=size, seed=_SEED, length=length)
    for number, forge in enumerate(forges):
        for index, person in enumerate(people):
            place = number * len(people) + index
            pair = stream.pair(place, person=index, forge=forge)
            group = VideoKey(MADE, REAL, person.person)
            fake = VideoKey(MADE, forge, person.person)
            area = float(size * size)
            yield Crop(fake, group, index, 1, pair.forged, pair.mask, area)
            yield Crop(group, group, place, 0, pair.original, pair.mask * 0, area)


class Crops:
    """The crops of a data set, read again for every pass; remembers the videos that gave none."""

    def __init__(
        self,
        data: Path,
        name: str,
        split: str,
        *,
        compression: str,
        manipulations: Sequence[str],
        reading: Reading,
        device: str,
    ) -> None:
        """
        Raises:
            UsageError: the data set, split, compression or a manipulation is not there.
        """
        self._samples = choose(open_dataset(name, data), split, compression, manipulations)
        self._reading = reading
        self._find = mtcnn(reading)
        self.reasons: dict[VideoKey, str] = {}
        self._labels = {sample.video: sample.label for sample in self._samples}
        self._seen: set[VideoKey] = set()

    def __iter__(self) -> Iterator[Crop]:
        for sample in self._samples:
            try:
                for crop in read_crops(sample, self._reading, self._find):
                    self._seen.add(crop.video)
                    yield crop
            except VideoError as error:
                log.warning("%s: %s", sample.video, error)
                self.reasons[sample.video] = str(error)

    @property
    def failed(self) -> dict[VideoKey, int]:
        """Videos without any crop after a pass, with their labels."""
        return {key: label for key, label in self._labels.items() if key not in self._seen}


def robustness(
    crops: Sequence[Crop], network: Predictor, names: list[str], batch: int
) -> list[dict[str, Any]]:
    """Frame AUC and mask IoU at every level of the named corruptions, the untouched crops first."""
    rows = [
        {"disturbance": "none", "level": 0.0, **brief(list(predict(crops, network, batch=batch)))}
    ]
    for name, level, change in sweep(names):
        predictions = list(predict(crops, network, batch=batch, change=change))
        rows.append({"disturbance": name, "level": level, **brief(predictions)})
    return rows


def evaluation_table(joint: dict[str, Any], kinds: dict[str, dict[str, Any]]) -> Table:
    """One row a manipulation, one for all together."""
    table = Table(title="per manipulation, each with all real crops")
    columns = (
        ("crops", "crops"), ("ACC", "image.accuracy"), ("AUC", "image.auc"),
        ("F1", "image.macro_f1"), ("EER", "image.eer"), ("AP", "image.average_precision"),
        ("video AUC", "video_auc.mean"), ("pixel ACC", "pixel.accuracy"),
        ("F1", "pixel.macro_f1"), ("mIoU", "pixel.miou"), ("MCC", "pixel.mcc"),
        ("IoU fake", "pixel.iou_fake"), ("PBCA", "pbca"), ("IINC?", "iinc_unverified"),
        ("colours AUC", "colour_auc"),
    )  # fmt: skip
    table.add_column("manipulation")
    for title, _ in columns:
        table.add_column(title, justify="right")
    for name, values in [*kinds.items(), ("all", joint)]:
        table.add_row(name, *(_cell(values, path) for _, path in columns))
    return table


def robustness_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="corrupted")
    for title in ("disturbance", "level", "AUC", "IoU fake"):
        table.add_column(title, justify="right" if title != "disturbance" else "left")
    for row in rows:
        known = CORRUPTIONS.get(row["disturbance"])
        name = row["disturbance"] + (f" ({known.unit})" if known else "")
        level = f"{row['level']:g}" if known else ""
        table.add_row(name, level, _cell(row, "auc"), _cell(row, "iou_fake"))
    return table


def _cell(values: dict[str, Any], path: str) -> str:
    found: Any = values
    for key in path.split("."):
        found = None if found is None else found.get(key)
    if found is None:
        return "-"
    return str(found) if isinstance(found, int) else f"{found:.3f}"


def evaluate(
    network: Predictor,
    crops: Iterable[Crop],
    *,
    sweeps: list[str],
    sweep_crops: int = 400,
    rounds: int = 1000,
    batch: int = 16,
) -> dict[str, Any]:
    """All figures of a network on some crops: joint, by manipulation, corrupted.

    Raises:
        UsageError: there are no crops, or of one class only where a sweep needs both.
    """
    predictions: list[Prediction] = list(predict(crops, network, batch=batch))
    failed = crops.failed if isinstance(crops, Crops) else {}
    if not predictions:
        raise UsageError("no crop could be predictions: there is nothing to measure")
    values: dict[str, Any] = {
        "joint": summarise(predictions, failed, rounds=rounds),
        "manipulations": by_manipulation(predictions, failed, REAL, rounds=rounds),
        "failed": _failed(crops),
        "robustness": [],
    }
    if sweeps:
        if len({one.label for one in predictions}) < 2:
            raise UsageError("a sweep needs real and manipulated crops; there is one class only")
        values["robustness"] = robustness(
            _some(crops, predictions, sweep_crops), network, sweeps, batch
        )
    return values


def _failed(crops: Iterable[Crop]) -> list[dict[str, str]]:
    if not isinstance(crops, Crops):
        return []
    return [
        {"video": str(key), "reason": crops.reasons.get(key, "no face was found")}
        for key in crops.failed
    ]


def _some(crops: Iterable[Crop], predictions: Sequence[Prediction], most: int) -> list[Crop]:
    """Limit crops to a number, evenly over each class."""
    chosen: set[int] = set()
    for label in (0, 1):
        places = [place for place, one in enumerate(predictions) if one.label == label]
        chosen.update(evenly(places, max(1, most // 2) if most else 0))
    return [crop for place, crop in enumerate(crops) if place in chosen]


def main(
    weights: Annotated[Path, typer.Argument(help="NAME.safetensors, or a model's card NAME.json")],
    data: Annotated[Path, typer.Option(help="Folder of the data set, or of faces")],
    dataset: Annotated[str, typer.Option(help=f"{MADE}, or one of: {', '.join(DATASETS)}")],
    out: Annotated[Path, typer.Option(help="JSON file for all figures")] = Path("evaluation.json"),
    split: Annotated[str, typer.Option(help=f"Default: test; val for {MADE}")] = "",
    compression: Annotated[str, typer.Option(help="Compression, if the set has several")] = "",
    manipulation: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this manipulation, or forge of made data (repeatable); default: all"
        ),
    ] = None,
    pack: Pack = None,
    faces: Annotated[
        str, typer.Option(help=f"Pictures as given, or faces found: {', '.join(get_args(Faces))}")
    ] = "given",
    frames: Annotated[int, typer.Option(min=0, help="Frames per video; 0: all")] = READING.frames,
    first: Annotated[
        int, typer.Option(min=1, help="Use only the first N frames of a video")
    ] = READING.first,
    scale: Annotated[float, typer.Option(help="Crop side over found face")] = READING.scale,
    min_face: Annotated[int, typer.Option(help="Smallest face, in pixels")] = READING.min_face,
    sweep: Annotated[
        list[str] | None, typer.Option(help=f"all, or one of: {', '.join(CORRUPTIONS)}; repeat")
    ] = None,
    sweep_crops: Annotated[int, typer.Option(min=0, help="Crops per sweep; 0: all")] = 400,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the bootstrap")] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Crops per batch")] = 16,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Measure a network on a data set."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    use_threads(threads)
    with exit_on_error("evaluate"):
        sweeps = _sweeps(sweep or [])
        if faces not in get_args(Faces):
            raise UsageError(f"no --faces {faces!r}; there are {', '.join(get_args(Faces))}")
        check_folder_of(out)
        model, name = read_network(weights)
        split = split or ("val" if dataset == MADE else "test")
        settings: dict[str, Any] = {"dataset": dataset, "split": split}
        crops: Iterable[Crop]
        if dataset == MADE:
            forges = _forges(manipulation, name, pack is not None)
            crops = list(forged_crops(data, split, forges, model.input_size, pack))
            settings["forges"] = forges
        else:
            reading = Reading(frames, first, faces, scale, min_face)  # type: ignore[arg-type]
            crops = Crops(
                data, dataset, split, compression=compression,
                manipulations=manipulation or [], reading=reading, device=device.split(":")[0],
            )  # fmt: skip
            settings |= {
                "compression": compression, "faces": faces, "frames": frames, "first": first,
                "scale": scale, "min_face": min_face,
            }  # fmt: skip
        with join(device):
            values = evaluate(
                NetworkPredictor(model, device), crops,
                sweeps=sweeps, sweep_crops=sweep_crops, rounds=rounds, batch=batch,
            )  # fmt: skip
    values = {"format": FORMAT, "model": name, "data": settings, **values}
    with exit_on_error("evaluate"), atomic_output(out) as part:
        part.write_text(json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n")
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file or pipe: columns must not wrap
    console.print(evaluation_table(values["joint"], values["manipulations"]))
    if values["robustness"]:
        console.print(robustness_table(values["robustness"]))
    if values["failed"]:
        console.print(f"{len(values['failed'])} videos gave no crop and count 0.5 as a video")


def _sweeps(asked: list[str]) -> list[str]:
    if "all" in asked:
        return list(CORRUPTIONS)
    for name in asked:
        if name not in CORRUPTIONS:
            raise UsageError(f"no corruption {name!r}; there are all, {', '.join(CORRUPTIONS)}")
    return asked


def _forges(asked: list[str] | None, model: dict[str, Any], pack: bool) -> list[str]:
    """The forges asked for, else those that the model was trained with, else all that can be."""
    for name in asked or []:
        if name not in FORGES:
            raise UsageError(f"no forge {name!r}; there are {', '.join(FORGES)}")
    if asked:
        return asked
    recipe = model.get("training", {}).get("recipe")
    trained = sorted(parse_recipe(recipe).forges) if recipe else []
    return trained or (sorted(FORGES) if pack else without_pack())


if __name__ == "__main__":
    typer.run(main)
