"""The model card for people.

`python -m train.calibration.model_card CARD.json --out docs/model-card.md`

Every figure in it comes from the card's JSON, as `train.calibration.certify` measured it; what was
not measured is said to be not measured.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from deepscan.verdict.calibration import Calibration, Material
from train.calibration.weights_card import evidence_of
from train.evaluation.markdown import markdown
from train.evaluation.real_deepfakes import HEADLINE, read_looks

# Issues of fakes that no measurement here covers.
BLIND = """\
- **Wholly generated pictures and video** (text to video, talking portraits from one picture): the
  network looks for what a manipulation leaves behind in a real picture, and there is none.
- **Lip-sync and voices**: sound is not looked at, and a mouth redrawn by a modern lip-sync program
  may leave less than what was learned.
- **Strong compression, small, blurred or dark faces**: traces go first. Outside of the quality that
  it was calibrated on the verdict is inconclusive; inside of it the tables below say what is left.
- **False context, cuts, captions, retouched scenery**: only faces are looked at.
- **Profiles, children, masks, hands before the face, low light**: training had mostly frontal,
  adult, smiling, well-lit portraits.
- **Programs newer than the forges**: every new kind of manipulation has to be shown to it."""

MEASURES = (
    ("frame_auc", "frame AUC"),
    ("video_auc", "video AUC"),
    ("pixel_iou", "pixel IoU"),
    ("pixel_f1", "pixel F1"),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of training as given on the command line; None: not given."""

    energy_kwh: float | None = None
    hours: float | None = None
    machine: str = ""


def model_card(card: Mapping[str, Any]) -> str:
    """Markdown for a card's JSON."""
    evaluation, config = card["evaluation"], card["config"]
    parts = [
        f"""# Model card: {card["name"]}

A network of the MSCCNet family (backbone {config["backbone"]} of timm, {config["channels"]}
channels, crops of {config["input_size"]} px). SHA-256 of the weights:
`{card["sha256"]}`.

This card is written by `python -m train.calibration.certify` from what it measured.""",
        """## What it is for

Screening: it points at faces, stretches of time and pixels that deserve a look. A finding is not
proof, and the lack of one says nothing about whether a video is real.""",
        _real(card),
        _sight(card),
        _figures(evaluation),
        _leave_out(evaluation.get("leave_out")),
        _alarms(card),
        _calibration(card),
        _groups(evaluation.get("groups")),
        _sources(evaluation.get("sources")),
        _training(card),
        _again(card),
        f"""## Licence and attribution

The weights are under Apache-2.0. The pictures they were trained on are public domain, CC0 or
CC BY 4.0; none of them is part of this repository.

{_attribution(card)}""",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _real(card: Mapping[str, Any]) -> str:
    """The figures that users need first: real deepfakes and real material."""
    real = card["evaluation"].get("real_deepfakes")
    calibration = Calibration.from_card(card)
    title = "## Real deepfakes and real material"
    if not real and not calibration.material:
        return f"{title}\n\nNot measured: no real deepfake and no real picture was tried."
    parts = [title]
    if calibration.material:
        parts.append(
            "At the operating point, through the product's own scan; intervals are 95 % (Wilson).\n"
            "What training saw bounds nothing, and a few clips bound little: their interval says"
            " how little.\nNothing is fitted on the deepfakes.\n\n"
            + counted_table(calibration.material, calibration.rate)
        )
    asked = card["evaluation"].get("real_material")
    if asked:
        parts.append(_asked(asked))
    if real:
        parts.append(
            f"AUC and masks on the same deepfakes ({_looks(real)}). *clips*\nis against the set's"
            " own real files, *pairs* the share of fakes above their own original;\nintervals are"
            " 95 % over recordings, and the sets are small.\n\n" + _deepfakes(real["sets"])
        )
        if real.get("headline") is not None:
            parts.append(
                "Mean of the clip AUCs over live swap, FF++ c23 and Celeb-DF, which decides whether"
                f" weights may replace the default: {real['headline']:.3f}."
            )
        if real.get("steps"):
            parts.append(_steps(real["steps"]))
    certificate = card.get("certification")
    if certificate and certificate["failed"]:
        failed = "\n".join(f"- {line}" for line in certificate["failed"])
        parts.append(f"**Not certified**:\n\n{failed}")
    return "\n\n".join(parts)


def _asked(asked: Mapping[str, Any]) -> str:
    """The operating point that real material needs, and the sources that raise alarms."""
    care, sources = asked["care"], asked["sources"]
    raised = [
        f"those of {what} {care[key]:.2f} times as heavy"
        for key, what in (("still", "single pictures"), ("clip", "clips"))
        if care[key] > 1
    ]
    care_text = (
        f"To keep its promise on them, tails were made heavier than made clips ask: "
        f"{' and '.join(raised)}; the counts above are cross-validated."
        if raised
        else "They asked for no stricter operating point than made clips do."
    )
    rows = [
        [name, str(count), str(over), str(review)]
        for name, (over, review, count) in sources.items()
    ]
    return f"""{care_text} By source, at the final operating point:

{markdown(["source", "files", "manipulated", "suspicious or more"], rows)}"""


def _looks(real: Mapping[str, Any]) -> str:
    if not real["looks"]:
        return "and nobody looked at them to choose these weights"
    return (
        f"chosen with {real['looks']} look{'s' * (real['looks'] != 1)} at them, therefore"
        " optimistic"
    )


def _steps(looks: Sequence[Mapping[str, str]]) -> str:
    """Show what each look at the deepfakes saw, in the order of the looks."""
    columns = ("question", "step", "headline", "clips", "pairs")
    rows = [[look.get(column, "") for column in columns] for look in looks]
    return (
        "Every look at these deepfakes, in order: what each step of the work brought. *headline*"
        " is that mean,\n*clips* the AUC of all fakes against all real files.\n\n"
        + markdown(list(columns), rows)
    )


def _deepfakes(sets: Mapping[str, Any]) -> str:
    columns = ("clips", "clips_all", "frames", "pairs", "mask_iou")
    rows = [
        [
            name,
            str(row["fake"]),
            str(row["real"]),
            *("" if row[key] is None else _estimate(row[key]) for key in columns),
        ]
        for name, row in sets.items()
    ]
    return markdown(
        ["set", "fake", "real", *(column.replace("_", " ") for column in columns)], rows
    )


def counted_table(materials: Sequence[Material], rate: float) -> str:
    """Count the files of each material that are called manipulated at a false-alarm rate."""
    rows = []
    for each in materials:
        found = each.at(rate)
        low, high = found.interval
        kind = "deepfakes" if each.manipulated else "seen in training" if each.seen else "real"
        rows.append(
            [each.name, kind, f"{found.called} of {found.files}", str(each.groups),
             f"{found.share:.1%} [{low:.1%}, {high:.1%}]"]
        )  # fmt: skip
    header = ["material", "kind", "called manipulated", "people or recordings", "share"]
    return markdown(header, rows)


def readme_figures(card: Mapping[str, Any]) -> str:
    """The paragraph of README.md: findings and false alarms of the default."""
    calibration = Calibration.from_card(card)
    counted = [each.at(calibration.rate) for each in calibration.material]
    fakes = [each for each in counted if each.manipulated]
    real = [each for each in counted if not each.manipulated and not each.seen]
    parts = []
    if fakes:
        called, files = sum(each.called for each in fakes), sum(each.files for each in fakes)
        kinds = ", ".join(f"{each.called} of {each.files} {each.name}" for each in fakes)
        parts.append(
            f"**`{card['name']}` finds {called} of {files} real deepfakes** at its operating point"
            f" ({kinds})."
        )
    if real:
        alarms = ", ".join(
            f"{each.called} of {each.files} {each.name} ({_percent(each.interval[0])} to"
            f" {_percent(each.interval[1])} %)"
            for each in real
        )
        parts.append(f"It wrongly calls manipulated: {alarms}; 95 % intervals.")
    found = card["evaluation"].get("real_deepfakes")
    if found:
        everything = found["sets"]["all"]
        kinds = ", ".join(
            f"{found['sets'][name]['clips']['value']:.2f} for {name}"
            for name in HEADLINE
            if found["sets"].get(name, {}).get("clips")
        )
        low, high = (everything["clips"][key] for key in ("low", "high"))
        parts.append(
            f"The AUC over clips is {everything['clips']['value']:.2f} (95 % interval {low:.2f} to"
            f" {high:.2f}): {kinds} ({_looks(found)})."
        )
    if not parts:
        parts.append(f"What `{card['name']}` finds of real deepfakes was not measured.")
    return textwrap.fill(" ".join(parts), 100, break_long_words=False, break_on_hyphens=False)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _sight(card: Mapping[str, Any]) -> str:
    forges = ", ".join(sorted(_recipe(card)["forges"]))
    return f"""## What it can and cannot see

It learned from manipulations that the programs in `train/forge/` make from real portraits:
{forges}.
**It has never seen a real deepfake** in training, and nothing is calibrated on one.

It does not see, or is not known to see:

{BLIND}

It judges each frame alone; only the verdict looks over time."""


def _figures(evaluation: Mapping[str, Any]) -> str:
    slices = evaluation.get("slices", {})
    rows = [
        [
            name,
            str(values["clips"]),
            *(_estimate(values[key]) for key, _ in MEASURES),
            _share(values["found"]),
        ]
        for name, values in slices.items()
    ]
    header = ["clips", "number", *(title for _, title in MEASURES), "called manipulated"]
    crops = [
        [f"frame AUC, {evaluation['samples']} crops", _estimate(evaluation["auc"])],
        ["mask IoU of the manipulated class at 0.5", _estimate(evaluation["mask_iou"])],
        ["pixels of untouched crops that are marked", f"{evaluation['false_pixels']:.2%}"],
        *(
            [f"frame AUC, {name}", _estimate(value)]
            for name, value in sorted(evaluation["per_forge"].items())
        ),
    ]
    found = _estimate(slices.get("all", {}).get("iou_found"))
    return f"""## Figures on made material

They say how well it knows what it learned from, and nothing of real deepfakes. All on people of the
`val` split, whom training never saw. Intervals are 95 %, bootstrapped over
people; they say how much the figure would move with other people, not with other programs.

Crops ({evaluation["data"]}):

{markdown(["measure", "value"], crops)}

Made clips: {evaluation.get("population", "")}. Each forge stands against all untouched clips; a
clip's score is that of its strongest second. "Called manipulated" is the share of the forged clips,
judged by a calibration that was fitted on other people. Mask IoU on those that are called
manipulated: {found}.

{markdown(header, rows)}"""


def _leave_out(found: Mapping[str, Any] | None) -> str:
    if not found:
        return """## Forges left out

Not measured: no table of `python -m train.calibration.leave_out` was given."""
    inside = {row["tested"]: row for row in found["rows"] if row["left_out"] != row["tested"]}
    rows = []
    for row in found["rows"]:
        if row["left_out"] != row["tested"]:
            continue
        both = inside.get(row["tested"])
        begun = f"{row['start']}..." if row["start"] else "random"
        rows.append([row["tested"], row["steps"], begun, _cell(row, "auc"), _cell(row, "iou"),
                     _cell(both, "auc"), _cell(both, "iou")])  # fmt: skip
    mean, worst = found["mean"], found["worst"]
    header = ["family", "steps", "start", "AUC left out", "IoU left out",
              "AUC in family", "IoU in family"]  # fmt: skip
    return f"""## Forges left out

For every family one shorter training without it, tested on that family alone; a start is only from
weights (by SHA-256) that did not know it. Mean frame AUC {_estimate(mean)};
lowest {_estimate(worst)} ({worst["family"]}). In family, one training with all:
{_estimate(found["in_family_mean"])}.

{markdown(header, rows)}"""


def _alarms(card: Mapping[str, Any]) -> str:
    evaluation, calibration = card["evaluation"], card["calibration"]
    clips = evaluation["clips"]
    rows = [
        [
            "untouched" if name == "none" else name,
            str(values["clips"]),
            str(values["people"]),
            *(_share(values[key]) for key in ("manipulated", "suspicious", "not_judged")),
        ]
        for name, values in evaluation.get("harmless", {}).items()
    ]
    bounds = [
        (clips["false_alarm"], calibration["rate"], "manipulated"),
        (clips["false_review"], calibration["review_rate"], "suspicious or manipulated"),
    ]
    said = " ".join(
        f"Promised: at most {bound:.0%} of untouched clips {name}; measured {_share(value)}"
        f"{'.' if _first(value) <= bound else ', **more than promised**.'}"
        for value, bound, name in bounds
    )
    table = (
        markdown(
            ["edit", "clips", "people", "manipulated", "suspicious or more", "not judged"], rows
        )
        if rows
        else "No benign edits were measured."
    )
    care = evaluation.get("care", 1.0)
    careful = (
        f" To keep it, tails were made {care:g} times as heavy as fitted; that factor was chosen on"
        " the same clips, so other clips may show a little more."
        if care > 1
        else ""
    )
    return f"""## False alarms

At the shipped operating point, every clip judged by a calibration fitted on other people (Wilson
intervals). {said}{careful}

{table}

`--max-false-alarms N/1000` moves the operating point; rates that the {calibration["clips"]}
unmanipulated clips cannot support (below one in {calibration["clips"]}) are refused."""


def _calibration(card: Mapping[str, Any]) -> str:
    calibration = card["calibration"]
    rows = [
        [
            _range(band["size"], " px"),
            _range(band["detail"]),
            _range(band["sharpness"]),
            str(band["clips"]),
            f"{band['clip']['slope']:.2f}",
            f"{band['clip']['offset']:+.2f}",
        ]
        for band in calibration.get("bands", ())
    ]
    bands = (
        "One log-likelihood ratio for each band of face size, detail (share of pixels that differ\n"
        "from their neighbours; compression lowers it) and sharpness. Below the lowest bounds a\n"
        "face is not judged and the verdict is inconclusive (`out_of_domain`). Bands with too few\n"
        "clips are pooled with their neighbour, and each is pulled towards the fit on all.\n\n"
        + markdown(["face", "detail", "sharpness", "real clips", "slope", "offset"], rows)
        if rows
        else "One scale for all qualities."
    )
    diagram = card["evaluation"].get("reliability")
    reliability = ""
    if diagram:
        reliability = (
            "\n\n![Reliability diagram](reliability.svg)\n\n"
            f"Expected calibration error {_estimate(diagram['error'])} over {diagram['windows']} "
            f"windows of {diagram['people']} people, each judged by a fit on others. Such figures "
            "hold for clips made like these."
        )
    return f"""## Calibration

Fitted on {calibration["population"]}. Outside of such material likelihood ratios are a guess.

{bands}{reliability}"""


def _groups(found: Mapping[str, Any] | None) -> str:
    if not found:
        return """## Groups

False-alarm rates by skin tone, sex or age have not been measured."""
    trust = found["tone_uncertainty"]
    header = ["group", "people", "clips", "manipulated", "suspicious or more", "mean LLR"]

    def table(rows: Mapping[str, Any]) -> str:
        return markdown(
            header,
            [
                [
                    name,
                    str(row["people"]),
                    str(row["clips"]),
                    _share(row["manipulated"]),
                    _share(row["suspicious"]),
                    _with_error(row["mean_llr"], row["mean_llr_error"]),
                ]
                for name, row in rows.items()
            ],
        )

    sex = f"\n\n{table(found['sex'])}" if found.get("sex") else ""
    cheeks = _number(trust["cheeks_differ"])
    spread = _number(trust["pictures_spread"])
    return f"""## Groups

People with at least one false alarm among their untouched clips (Wilson intervals over people), and
the mean evidence of their windows (below 0: against manipulation). With few people an interval is
wide, and a difference that lies within it is none that was shown.

Apparent skin tone, the individual typology angle of cheek pixels, measured in
{trust["measured"]} of {trust["pictures"]} pictures. It is the tone under unknown light and cameras,
not of a person: the two cheeks of a face differ by {cheeks} degrees in the median, and pictures of
one person by {spread} (standard deviation, {trust["people_with_several"]} people), while the
classes are 13 to 40 degrees wide.

{table(found["tone"])}

Sex: {found["sex_note"]}.{sex}

By source of the picture:

{table(found["source"])}"""


def _sources(found: Mapping[str, Any] | None) -> str:
    if not found:
        return """## Does it read the source of a picture?

Not measured."""
    rows = [
        [
            name,
            str(row["people"]),
            f"{row['mean_logit']:+.2f}",
            _estimate(row["higher_than_others"]),
        ]
        for name, row in found["by_source"].items()
    ]
    return f"""## Does it read the source of a picture?

A linear classifier names the source of real pictures ({len(found["sources"])} sources,
{found["people"]} people, judged on people it was not fitted on) with a balanced accuracy of
{_estimate(found["features"])} from the network's features and {_estimate(found["statistics"])} from
sizes, JPEG history and colours alone; chance is {found["chance"]:.3f}. What matters is whether the
score uses it: "higher than others" is the probability that a real face of that source scores above
one of another; 0.5 means that the source makes no difference.

{markdown(["source", "people", "mean logit of real faces", "higher than others"], rows)}"""


def _training(card: Mapping[str, Any]) -> str:
    training, recipe = card["training"], _recipe(card)
    total = sum(recipe["forges"].values())
    forges = ", ".join(
        f"{name} {share / total:.0%}" for name, share in sorted(recipe["forges"].items())
    )
    stages = ", then ".join(
        f"{stage['steps']:,} steps at {stage['size']} px" for stage in recipe["schedule"]["stages"]
    )
    cost = card.get("cost") or {}
    spent = [
        "not recorded" if cost.get("hours") is None else f"{cost['hours']:g} hours",
        "energy not recorded" if cost.get("energy_kwh") is None else f"{cost['energy_kwh']:g} kWh",
    ]
    machine = f" on {cost['machine']}" if cost.get("machine") else ""
    seed = training.get("seed", "not recorded")
    return f"""## Training

- Recipe: `train/recipes/{card["name"]}.toml`; seed {seed}; {stages};
  {recipe["schedule"]["pairs"]} pairs a batch; forges: {forges}.
- Data: the `train` split of a folder of real faces; SHA-256 of its `provenance.csv`, with that of
  the pack of redrawn faces where one was used: `{training.get("data_sha256", "not recorded")}`.
{_start(card)}- Time and energy: {", ".join(spent)}{machine}."""


def _start(card: Mapping[str, Any]) -> str:
    """The earlier weights that this run started from, if any."""
    start = card["training"].get("start_sha256")
    if start is None:
        return ""
    stages = ("first", "second")
    before = [
        Path(__file__).parents[1] / "recipes" / f"{card['name']}-{each}.toml" for each in stages
    ]
    names = " and ".join(f"`train/recipes/{path.name}`" for path in before if path.is_file())
    earlier = f" Runs before this one: {names}." if names else ""
    return f"- Started from the weights of an earlier run, SHA-256 `{start}`.{earlier}\n"


def _again(card: Mapping[str, Any]) -> str:
    name = card["name"]
    start = " \\\n        --start EARLIER_RUN" if "start_sha256" in card["training"] else ""
    return f"""## Train it again, or on your own data

The same again, then measured and calibrated:

    python -m train.forge.autoencoders --data FACES --out DECODERS --minutes 13
    python -m train.forge.build_pack --data FACES --decoders DECODERS/decoders.pt --out PACK.npz
    python -m train.train train/recipes/{name}.toml --data FACES --pack PACK.npz --out RUN{start}
    python -m train.calibration.leave_out train/recipes/{name}.toml --data FACES \\
        --pack PACK.npz --out LEAVE_OUT.csv
    python -m train.calibration.certify RUN/{name}.safetensors --data FACES \\
        --pack PACK.npz --out PROOF --leave-out LEAVE_OUT.csv

FACES is a folder of real faces with a `provenance.csv` (columns as in `train/forge/faces.py`: a
face box, five landmarks, a person and a split for each picture). For your own pictures write that
file, keep every person on one side of the split, and mix sources: a source with a JPEG history of
its own is learned sooner than a forgery. PROOF holds the weights and their card: both go where
deepscan looks for models, `deepscan/weights/`.

Fine-tuning on FaceForensics++, for those who have it from its owners: copy the recipe, put a table

    [dataset]
    name = "faceforensics"
    compression = "c23"

in the place of `[forges]`, lower the learning rate, and leave `mask` and `coarse` out of `[losses]`
if your copy has no masks. Then

    python -m train.train RECIPE.toml --data FF++ --out RUN \\
        --start deepscan/weights/{name}.safetensors
    python -m train.evaluation.evaluate --help

Weights trained on a data set have to be calibrated on clips of that kind before they give verdicts;
their licence is a matter of the data set's terms."""


def _recipe(card: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(card["training"]["recipe"])
    return found


def _attribution(card: Mapping[str, Any]) -> str:
    text = str(card.get("attribution", ""))
    lines = text.split("\n", 1)
    return lines[1].strip() if lines[0].startswith("#") and len(lines) > 1 else text.strip()


def _triple(value: Mapping[str, float] | Sequence[float]) -> list[float]:
    if isinstance(value, Mapping):
        return [value[key] for key in ("value", "low", "high")]
    return list(value)


def _first(value: Mapping[str, float] | Sequence[float]) -> float:
    return _triple(value)[0]


def _estimate(value: Mapping[str, float] | Sequence[float] | None) -> str:
    if value is None:
        return "not measured"
    return "{:.3f} [{:.3f}, {:.3f}]".format(*_triple(value))


def _share(value: Mapping[str, float] | Sequence[float] | None) -> str:
    if value is None:
        return "not measured"
    return "{:.1%} [{:.1%}, {:.1%}]".format(*_triple(value))


def _cell(row: Mapping[str, str] | None, key: str) -> str:
    if row is None:
        return "not measured"
    value, low, high = (float(row[name]) for name in (key, f"{key}_low", f"{key}_high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _range(bounds: Sequence[float | None], unit: str = "") -> str:
    low, high = bounds
    return f"from {low:g}{unit}" if high is None else f"{low:g} to {high:g}{unit}"


def _number(value: float | None) -> str:
    return "an unknown number of" if value is None else f"{value:.0f}"


def _with_error(value: float | None, error: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:+.2f}" + ("" if error is None else f" ± {error:.2f}")


def main(
    card: Annotated[
        Path, typer.Argument(help="Card that train.calibration.certify wrote, NAME.json")
    ],
    out: Annotated[Path, typer.Option(help="Markdown file to write")] = Path("docs/model-card.md"),
    energy_kwh: Annotated[float | None, typer.Option(help="Energy that training took")] = None,
    hours: Annotated[float | None, typer.Option(help="Hours that training took")] = None,
    machine: Annotated[str, typer.Option(help="Machine of the training")] = "",
    looks: Annotated[
        Path | None, typer.Option(help="CSV of all looks at the real deepfakes, as it is now")
    ] = None,
) -> None:
    """Render the model card anew; what is given here is kept in the card."""
    values = json.loads(card.read_text("utf-8"))
    if looks is not None:
        steps, evaluation = read_looks(looks), values["evaluation"]
        evaluation["real_deepfakes"] |= {"looks": len(steps), "steps": steps}
        evaluation["evidence"] = evidence_of(evaluation)
    given = asdict(Cost(energy_kwh, hours, machine))
    values["cost"] = {**(values.get("cost") or {}), **{k: v for k, v in given.items() if v}}
    card.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", "utf-8")
    out.write_text(model_card(values), "utf-8")
    typer.echo(f"wrote {out}")


if __name__ == "__main__":
    typer.run(main)
