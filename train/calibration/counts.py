"""Count verdicts on real deepfakes and real material, through the product's own scan.

`python -m train.calibration.counts CARD --devset DIR --data FOLDER --work WORK`

counts, at the operating point that stands in the card, which files of DIR (a set of real deepfakes,
see `train.evaluation.real_deepfakes`) and of the held-out material of FOLDER are called
manipulated, and writes the counts into the card; the calibration stays as it is. Nothing is ever
fitted on deepfakes. WORK keeps the scans: a broken run resumes, and after a new calibration nothing
is scanned again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from deepscan.engines.choose import build, parse_name
from deepscan.engines.engine import Engine
from deepscan.engines.hardware import detect_hardware
from deepscan.files import atomic_output
from deepscan.models.library import read_card
from deepscan.types import ModelInfo
from deepscan.verdict.calibration import Calibration, Material
from train.calibration.model_card import counted_table
from train.calibration.real_material import measure_real
from train.command import Progress, Threads, exit_on_error, show_progress, use_threads
from train.evaluation.real_deepfakes import Entry, read_manifest
from train.evaluation.scans import Seen, judge, scan_files
from train.forge.held_out import RealFile, real_files, was_unseen
from train.media import evenly

BESIDE = "real files beside these deepfakes"


def scan_deepfakes(
    folder: Path, engine: Engine, work: Path, key: str, progress: Progress = show_progress
) -> list[tuple[Entry, Seen]]:
    """Scan every file of a set of real deepfakes; raises as `read_manifest` and `scan_files`."""
    entries, _ = read_manifest(folder)
    files = [(entry.file, folder / entry.file) for entry in entries]
    seen = scan_files(files, engine, work / "deepfakes.jsonl", progress, key=key)
    return list(zip(entries, seen, strict=True))


def scan_real(
    data: Path, weights: Path, engine: Engine, work: Path, key: str,
    progress: Progress = show_progress, *, limit: int = 0,
) -> list[tuple[RealFile, Seen]]:  # fmt: skip
    """Scan the held-out material of a data folder; raises as `real_files` and `scan_files`.

    With a `limit` so many files of it, evenly chosen.
    """
    files = evenly(real_files(data, unseen=was_unseen(weights)), limit)
    named = [(file.name, file.path) for file in files]
    seen = scan_files(named, engine, work / "real.jsonl", progress, key=key)
    return list(zip(files, seen, strict=True))


def count_deepfakes(
    scanned: Sequence[tuple[Entry, Seen]], calibration: Calibration, model: ModelInfo
) -> tuple[Material, ...]:
    """A material for each set of fakes, the largest first, then all their real files as one."""
    alarms = [(entry, judge(seen, calibration, model).alarm) for entry, seen in scanned]

    def material(name: str, fake: bool, chosen: Sequence[tuple[Entry, float]]) -> Material:
        return Material(
            name, fake, len(chosen), len({entry.recording for entry, _ in chosen}),
            tuple(sorted(round(alarm, 6) for _, alarm in chosen if alarm <= 0.5)),
        )  # fmt: skip

    sets = sorted({entry.set for entry, _ in alarms if entry.fake})
    fakes = [material(s, True, [a for a in alarms if a[0].fake and a[0].set == s]) for s in sets]
    real = [each for each in alarms if not each[0].fake]
    beside = [material(BESIDE, False, real)] if real else []
    return (*sorted(fakes, key=lambda each: -each.files), *beside)


def open_engine(name: str, card: Any, threads: int = 0) -> Engine:
    """The engine to scan with; raises as `deepscan.engines.choose.build`."""
    return build(parse_name(name), card, detect_hardware(), "asked for", threads=threads or None)


def main(
    card: Annotated[Path, typer.Argument(help="Card of a model, NAME.json beside its weights")],
    devset: Annotated[Path, typer.Option(help="Folder of real deepfakes with manifest.csv")],
    data: Annotated[Path, typer.Option(help="Data folder with held-out pictures and clips")],
    work: Annotated[Path, typer.Option(help="Folder that keeps the scans")],
    engine: Annotated[str, typer.Option(help="Engine that scans")] = "openvino",
    threads: Threads = 0,
) -> None:
    """Count the files that a model calls manipulated, and write the counts into its card."""
    use_threads(threads)
    with exit_on_error("counts", ValueError):
        model = read_card(card.stem, card.parent)
        calibration = Calibration.from_card(model.values)
        runner = open_engine(engine, model, threads)
        try:
            key = f"{model.sha256} {runner.name}"
            fakes = scan_deepfakes(devset, runner, work, key)
            real = scan_real(data, card.with_suffix(".safetensors"), runner, work, key)
        finally:
            runner.close()
        found = (
            *count_deepfakes(fakes, calibration, model.info),
            *measure_real(real, calibration, model.info, fixed=True).materials,
        )
        values = json.loads(card.read_text("utf-8"))
        values["calibration"] |= {"made_of": "made clips", "material": [asdict(m) for m in found]}
        with atomic_output(card) as part:
            part.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", "utf-8")
    typer.echo(counted_table(found, calibration.rate))


if __name__ == "__main__":
    typer.run(main)
