"""Measure, calibrate and certify weights before they ship.

`python -m train.calibration.certify WEIGHTS --data FACES --devset DIR --replaces CARD --out FOLDER`

Measures crops and made clips of people that training never saw, and calibrates on them. Checks the
calibration on real pictures and clips, which make the operating point stricter where they raise too
many alarms. Counts the real deepfakes of DIR that are found (nothing is fitted on them). Measures
groups of people, and whether the network uses the source of a picture.

FOLDER receives the weights with their card and its controls, the made clips and scans (a stopped
run is resumed), tables as CSV, and docs/ with the model card and the reliability diagram. Weights
that fail a check end with exit code 1 and the reasons; `--install` makes weights that pass the ones
that ship. Weights that learned a data set are measured on its held-out part (`pairs.py`) and never
become the default.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from deepscan.engines.choose import REFERENCE
from deepscan.engines.parity import selftest_values
from deepscan.errors import ModelError, UsageError
from deepscan.models.weights import load_model
from deepscan.verdict.estimate import BandMinimum
from examples.control_crops import add_controls
from train.calibration.certification import failures, install
from train.calibration.clips import CODECS
from train.calibration.counts import count_deepfakes, scan_deepfakes, scan_real
from train.calibration.fit import Calibrated, calibrated, population_of
from train.calibration.leave_out import read_table, summary
from train.calibration.model_card import Cost, model_card
from train.calibration.pairs import certify_pairs
from train.calibration.real_material import measure_real
from train.calibration.reliability import draw, reliability
from train.calibration.shortcut_test import shortcut_test
from train.calibration.subgroups import by_subgroup, read_sexes
from train.calibration.synthetic_validation import FRAMES, Clip, ClipPlan, make_clips
from train.calibration.weights_card import (
    Weights,
    card_of,
    engine_of,
    open_weights,
    read_metadata,
    write_card,
)
from train.command import Pack, Threads, exit_on_error, show_progress, use_threads
from train.evaluation.evaluate import read_network
from train.evaluation.metrics import as_json
from train.evaluation.predict import NetworkPredictor
from train.evaluation.real_deepfakes import (
    find_faces,
    headline,
    read_looks,
    read_manifest,
    score,
    summarise,
)
from train.evaluation.validation import Validation, validate
from train.forge.faces import REAL, read_faces
from train.media import evenly


@dataclass(frozen=True, slots=True)
class CertifyOptions:
    """Settings of the measurements, their material, and the cost of training.

    `rounds` are those of every bootstrap, `people` a limit on the pictures (0: all), `leave_out` a
    table of train.calibration.leave_out.
    """

    plan: ClipPlan
    engine: str = REFERENCE
    threads: int = 0
    rounds: int = 500
    people: int = 0
    minimum: BandMinimum = field(default_factory=BandMinimum)
    edits_in_fit: bool = True
    leave_out: Path | None = None
    pack: Path | None = None
    cost: Cost = field(default_factory=Cost)
    scanner: str = "openvino"
    devset: Path | None = None
    looks: Path | None = None
    replaces: Path | None = None


def certify(weights: Path, data: Path, out: Path, options: CertifyOptions) -> dict[str, Any]:
    """Measure everything, write cards, tables and diagram; returns the card.

    Its "certification" lists the failed checks.

    Raises:
        UsageError: the weights, the folder or a table are not as expected.
        ModelError, EngineError: the weights do not fit, or the engine does not run here.
        ValueError: too few people or clips for a measure.
    """
    opened = open_weights(weights, data, people=options.people, pack=options.pack)
    model = load_model(opened.card({"auc": {}, "data": ""}))
    with _Timed("crops"):
        validation = validate(model, opened.people, opened.forges)
    show_progress(f"  {validation}")
    runner = engine_of(opened, validation, options.engine, options.threads)
    try:
        with _Timed("clips"):
            clips = make_clips(
                opened.people, sorted(opened.forges), runner, show_progress, plan=options.plan,
                cache=out / "clips.jsonl", key=f"{opened.key} {runner.name}",
            )  # fmt: skip
    finally:
        runner.close()
    reference = engine_of(opened, validation, REFERENCE, options.threads)
    selftest = selftest_values(reference)
    reference.close()
    with _Timed("calibration, real pictures and clips, real deepfakes"):
        found, asked = _calibrated(opened, clips, validation, out, options)
    show_progress(
        f"  {found.rates}; {len(found.calibration.every_band)} bands; care {found.care:g}"
    )
    with _Timed("reliability, groups, sources"):
        diagram = reliability(clips, found.verdicts, rounds=options.rounds)
        extra: dict[str, Any] = {
            "reliability": diagram.plain(),
            "groups": by_subgroup(opened.people, clips, found.verdicts, read_sexes(data)),
            "sources": _sources(opened, model, options),
            "leave_out": _left_out(options.leave_out),
            "real_material": asked,
            "real_deepfakes": _real_deepfakes(opened, out, options),
            "made": {
                "takes": options.plan.takes,
                "edits": options.plan.edits,
                "frames": options.plan.frames,
                "codecs": sorted(set(options.plan.codecs)),
                "moving": options.plan.moving,
                "edits_in_fit": options.edits_in_fit,
            },
        }
    with _Timed("tables"):
        card = card_of(
            opened, validation=validation, found=found, clips=clips, selftest=selftest,
            rounds=options.rounds, extra=extra,
        )  # fmt: skip
        card["cost"] = asdict(options.cost)
        write_tables(out / "tables", card, found, clips)
    replaced = None if options.replaces is None else json.loads(options.replaces.read_text("utf-8"))
    failed = failures(card, replaced)
    path = write_card(opened, card, out)
    try:
        add_controls(path)
        notes = []
    except ModelError as error:
        # A run uses the crops of the self-test instead, so this is no failure.
        notes = [f"no control crops: {error}"]
    card = json.loads(path.read_text("utf-8"))
    card["certification"] = {
        "passed": not failed, "failed": failed, "notes": notes,
        "replaces": (replaced or {}).get("name"),
    }  # fmt: skip
    write_card(opened, card, out)
    docs = out / "docs"
    docs.mkdir(exist_ok=True)
    for suffix in (".svg", ".png"):
        draw(diagram, docs / f"reliability{suffix}", f"{weights.stem}: people held out of the fit")
    (docs / "model-card.md").write_text(model_card(card), "utf-8")
    return card


def _calibrated(
    opened: Weights,
    clips: Sequence[Clip],
    validation: Validation,
    out: Path,
    options: CertifyOptions,
) -> tuple[Calibrated, dict[str, Any]]:
    """Calibrate on made clips, as strictly as real material needs, with all counts."""
    population = population_of(clips, edits_in_fit=options.edits_in_fit)
    first = calibrated(
        clips, population, minimum=options.minimum, edits_in_fit=options.edits_in_fit
    )
    runner = engine_of(opened, validation, options.scanner, options.threads)
    key = f"{opened.sha256} {runner.name}"
    try:
        real = scan_real(opened.data, opened.path, runner, out, key, limit=options.people)
        fakes = [] if options.devset is None else scan_deepfakes(options.devset, runner, out, key)
    finally:
        runner.close()
    # Another check tests whether the AUC of the model is high enough.
    model = replace(runner.model, auc=1.0)
    asked = measure_real(real, first.calibration, model)
    found = calibrated(
        clips, population, minimum=options.minimum, edits_in_fit=options.edits_in_fit,
        real=asked.care,
    )  # fmt: skip
    counted = count_deepfakes(fakes, found.calibration, model)
    material = (*counted, *asked.materials)
    report = {"care": asdict(asked.care), "sources": asked.sources, "engine": runner.name}
    return replace(found, calibration=replace(found.calibration, material=material)), report


def _real_deepfakes(opened: Weights, out: Path, options: CertifyOptions) -> dict[str, Any] | None:
    """AUC, pairs and masks on the set of real deepfakes; None where none was given."""
    if options.devset is None:
        return None
    kept = out / "real-deepfakes.json"
    steps = read_looks(options.looks)
    looked = {"looks": len(steps), "steps": steps}
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_text("utf-8"))
        if found["sha256"] == opened.sha256:
            return found | looked
    entries, masks = read_manifest(options.devset)
    boxes = find_faces(options.devset, entries, masks, out / "faces.json")
    network = NetworkPredictor(read_network(opened.path)[0])
    table = summarise(score(network, options.devset, entries, masks, boxes))
    found = {
        "sha256": opened.sha256,
        "headline": headline(table),
        "sets": as_json(table),
        **looked,
    }
    kept.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    return found


def _sources(opened: Weights, model: Any, options: CertifyOptions) -> dict[str, Any] | None:
    """Run the shortcut test; None, with a message, if the pictures are of too few sources."""
    people = evenly(read_faces(opened.data, REAL), options.people)
    try:
        return shortcut_test(model, people, opened.data, rounds=options.rounds)
    except ValueError as error:
        show_progress(f"  sources: {error}")
        return None


def _left_out(table: Path | None) -> dict[str, Any] | None:
    """Summarise all rows of the table; of two trainings for one row the later one counts."""
    rows = [] if table is None else read_table(table)
    return summary(list({(row["tested"], row["left_out"]): row for row in rows}.values()))


def write_tables(
    folder: Path, card: Mapping[str, Any], found: Calibrated, clips: Sequence[Clip]
) -> None:
    """Write the card's tables as CSV, and the verdict on each clip."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = card["evaluation"]
    for name, table in (
        ("slices", evaluation["slices"]),
        ("harmless", evaluation["harmless"]),
        ("groups-tone", evaluation["groups"]["tone"]),
        ("groups-source", evaluation["groups"]["source"]),
        ("groups-sex", evaluation["groups"]["sex"] or {}),
        ("sources", (evaluation["sources"] or {}).get("by_source", {})),
    ):
        _write(folder / f"{name}.csv", [{"name": key, **_flat(row)} for key, row in table.items()])
    bins = [_flat(one) for one in evaluation["reliability"]["bins"]]
    _write(folder / "reliability.csv", bins)
    _write(
        folder / "clips.csv",
        [
            {
                "person": clip.person, "source": clip.source, "forge": clip.forge,
                "edit": clip.edit, "codec": clip.codec, "crf": clip.crf,
                "face": f"{clip.face:.0f}", "label": str(one.label),
                "llr": "" if one.llr is None else f"{one.llr:.3f}",
            }
            for clip, one in zip(clips, found.verdicts, strict=True)
        ],
    )  # fmt: skip


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested {value, low, high} to columns."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= {key if part == "value" else f"{key}_{part}": v for part, v in value.items()}
        else:
            flat[key] = value
    return flat


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class _Timed:
    """Print the name of a step as it begins, and its seconds as it ends."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._begun = time.monotonic()
        show_progress(f"{self._name} ...")

    def __exit__(self, *_: object) -> None:
        show_progress(f"{self._name}: {time.monotonic() - self._begun:.0f} s")


def main(
    weights: Annotated[Path, typer.Argument(help="NAME.safetensors as train.train wrote it")],
    data: Annotated[
        Path, typer.Option(help="Folder of faces with provenance.csv, or the data set of training")
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights, card, clips and tables")],
    devset: Annotated[
        Path | None, typer.Option(help="Real deepfakes with manifest.csv: counted, never fitted")
    ] = None,
    replaces: Annotated[
        Path | None, typer.Option(help="Card of the default that these weights would replace")
    ] = None,
    looks: Annotated[
        Path | None, typer.Option(help="CSV of all looks at the real deepfakes")
    ] = Path("train/results/real-deepfakes-looks.csv"),
    install_to: Annotated[
        Path | None, typer.Option("--install", help="Checkout to install certified weights in")
    ] = None,
    takes: Annotated[
        int, typer.Option(min=1, help="Untouched and forged clips of every picture")
    ] = 2,
    edits: Annotated[int, typer.Option(min=0, help="Edited clips of every picture")] = 2,
    frames: Annotated[int, typer.Option(help="Frames of a clip, at 12 a second")] = FRAMES,
    codecs: Annotated[
        str, typer.Option(help=f"Codecs in turn, separated by commas: {', '.join(CODECS)}")
    ] = "h264,h264,h265,vp9,av1",
    moving: Annotated[
        bool, typer.Option(help="Heads turn and forges are made in every frame; slower")
    ] = True,
    leaning: Annotated[
        float, typer.Option(min=0, max=1, help="Share of takes in which the head leans")
    ] = 0.4,
    engine: Annotated[str, typer.Option(help="Engine that judges the clips")] = REFERENCE,
    scanner: Annotated[
        str, typer.Option(help="Engine that scans real material and deepfakes")
    ] = "openvino",
    threads: Threads = 0,
    rounds: Annotated[int, typer.Option(min=20, help="Rounds of each bootstrap")] = 500,
    people: Annotated[int, typer.Option(min=0, help="Largest number of pictures; 0: all")] = 0,
    band_clips: Annotated[
        int, typer.Option(min=2, help="Unmanipulated clips that a quality band needs")
    ] = BandMinimum().real,
    edits_in_fit: Annotated[
        bool, typer.Option(help="Count benign edits among the unmanipulated in the fit")
    ] = True,
    leave_out: Annotated[
        Path | None, typer.Option(help="Table of train.calibration.leave_out for the card")
    ] = None,
    pack: Pack = None,
    energy_kwh: Annotated[
        float | None, typer.Option(help="Energy that training took, for the model card")
    ] = None,
    hours: Annotated[
        float | None, typer.Option(help="Hours that training took, for the model card")
    ] = None,
    machine: Annotated[str, typer.Option(help="Machine of the training, for the model card")] = "",
) -> None:
    """Measure, calibrate and certify weights; write their card, tables, diagram and model card."""
    use_threads(threads)
    default = BandMinimum()
    minimum = BandMinimum(
        band_clips, min(default.people, band_clips), min(default.forged, band_clips)
    )
    with exit_on_error("certify", ValueError):
        options = CertifyOptions(
            ClipPlan(takes, edits, frames, tuple(codecs.split(",")), moving, leaning), engine,
            threads, rounds, people, minimum, edits_in_fit, leave_out, pack,
            Cost(energy_kwh, hours, machine), scanner, devset, looks, replaces,
        )  # fmt: skip
        if read_metadata(weights)[1].dataset is None:
            card = certify(weights, data, out, options)
        elif devset is None and install_to is None:
            card = certify_pairs(weights, data, out, rounds=rounds)
        else:
            raise UsageError(f"{weights} learned a data set: leave --devset and --install out")
    end(card, out / f"{weights.stem}.json", install_to)


def end(card: Mapping[str, Any], path: Path, install_to: Path | None) -> None:
    """Print the figures and the folder, and install weights that passed if asked to.

    Raises:
        typer.Exit: the weights failed a check.
    """
    for each in card["evaluation"]["evidence"]:
        low, high = each["interval"]
        typer.echo(f"{each['what']}: {each['value']:.3f} [{low:.3f}, {high:.3f}]")
    typer.echo(f"wrote {path.parent}")
    for line in card["certification"]["notes"]:
        typer.echo(f"note: {line}", err=True)
    if failed := card["certification"]["failed"]:
        for line in failed:
            typer.echo(f"not certified: {line}", err=True)
        raise typer.Exit(1)
    if install_to is not None:
        with exit_on_error("certify", OSError):
            written = install(path, install_to)
        typer.echo(f"wrote {', '.join(str(path) for path in written)}")


if __name__ == "__main__":
    typer.run(main)
