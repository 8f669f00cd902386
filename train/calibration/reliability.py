"""Is 0.8 right in eight of ten cases? The reliability of the calibrated P(manipulated).

Windows of made clips, each judged by a calibration that was fitted on other people, are sorted by
the probability they were given; in each bin the share that was forged should be the same. Both
kinds weigh the same in total, as the calibration's even prior odds have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepscan.files import atomic_output
from deepscan.verdict.calibration import sigmoid
from train.calibration.synthetic_validation import Clip, ClipVerdict, Floats
from train.evaluation.metrics import Estimate, estimated

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Windows given a probability in [low, high): their mean, the forged share with interval."""

    low: float
    high: float
    windows: int
    people: int
    mean: float
    share: Estimate


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins that hold anything, and the expected calibration error: the mean gap, by weight."""

    bins: tuple[Bin, ...]
    error: Estimate
    windows: int
    people: int

    def plain(self) -> dict[str, Any]:
        values = asdict(self)
        values["error"] = self.error._asdict()
        for one, written in zip(self.bins, values["bins"], strict=True):
            written["share"] = one.share._asdict()
        return values


def reliability(
    clips: Sequence[Clip], verdicts: Sequence[ClipVerdict], *, rounds: int = 500, bins: int = BINS
) -> Reliability:
    """Bin the windows of untouched and forged clips.

    Raises:
        ValueError: one of the kinds is missing.
    """
    rows = [
        (sigmoid(llr), clip.forged, clip.person)
        for clip, one in zip(clips, verdicts, strict=True)
        if clip.edit == "none"
        for llr in one.windows
    ]
    given = np.array([row[0] for row in rows])
    forged = np.array([row[1] for row in rows], bool)
    people = [row[2] for row in rows]
    if not rows or forged.all() or not forged.any():
        raise ValueError("a reliability diagram needs windows of both kinds")
    places = np.minimum((given * bins).astype(int), bins - 1)

    found = []
    weight = _weights(forged)
    for place in range(bins):
        here = np.flatnonzero(places == place)
        if not len(here):
            continue
        # Within a bin the weights stay those of the whole: even odds hold there, not here.
        ours = weight[here]

        def inside(drawn: np.ndarray, here: np.ndarray = here, ours: np.ndarray = ours) -> float:
            return float((ours[drawn] * forged[here[drawn]]).sum() / ours[drawn].sum())

        found.append(
            Bin(
                place / bins,
                (place + 1) / bins,
                len(here),
                len({people[index] for index in here}),
                float((ours * given[here]).sum() / ours.sum()),
                estimated(inside, [people[index] for index in here], rounds=rounds),
            )
        )

    def error(drawn: np.ndarray) -> float:
        return _error(given[drawn], forged[drawn], places[drawn], bins)

    return Reliability(
        tuple(found), estimated(error, people, rounds=rounds), len(rows), len(set(people))
    )


def _weights(forged: np.ndarray) -> Floats:
    """Both kinds sum to one half."""
    counts = max(1, int(forged.sum())), max(1, int((~forged).sum()))
    weights: Floats = np.where(forged, 0.5 / counts[0], 0.5 / counts[1])
    return weights


def _error(given: Floats, forged: np.ndarray, places: np.ndarray, bins: int) -> float:
    weight = _weights(forged)
    mass = np.bincount(places, weight, bins)
    hits = np.bincount(places, weight * forged, bins)
    said = np.bincount(places, weight * given, bins)
    return float(np.abs(hits - said).sum() / mass.sum())


def draw(found: Reliability, out: Path, title: str) -> None:
    """Draw the diagram; the suffix of `out`, .svg or .png, says how."""
    # The object interface: no window system, no state of the whole process.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "deepscan"}):
        figure = Figure(figsize=(5.2, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        upper, lower = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        upper.plot((0, 1), (0, 1), color="0.6", linewidth=1, label="as it should be")
        means = [one.mean for one in found.bins]
        shares = [one.share.value for one in found.bins]
        spread = [
            [max(0.0, one.share.value - one.share.low) for one in found.bins],
            [max(0.0, one.share.high - one.share.value) for one in found.bins],
        ]
        upper.errorbar(
            means, shares, yerr=spread, fmt="o-", color="#0072b2", markersize=4, capsize=2,
            linewidth=1, label="measured, 95 % over people",
        )  # fmt: skip
        upper.set_title(title, fontsize=10)
        upper.set_ylabel("share that was forged")
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1)
        upper.legend(loc="upper left", fontsize=8)
        error = found.error
        upper.text(
            0.98, 0.03,
            f"ECE {error.value:.3f} [{error.low:.3f}, {error.high:.3f}]\n"
            f"{found.windows} windows of {found.people} people",
            ha="right", va="bottom", fontsize=8, transform=upper.transAxes,
        )  # fmt: skip
        lower.bar(
            [one.low for one in found.bins], [one.windows for one in found.bins],
            [one.high - one.low for one in found.bins], align="edge", color="0.75",
        )  # fmt: skip
        lower.set_ylabel("windows")
        lower.set_xlabel("calibrated P(manipulated) at even odds")
        kind = out.suffix.lstrip(".")
        dateless = {"Date": None} if kind == "svg" else {}
        with atomic_output(out) as part:
            figure.savefig(part, format=kind, dpi=130, metadata=dateless)
