"""False alarms by group: apparent skin tone, sex as far as it is known, and source.

Skin tone is the individual typology angle (ITA) of cheek pixels, arctan((L - 50) / b) in CIELAB. It
is measured in pictures, under their light, camera and make-up, so it says how light a face *looks*;
the spread between the two cheeks and between pictures of one person shows how reliable it is.
Sex is never guessed from a picture: it is taken from a column `sex` of provenance.csv; the report
states if there is none.

Every rate counts people, not crops: somebody is counted once however many clips show them.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from deepscan.types import Label
from deepscan.verdict.calibration import wilson
from train.calibration.synthetic_validation import Clip, ClipVerdict
from train.evaluation.metrics import as_json
from train.forge.contract import FaceImage
from train.forge.faces import Person

# Bounds in degrees, from light to dark (Chardon et al. 1991; Del Bino et al. 2006).
TONES = (
    (55.0, "very light"),
    (41.0, "light"),
    (28.0, "intermediate"),
    (10.0, "tan"),
    (-30.0, "brown"),
    (-90.0, "dark"),
)
_REACH = 0.16  # radius of a cheek's patch, in distances between the eyes
_GREY = 4.0  # chroma below which a picture holds no colour to measure


@dataclass(frozen=True, slots=True)
class Tone:
    """ITA in degrees over both cheeks, and their difference."""

    angle: float
    difference: float

    @property
    def name(self) -> str:
        return next(name for bound, name in TONES if self.angle > bound or bound == -90.0)


def tone_of(face: FaceImage) -> Tone | None:
    """The apparent skin tone of a face; None for a picture without colour or cheeks."""
    eyes, mouth = face.landmarks[:2], face.landmarks[3:5]
    between = float(np.hypot(*(eyes[1] - eyes[0])))
    outward = (eyes[1] - eyes[0]) * 0.08
    angles = []
    for side, away in ((0, -outward), (1, outward)):
        centre = 0.45 * eyes[side] + 0.55 * mouth[side] + away
        patch = _patch(face.image, centre, max(2.0, _REACH * between))
        if patch is None:
            return None
        lightness, a, b = patch
        if np.hypot(a, b) < _GREY:
            return None
        angles.append(float(np.degrees(np.arctan2(lightness - 50, max(b, 1e-3)))))
    return Tone(float(np.mean(angles)), abs(angles[0] - angles[1]))


def _patch(
    image: np.ndarray, centre: np.ndarray, radius: float
) -> tuple[float, float, float] | None:
    """Median L, a and b of a disc, without its lightest and darkest tenth (gloss, hair)."""
    height, width = image.shape[:2]
    y, x = np.ogrid[:height, :width]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2
    if inside.sum() < 9:
        return None
    pixels = image[inside].astype(np.float32)[None] / 255
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)[0]
    low, high = np.quantile(lab[:, 0], (0.1, 0.9))
    kept = lab[(lab[:, 0] >= low) & (lab[:, 0] <= high)]
    lightness, a, b = np.median(kept, axis=0)
    return float(lightness), float(a), float(b)


def by_subgroup(
    people: Sequence[Person],
    clips: Sequence[Clip],
    verdicts: Sequence[ClipVerdict],
    sexes: Mapping[str, str] | None,
) -> dict[str, Any]:
    """False alarms of untouched clips by tone, sex and source, as plain values for JSON.

    `sexes` maps a person to what the data's provider says; None: it says nothing.
    """
    tones = {person.name: tone_of(person.face) for person in people}

    def tone_name(clip: Clip) -> str:
        tone = tones.get(clip.picture)
        return "no colour" if tone is None else tone.name

    real = [(c, r) for c, r in zip(clips, verdicts, strict=True) if c.untouched]
    found: dict[str, Any] = {
        "tone": _by(real, tone_name, [name for _, name in TONES] + ["no colour"]),
        "tone_uncertainty": _uncertainty(people, tones),
        "source": _by(real, lambda clip: clip.source or "unknown"),
        "sex": None,
        "sex_note": (
            "not measured: provenance.csv has no column `sex`, and a guess from the picture would "
            "measure the guess"
        ),
    }
    if sexes is not None:
        found["sex"] = _by(real, lambda clip: sexes.get(clip.person, "") or "not said")
        found["sex_note"] = "as the providers of the pictures say, from provenance.csv"
    return found


def read_sexes(data: Path) -> dict[str, str] | None:
    """Read a column of provenance.csv; None where it has no such column or only empty cells."""
    with (data / "provenance.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    sexes = {row["person_id"]: row.get("sex") or "" for row in rows}
    return sexes if any(sexes.values()) else None


def _by(
    rows: Sequence[tuple[Clip, ClipVerdict]], name: Callable[[Clip], str], order: Sequence[str] = ()
) -> dict[str, Any]:
    """For each group: people, clips, and the shares of people with a false alarm (Wilson)."""
    members: dict[str, dict[str, list[ClipVerdict]]] = defaultdict(lambda: defaultdict(list))
    for clip, one in rows:
        members[name(clip)][clip.person].append(one)
    wanted = [each for each in order if each in members]
    found = {}
    for group in [*wanted, *sorted(set(members) - set(wanted))]:
        each = list(members[group].values())
        over = sum(any(r.label is Label.MANIPULATED for r in own) for own in each)
        review = sum(
            any(r.label in (Label.MANIPULATED, Label.SUSPICIOUS) for r in own) for own in each
        )
        # Alarms are rare; the evidence itself shows a difference long before they do.
        means = [
            float(np.mean(values))
            for own in each
            if (values := [v for r in own for v in r.windows])
        ]
        error = 1.96 * float(np.std(means, ddof=1)) / len(means) ** 0.5 if len(means) > 1 else None
        found[group] = {
            "people": len(each),
            "clips": sum(map(len, each)),
            "manipulated": as_json(wilson(over, len(each))),
            "suspicious": as_json(wilson(review, len(each))),
            "mean_llr": float(np.mean(means)) if means else None,
            "mean_llr_error": error,
        }
    return found


def _uncertainty(people: Sequence[Person], tones: Mapping[str, Tone | None]) -> dict[str, Any]:
    """The spread of the angle: between cheeks, and between pictures of one person."""
    own: dict[str, list[float]] = defaultdict(list)
    for person in people:
        tone = tones[person.name]
        if tone is not None:
            own[person.person].append(tone.angle)
    several = [np.std(angles, ddof=1) for angles in own.values() if len(angles) > 1]
    differences = [tone.difference for tone in tones.values() if tone is not None]
    return {
        "pictures": len(tones),
        "measured": len(differences),
        "cheeks_differ": float(np.median(differences)) if differences else None,
        "pictures_spread": float(np.sqrt(np.mean(np.square(several)))) if several else None,
        "people_with_several": len(several),
    }
