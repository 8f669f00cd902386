"""`deepscan model`: models listed, shown, imported, checked and removed.

What is asked for goes to stdout, as a table on a terminal and as plain columns elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepscan.cli import arguments, calibrate
from deepscan.cli.arguments import one_of
from deepscan.cli.console import errors, print_json, print_line, print_table

if TYPE_CHECKING:
    from deepscan.models.card import Card

_EPILOG = """
A model is a folder, or a zip of it, with a card (NAME.json) and weights. `deepscan VIDEO --model
NAME` judges with one. The road for a model of your own: import, check, calibrate, then scan; until
it is calibrated every verdict is inconclusive.
"""

Name = Annotated[
    str, typer.Argument(metavar="MODEL", help="A name of `deepscan model list`, or a path.")
]

app = typer.Typer(
    help="List, show, import, check, calibrate and remove models.",
    epilog=_EPILOG,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command("list")
def list_(format_: arguments.Format = "text", debug: arguments.Debug = False) -> None:
    """List the models that ship with deepscan and those in your own folder."""
    with errors(debug=debug):
        one_of("--format", format_, ("text", "json"))
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
        print_line("deepscan model show NAME tells more; deepscan model import adds one")


@app.command()
def show(model: Name, format_: arguments.Format = "text", debug: arguments.Debug = False) -> None:
    """Show a model's card: what it scored and on what, calibration, licence, origin."""
    with errors(debug=debug):
        one_of("--format", format_, ("text", "json"))
        from deepscan.models.library import read_card

        card = read_card(model)
        if format_ == "json":
            print_json({**_facts(card), "card": dict(card.values)})
            return
        for line in _card_lines(card):
            print_line(line)


app.command(context_settings={"max_content_width": 100})(calibrate.calibrate)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model of your own.")],
    debug: arguments.Debug = False,
) -> None:
    """Remove a model from your folder."""
    with errors(debug=debug):
        from deepscan.models.library import remove_model
        from deepscan.sinks.wording import visible

        print_line(visible(f"removed {remove_model(name)}"))


def _facts(card: Card) -> dict[str, Any]:
    """What a card says, as plain values for JSON."""
    from dataclasses import asdict

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


def _card_lines(card: Card) -> list[str]:
    """The card for people."""
    from deepscan.sinks.wording import visible

    shape, info = card.input, card.info
    scale = "" if shape.crop_scale is None else f", {shape.crop_scale:g} times the face's box"
    rows = [
        ("kind", "a network of deepscan's own" if card.kind == "network" else "an ONNX detector"),
        ("weights", f"{card.path}, SHA-256 {card.sha256}"),
        ("crops", f"{shape.size} px{scale}"),
        ("mask", "yes" if card.has_mask else "no: a score for each face, and no marked areas"),
        ("source", card.source or "the card does not say"),
        ("licence", card.licence or "the card does not say"),
        ("certified", "yes" if card.certified else "no: nobody has measured what it finds"),
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


def _calibration_name(card: Card) -> str | None:
    return None if card.calibration is None else str(card.calibration["name"])
