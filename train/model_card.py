"""The model card for people, written from the card's figures: nothing in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def model_card(card: Mapping[str, Any]) -> str:
    """Markdown for a card's JSON."""
    evaluation, clips = card["evaluation"], card["evaluation"]["clips"]
    training, config = card["training"], card["config"]
    recipe = json.loads(training["recipe"])
    stages = ", then ".join(
        f"{stage['steps']:,} steps at {stage['size']} px" for stage in recipe["schedule"]["stages"]
    )
    forges = ", ".join(f"{name} {share:.0%}" for name, share in sorted(recipe["forges"].items()))
    rows = "\n".join(
        f"| {name} | {_estimate(value)} |"
        for name, value in sorted(evaluation["per_forge"].items())
    )
    return f"""# Model card: {card["name"]}

A small network of the MSCCNet family (ResNet of timm, {config["channels"]} channels, crops of
{config["input_size"]} px). SHA-256 of the weights: `{card["sha256"]}`.

This card is written by `python -m train.calibrate` from what it measured.

## What it is for

Screening: it points at faces, stretches of time and pixels that deserve a look. A finding is not
proof, and the lack of one says nothing about whether a video is real.

## What it is not

- **It has never seen a real deepfake**, neither in training nor in this evaluation. It learned from
  manipulations that the programs in `train/forge/` make from real portraits: self-blending,
  low-resolution redrawing and simple swaps. How well that carries over to the face swaps, the
  re-enactment and the lip-sync of today's programs **has not been measured**.
- It does not see wholly generated pictures or video, voices, false context, or cuts.
- It judges each frame alone; only the verdict looks over time.
- Its training faces are portraits: mostly frontal, adult, smiling, well lit. Profiles, children,
  masks, hands before the face and low light are outside of what it knows.
- Beauty filters, strong sharpening, captions over a face and recordings of screens were not
  evaluated as harmless edits; they may raise false alarms.
- False-alarm rates by skin tone, sex or age have not been measured.

## Figures

All on people of the `val` split, whom training never saw: {evaluation["data"]}. Intervals are 95 %,
bootstrapped over people.

| measure | value |
| --- | --- |
| frame AUC, {evaluation["samples"]} crops | {_estimate(evaluation["auc"])} |
| mask IoU of the manipulated class at 0.5, pooled over forged crops | \
{_estimate(evaluation["mask_iou"])} |
| pixels of untouched crops that are marked | {evaluation["false_pixels"]:.2%} |

| frame AUC by forge | value |
| --- | --- |
{rows}

On {clips["clips"]} made clips of two seconds (moving camera, H.264), each judged with a calibration
fitted on other people (Wilson intervals):

| measure | value |
| --- | --- |
| untouched clips labelled manipulated | {_share(clips["false_alarm"])} |
| untouched clips labelled suspicious or manipulated | {_share(clips["false_review"])} |
| forged clips labelled manipulated | {_share(clips["found"])} |

The calibration that ships is fitted on all of these clips. Its population:
{card["calibration"]["population"]}. Outside of such material its likelihood ratios are a guess.

## Training

- Recipe: `train/recipes/{card["name"]}.toml`; seed {training["seed"]}; {stages};
  {recipe["schedule"]["pairs"]} pairs a batch; forges: {forges}.
- Data: the `train` split of a folder of real faces whose `provenance.csv` has SHA-256
  `{training["data_sha256"]}`. No picture of it is part of this repository.
- Again: `python -m train.train train/recipes/{card["name"]}.toml --data FACES --out RUN`, then
  `python -m train.calibrate RUN/{card["name"]}.safetensors --data FACES --out deepscan/weights`.

## Licence and attribution

The weights are under Apache-2.0. The pictures they were trained on are public domain, CC0 or
CC BY 4.0:

{card["attribution"].split(chr(10), 1)[1].strip()}
"""


def _estimate(value: Mapping[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _share(value: list[float]) -> str:
    share, low, high = value
    return f"{share:.1%} [{low:.1%}, {high:.1%}]"
