"""A fitted calibration: scores to likelihood ratios, band by band, and the thresholds on them.

It is fitted on clips made for it, and its promise is checked on other material: real pictures and
clips, and real deepfakes. The files among them that are called manipulated are counted, at any
operating point; nothing is fitted on deepfakes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepscan.errors import ModelError, UsageError
from deepscan.types import Counted

ENOUGH = 100  # files of real material from which on a share of them is a rate
LOGIT_LIMIT = 8.0  # scores of exactly 0 or 1 are not infinitely sure
Floats = NDArray[np.float64]


def logit(score: float) -> float:
    """ln(p / (1 - p)), limited to +-LOGIT_LIMIT."""
    if score <= 0.0:
        return -LOGIT_LIMIT
    if score >= 1.0:
        return LOGIT_LIMIT
    return max(-LOGIT_LIMIT, min(LOGIT_LIMIT, math.log(score / (1 - score))))


def sigmoid(llr: float) -> float:
    """P(manipulated) at even prior odds."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, llr))))


@dataclass(frozen=True, slots=True)
class Tail:
    """Upper tail of the LLR of unmanipulated windows: P(LLR > x) = q exp(-(x - u) / b), x >= u."""

    u: float
    q: float
    b: float

    def threshold(self, looks: float, rate: float) -> float:
        """The LLR that unmanipulated files with `looks` looks exceed in a share `rate` of cases.

        Never below u, where nothing is known of the tail.
        """
        return self.u + max(0.0, self.b * math.log(looks * self.q / rate))

    def rate(self, looks: float, llr: Floats) -> Floats:
        """The lowest rate at which each LLR passes the threshold for `looks` looks; may exceed 1.

        Infinite below u, where no rate lets anything pass.
        """
        over = looks * self.q * np.exp(-np.maximum(llr - self.u, 0.0) / self.b)
        return np.where(llr >= self.u, over, np.inf)


@dataclass(frozen=True, slots=True)
class Scale:
    """LLR = slope * mean logit + offset, and the tail that unmanipulated windows have on it."""

    slope: float
    offset: float
    tail: Tail

    def llr(self, logit: Floats) -> Floats:
        return self.slope * logit + self.offset


@dataclass(frozen=True, slots=True)
class Material:
    """Files of one kind. `alarms` are, in rising order, the lowest false-alarm rates at which the
    rule calls them manipulated, as far as there are any.

    `groups` counts people or recordings. `seen` says that training may have seen them, so that they
    bound nothing.
    """

    name: str
    manipulated: bool
    files: int
    groups: int
    alarms: tuple[float, ...]
    seen: bool = False

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: there are no files, or more alarms than files.
        """
        if not (0 < self.groups <= self.files and len(self.alarms) <= self.files):
            raise ValueError(f"no material: {self.name}, {self.files} files")
        if list(self.alarms) != sorted(self.alarms):
            raise ValueError(f"the alarms of {self.name} do not rise")

    def at(self, rate: float) -> Counted:
        """Count the files called manipulated with the operating point at this false-alarm rate."""
        called = bisect_right(self.alarms, rate)
        _, low, high = wilson(called, self.files)
        return Counted(
            self.name, self.manipulated, called, self.files, self.groups, (low, high), self.seen
        )


@dataclass(frozen=True, slots=True)
class Stated:
    """A share of false alarms with its 95 % interval, and what it was measured on."""

    share: float
    interval: tuple[float, float]
    on: str


Range = tuple[float, float | None]  # [low, high); None: no end


@dataclass(frozen=True, slots=True)
class Band:
    """Faces of one quality, and the scales that were fitted on them.

    `size` is the longer side of the face box in pixels, `sharpness` as `FaceCrop` has it, `detail`
    as `deepscan.faces.crop` measures it. `clips` unmanipulated clips stand behind the tails.
    """

    size: Range
    sharpness: Range
    detail: Range
    clip: Scale
    still: Scale
    clips: int

    def holds(self, qualities: Floats) -> NDArray[np.bool_]:
        """Mask (N,) of the rows of (N, 3) qualities (size, sharpness, detail) in the band."""
        inside = np.ones(len(qualities), bool)
        for column, (low, high) in enumerate((self.size, self.sharpness, self.detail)):
            inside &= qualities[:, column] >= low
            if high is not None:
                inside &= qualities[:, column] < high
        return inside

    def scale(self, *, still: bool) -> Scale:
        return self.still if still else self.clip


@dataclass(frozen=True, slots=True)
class Calibration:
    """Two scales, for windows of a moving face and for single pictures, and their measured rates.

    `clip` and `still` are fitted on all clips together and hold where there are no `bands`; with
    bands each window is judged by the one that it lies in. `alarms` are, in rising order, the
    lowest rates at which held-out unmanipulated clips become false alarms, as far as those are
    known: the measured rate at any operating point can be counted from them. `material` is the
    other material that the model was tried on with this calibration. Without `likelihood_ratio` it
    was fitted on unmanipulated material alone: an LLR is then only a mean logit and says nothing
    about likelihood.
    """

    name: str
    population: str
    window: float  # seconds
    clip: Scale
    still: Scale
    rate: float  # false alarms a file at the operating point
    review_rate: float  # and at the review threshold
    measured: float
    measured_interval: tuple[float, float]
    clips: int
    bands: tuple[Band, ...] = ()
    alarms: tuple[float, ...] = ()
    material: tuple[Material, ...] = ()
    made_of: str = ""  # what the clips behind `measured` are, in two words: "made clips"
    likelihood_ratio: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would be found: NaN, or a slope that is not positive.

        Raises:
            ValueError: a number is outside of its range.
        """
        for band in self.bands:
            for low, high in (band.size, band.sharpness, band.detail):
                if not (0 <= low < math.inf and (high is None or low < high < math.inf)):
                    raise ValueError(f"no range of quality: {low} to {high}")
        scales = [scale for band in self.every_band for scale in (band.clip, band.still)]
        for scale in (self.clip, self.still, *scales):
            tail = scale.tail
            sound = 0 < tail.q <= 1 and 0 < tail.b < math.inf and math.isfinite(tail.u)
            if not (sound and 0 < scale.slope < math.inf and math.isfinite(scale.offset)):
                raise ValueError(f"no scale of evidence: {scale}")
        if not (0 < self.window < math.inf and 0 < self.rate <= self.review_rate < 1):
            raise ValueError(f"window {self.window}, rates {self.rate} and {self.review_rate}")

    @classmethod
    def from_card(cls, values: Mapping[str, Any]) -> Calibration:
        """Read the calibration of a model card.

        Raises:
            ModelError: the card has none, or it is damaged.
        """
        try:
            given = values["calibration"]
            low, high = given["measured_interval"]
            return cls(
                name=str(given["name"]),
                population=str(given["population"]),
                window=float(given["window"]),
                clip=_scale_of(given["clip"]),
                still=_scale_of(given["still"]),
                rate=float(given["rate"]),
                review_rate=float(given["review_rate"]),
                measured=float(given["measured"]),
                measured_interval=(float(low), float(high)),
                clips=int(given["clips"]),
                bands=tuple(_band_of(band) for band in given.get("bands", ())),
                alarms=tuple(float(rate) for rate in given.get("alarms", ())),
                material=tuple(_material(each) for each in given.get("material", ())),
                made_of=str(given.get("made_of", "")),
                likelihood_ratio=bool(given.get("likelihood_ratio", True)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"the model card has no usable calibration ({error!r}): without one no verdict "
                "can be given; calibrate the weights with `python -m train.calibration.certify`"
            ) from error

    @property
    def every_band(self) -> tuple[Band, ...]:
        """The bands; where there are none, one that holds every face."""
        whole: Range = (0.0, None)
        return self.bands or (Band(whole, whole, whole, self.clip, self.still, self.clips),)

    @property
    def stated(self) -> Stated:
        """The false-alarm rate that verdicts state: the highest of the measured ones.

        Real material counts if it is large enough for a rate and training has not seen it.
        """
        made = f"{self.clips:,} {self.made_of or 'unmanipulated clips of the calibration'}"
        found = [Stated(self.measured, self.measured_interval, made)]
        for each in self.material:
            if not (each.manipulated or each.seen) and each.files >= ENOUGH:
                now = each.at(self.rate)
                found.append(Stated(now.share, now.interval, f"{each.files:,} {each.name}"))
        return max(found, key=lambda one: one.share)

    def bands_of(self, qualities: Floats) -> NDArray[np.intp]:
        """For each row of (N, 3) qualities the index into `every_band`; -1 outside of all."""
        found = np.full(len(qualities), -1, np.intp)
        for index, band in enumerate(self.every_band):
            found[(found < 0) & band.holds(qualities)] = index
        return found

    def llr(self, logits: Floats, bands: NDArray[np.intp], *, still: bool) -> Floats:
        """Mean logits (N,) as LLR, each on the scale of its band; NaN outside of all."""
        values = np.full(len(logits), np.nan)
        for index, band in enumerate(self.every_band):
            here = bands == index
            values[here] = band.scale(still=still).llr(logits[here])
        return values

    def points(self, looks: float, *, still: bool, band: int = 0) -> tuple[float, float]:
        """Operating point and review point of a band, as LLR, for `looks` looks."""
        tail = self.every_band[band].scale(still=still).tail
        return tail.threshold(looks, self.rate), tail.threshold(looks, self.review_rate)

    def points_by_band(self, looks: float, *, still: bool) -> Floats:
        """`points` of every band: (bands, 2)."""
        count = len(self.every_band)
        return np.array([self.points(looks, still=still, band=band) for band in range(count)])

    def at(self, rate: float | None) -> Calibration:
        """Set another false-alarm rate at the operating point; None changes nothing.

        N unmanipulated clips support no rate below 1 / N, at which less than one false alarm is
        expected, and none above the share at which the tail begins.

        Raises:
            UsageError: these clips cannot support the rate.
        """
        if rate is None or rate == self.rate:
            return self
        most = min(min(band.clip.tail.q, band.still.tail.q) for band in self.every_band)
        if not self.alarms:
            raise UsageError(
                f"calibration {self.name} holds no single clips, so what a false-alarm rate of "
                f"{rate:g} would do was not measured: leave the rate out (it is {self.rate:g}), or "
                "calibrate anew with `python -m train.calibration.certify`"
            )
        if not 1 / self.clips <= rate <= most:
            least = math.ceil(1e4 / self.clips) / 10
            raise UsageError(
                f"{1000 * rate:g}/1000 false alarms are beyond calibration {self.name}: its "
                f"{self.clips} unmanipulated clips support {least:g}/1000 to {1000 * most:g}/1000"
            )
        share, low, high = wilson(bisect_right(self.alarms, rate), self.clips)
        return replace(
            self,
            name=f"{self.name}, set to {1000 * rate:g} false alarms in 1000",
            rate=rate,
            review_rate=max(rate, self.review_rate),
            measured=share,
            measured_interval=(low, high),
        )


def calibration_of(values: Mapping[str, Any]) -> Calibration | None:
    """Read the calibration of a model card; None if it has none, so that it gives no verdict.

    Raises:
        ModelError: the calibration is damaged.
    """
    return None if values.get("calibration") is None else Calibration.from_card(values)


def check_rate(calibration: Calibration | None, rate: float | None, model: str) -> None:
    """Check that a model supports a false-alarm rate; None asks for none.

    Raises:
        UsageError: its calibration does not support the rate, or it has none.
    """
    if calibration is not None:
        calibration.at(rate)
    elif rate is not None:
        raise UsageError(
            f"a false-alarm rate of {rate:g} cannot be promised: the model {model} is not "
            f"calibrated. Run: deepscan model calibrate {model} --real FOLDER --to NAME"
        )


def _scale_of(given: Mapping[str, Any]) -> Scale:
    tail = Tail(**{key: float(given["tail"][key]) for key in ("u", "q", "b")})
    return Scale(float(given["slope"]), float(given["offset"]), tail)


def _band_of(given: Mapping[str, Any]) -> Band:
    ranges: list[Range] = []
    for key in ("size", "sharpness", "detail"):
        low, high = given[key]
        ranges.append((float(low), None if high is None else float(high)))
    size, sharp, texture = ranges
    scales = _scale_of(given["clip"]), _scale_of(given["still"])
    return Band(size, sharp, texture, *scales, int(given["clips"]))


def _material(given: Mapping[str, Any]) -> Material:
    return Material(
        name=str(given["name"]),
        manipulated=bool(given["manipulated"]),
        files=int(given["files"]),
        groups=int(given["groups"]),
        alarms=tuple(float(rate) for rate in given["alarms"]),
        seen=bool(given.get("seen", False)),
    )


def wilson(count: int, total: int) -> tuple[float, float, float]:
    """A share with its 95 % interval (Wilson 1927)."""
    z = 1.959964
    share = count / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    spread = math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    half = z / (1 + z * z / total) * spread
    return share, max(0.0, centre - half), min(1.0, centre + half)
