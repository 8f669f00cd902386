"""`deepscan model`: models listed, shown, imported, checked and removed.

What is asked for goes to stdout, as a table on a terminal and as plain columns elsewhere.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepscan.cli import arguments, calibrate
from deepscan.cli.arguments import Name, one_of
from deepscan.cli.console import errors, print_answer, print_json, print_line, print_table
from deepscan.errors import UsageError
from deepscan.exit_codes import ERROR

if TYPE_CHECKING:
    from deepscan.importer.check import ModelCheck
    from deepscan.models.card import Card

_EPILOG = """
A model is a folder, or a zip of it, with a card (NAME.json) and weights. `deepscan VIDEO --model
NAME` judges with one. The road for a model of your own: import, check, calibrate, then scan; until
it is calibrated every verdict is inconclusive.
"""


def _onnx(help_: str, *flags: str, **more: Any) -> Any:
    """An option of ONNX detectors."""
    panel = "Of an ONNX detector"
    return typer.Option(*flags, help=help_, rich_help_panel=panel, show_default=False, **more)


app = arguments.group("List, show, import, check, calibrate and remove models.", epilog=_EPILOG)


@app.command("list")
def list_(format_: arguments.Format = "text", debug: arguments.Debug = False) -> None:
    """List the models that ship with deepscan and your own."""
    with errors(debug=debug):
        from deepscan.models.library import list_cards, models_folder

        folder, found = models_folder(), list_cards()
        if format_ == "json":
            models = [{**_facts(card), "ships": ships} for card, ships in found]
            print_json({"folder": str(folder), "models": models})
            return
        print_table(
            f"Models, your own in {folder}",
            ("name", "kind", "crop", "mask", "certified", "calibration"),
            [
                (
                    card.name if not ships else f"{card.name} (ships)",
                    card.kind,
                    f"{card.input.size} px",
                    "yes" if card.has_mask else "no",
                    "yes" if card.certified else "no",
                    _calibration_name(card) or "none",
                )
                for card, ships in found
            ],
        )
        print_line("Run deepscan model show NAME for details, deepscan model import to add one")


@app.command()
def show(model: Name, format_: arguments.Format = "text", debug: arguments.Debug = False) -> None:
    """Show a model's card: scores, calibration, licence, origin."""
    with errors(debug=debug):
        from deepscan.models.library import read_card

        card = read_card(model)
        print_answer(format_, {**_facts(card), "card": dict(card.values)}, _card_lines(card))


@app.command("import")
def import_(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS",
            help="Weights of deepscan's trainer (.safetensors), a checkpoint of MSCCNet's official "
            "code (.pth), a detector (.onnx), or a model's folder or zip.",
        ),
    ],
    to: Annotated[str, typer.Option(metavar="NAME", help="Name of the new model.")],
    input_size: Annotated[
        int | None, _onnx("Side of its crops in pixels.", "--input-size", min=16)
    ] = None,
    pixels: Annotated[str | None, _onnx("How pixels are scaled: 0..1 or 0..255.")] = None,
    mean: Annotated[str | None, _onnx("Or: three means, of pixels from 0 to 1.")] = None,
    std: Annotated[str | None, _onnx("And three standard deviations.")] = None,
    colours: Annotated[str | None, _onnx("Order of its colours: rgb or bgr.")] = None,
    layout: Annotated[str | None, _onnx("Order of its axes: nchw or nhwc.")] = None,
    crop_scale: Annotated[
        float | None, _onnx("Side of the crop over that of the face's box.", min=1.0, max=4.0)
    ] = None,
    score: Annotated[
        str | None,
        _onnx(
            "What its score is: probability, logit, two-probabilities, two-logits; of several "
            "outputs OUTPUT=KIND."
        ),
    ] = None,
    index: Annotated[
        int | None, _onnx("Which of two scores is manipulated: 0 or 1.", min=0, max=1)
    ] = None,
    polarity: Annotated[str | None, _onnx("Which score means manipulated: high or low.")] = None,
    mask: Annotated[str | None, _onnx("Its mask, if it has one: OUTPUT=KIND.")] = None,
    mask_polarity: Annotated[
        str | None, _onnx("Which value of the mask means manipulated: high or low.")
    ] = None,
    real: Annotated[
        Path | None, _onnx("A folder of faces that are not manipulated, to check the polarity.")
    ] = None,
    manipulated: Annotated[Path | None, _onnx("Manipulated faces, for the same check.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Origin of the model, for the card.", show_default=False)
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the model, for the card.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of that name.")] = False,
    debug: arguments.Debug = False,
) -> None:
    """Make a model of your own from weights or an ONNX detector.

    An ONNX file is read in a process without rights and may hold operators of ONNX alone, but runs
    in deepscan like any other code: import only what you trust. Options give what the file lacks.
    Known faces are scored to check the polarity. Next: deepscan model check NAME.
    """  # fmt: skip
    with errors(debug=debug):
        about = {key: text for key, text in (("source", source), ("licence", licence)) if text}
        if weights.suffix.lower() != ".onnx":
            card = _import_other(weights, to, about, force=force)
        else:
            from deepscan.importer.detector import import_detector
            from deepscan.importer.questions import Answers, three

            answers = Answers(
                input_size=input_size,
                pixels=pixels,
                mean=three("--mean", mean),
                std=three("--std", std),
                colours=one_of("--colours", "rgb", "bgr")(colours),
                layout=one_of("--layout", "nchw", "nhwc")(layout),
                crop_scale=crop_scale,
                score=score,
                index=index,
                polarity=one_of("--polarity", "high", "low")(polarity),
                mask=mask,
                mask_polarity=one_of("--mask-polarity", "high", "low")(mask_polarity),
            )
            card = import_detector(
                weights, to, answers, about, real=real, manipulated=manipulated, force=force
            )
        for line in _card_lines(card):
            print_line(line)
        print_line(f"next: deepscan model check {card.name}")


@app.command()
def check(model: Name, format_: arguments.Format = "text", debug: arguments.Debug = False) -> None:
    """Compare a model's engines here with its reference.

    Also scores known crops and measures speed. Exit code 2 if the engine that a scan would take is
    not to be trusted. Next: deepscan model calibrate NAME.
    """
    with errors(debug=debug):
        from deepscan.importer.check import check_model

        found = check_model(model)
        if format_ == "json":
            print_json({**asdict(found), "ok": found.ok})
        else:
            _print_check(found, model)
    if not found.ok:
        raise typer.Exit(ERROR)


app.command(context_settings={"max_content_width": 100})(calibrate.calibrate)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model of your own.")],
    debug: arguments.Debug = False,
) -> None:
    """Remove a model from your folder."""
    with errors(debug=debug):
        from deepscan.models.library import remove_model
        from deepscan.wording import visible

        print_line(visible(f"removed {remove_model(name)}"))


def _print_check(found: ModelCheck, model: str) -> None:
    from deepscan.models.library import read_card

    card = read_card(model)
    masked = card.has_mask
    print_table(
        f"{found.model} on this machine",
        ("engine", "works", "score diff.", "mask IoU", "crops/s", ""),
        [
            (
                each.name,
                "yes" if each.works else "no",
                "" if each.parity is None else f"{each.parity.max_score_difference:.1e}",
                "" if each.parity is None or not masked else f"{each.parity.mean_mask_iou:.4f}",
                "" if each.crops_per_second is None else f"{each.crops_per_second:.0f}",
                each.detail,
            )
            for each in found.engines
        ],
    )
    state = "as they should" if found.controls_passed else "NOT as they should"
    print_line(f"{len(found.controls)} known crops score {state} on {found.chosen}")
    if found.ok:
        step = f"deepscan VIDEO --model {model}"
        if card.calibration is None:
            step = f"deepscan model calibrate {model} --real FOLDER --to NAME"
        print_line(f"next: {step}")


def _import_other(weights: Path, name: str, about: dict[str, str], *, force: bool) -> Card:
    """Import a model that is no ONNX file."""
    if not weights.exists():
        raise UsageError(f"{weights} cannot be imported: there is no such file")
    from deepscan.importer import network

    if weights.is_dir() or weights.suffix.lower() in (".zip", ".json"):
        return network.import_model(weights, name, about, force=force)
    if weights.suffix.lower() == ".safetensors":
        return network.import_weights(weights, name, about, force=force)
    return network.import_checkpoint(weights, name, about, force=force)


def _facts(card: Card) -> dict[str, Any]:
    """The facts of a card, as plain values for JSON."""
    return {
        "name": card.name,
        "kind": card.kind,
        "path": str(card.path),
        "sha256": card.sha256,
        "input": asdict(card.input),
        "output": asdict(card.output),
        "mask": card.has_mask,
        "certified": card.certified,
        "calibration": _calibration_name(card),
        "source": card.source,
        "licence": card.licence,
    }


def _trained(card: Card) -> str:
    """The training of deepscan's own weights, in a line; "" where the card tells of none."""
    training = card.values.get("training", {})
    if not {"steps", "seed"} <= training.keys():
        return ""
    return f"trained by deepscan, {training['steps']} steps with seed {training['seed']}"


def _card_lines(card: Card) -> list[str]:
    """The card for people."""
    from deepscan.wording import visible

    shape, info = card.input, card.info
    scale = "" if shape.crop_scale is None else f", {shape.crop_scale:g} times the face's box"
    rows = [
        ("kind", "a network of deepscan's own" if card.kind == "network" else "an ONNX detector"),
        ("weights", f"{card.path}, SHA-256 {card.sha256}"),
        ("crops", f"{shape.size} px{scale}"),
        ("mask", "yes" if card.has_mask else "no: a score for each face, and no marked areas"),
        *_origin(card),
        ("source", card.source or _trained(card) or "the card does not say"),
        ("licence", card.licence or "the card does not say"),
        ("certified", "yes" if card.certified else f"no: {_missing(card)}"),
    ]
    if info.auc is not None and info.auc_interval is not None and not info.evidence:
        low, high = info.auc_interval
        rows.append(("frame AUC", f"{info.auc:.3f} ({low:.3f} to {high:.3f}), {info.evaluated_on}"))
    rows += [
        (each.what, f"{each.value:.3f} ({each.interval[0]:.3f} to {each.interval[1]:.3f}) on "
         f"{each.on}")
        for each in info.evidence
    ]  # fmt: skip
    given = card.calibration
    if given is None:
        command = f"deepscan model calibrate {card.name} --real FOLDER --to NAME"
        rows.append(("calibration", f"none: every verdict is inconclusive. Run: {command}"))
    else:
        low, high = given["measured_interval"]
        rows += [
            ("calibration", f"{given['name']}, {given['clips']} clips of {given['population']}"),
            ("false alarms", f"{given['measured']:.2%} of clips ({low:.2%} to {high:.2%})"),
        ]
    return [card.name, *(visible(f"  {what:<14} {text}") for what, text in rows)]


def _missing(card: Card) -> str:
    """The reasons why a model is not certified."""
    return "; ".join(card.shortcomings) or "nobody has measured what it finds"


def _origin(card: Card) -> list[tuple[str, str]]:
    """Of which file a model was made, and how it is known which way round it is."""
    origin, polarity = card.values.get("origin"), card.values.get("polarity")
    rows = []
    if origin:
        text = f"{origin['file']}, SHA-256 {origin['sha256']}, imported {origin['imported']}"
        rows.append(("made of", text))
    if polarity:
        how = {"crops": "by its scores", "statement": "by what was said of it"}
        rows.append(
            (
                "polarity",
                f"settled {how.get(polarity['settled_by'], 'unknown')}; AUC {polarity['auc']:.2f} "
                f"({polarity['low']:.2f} to {polarity['high']:.2f}) on {polarity['real']} real and "
                f"{polarity['manipulated']} manipulated crops ({polarity['crops']})",
            )
        )
    return rows


def _calibration_name(card: Card) -> str | None:
    return None if card.calibration is None else str(card.calibration["name"])
