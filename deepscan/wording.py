"""The verdict in words, the same in page, record and terminal.

All sentences are in the table `WORDING`. They follow forensic practice: support for one proposition
against another, with population and false-alarm rate, and always what the verdict does not mean.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepscan.types import (
    AI_SOURCES,
    Counted,
    Interval,
    Label,
    Measured,
    Provenance,
    Reason,
    Verdict,
)

LANGUAGE = "en"  # of all words, as it stands in records
KINDS = 3  # of deepfakes that one line names, the largest sets
FEW = 60  # files of which none called manipulated would not bound a rate below 5 %

WORDING: dict[str, str] = {
    "label.manipulated": "Manipulated",
    "label.suspicious": "Suspicious",
    "label.no-evidence": "No evidence",
    "label.inconclusive": "Inconclusive",
    "label.not-applicable": "Not applicable",
    "label.error": "Error",
    "headline.manipulated": "Signs of face manipulation were found.",
    "headline.suspicious": "Something here needs a closer look.",
    "headline.no-evidence": "No evidence of face manipulation was found.",
    "headline.inconclusive": "The analysis could not reach a conclusion.",
    "headline.not-applicable": "There was no face to analyse.",
    "headline.error": "The file could not be analysed.",
    "means.manipulated": (
        "In at least one interval of one face the model’s score lies over the operating point, a"
        " level that unmanipulated video seldom reaches."
    ),
    "means.suspicious": (
        "A score lies over the level for review but the evidence is not strong enough to call"
        " the face manipulated. A person should look at what is named below."
    ),
    "means.no-evidence": (
        "Enough of the faces was judged, and no interval of any face scored over the level for"
        " review."
    ),
    "means.inconclusive": (
        "Too little could be judged, or it could not be judged well enough, to say anything"
        " either way. The reasons are given below."
    ),
    "means.not-applicable": ("The file was read, but it shows no face that the model could judge."),
    "means.error": (
        "The file could not be read, or reading it had to be stopped. The reason is given below."
    ),
    "caveat.manipulated": (
        "It is not proof. It does not say who changed the picture, how or why, and beauty"
        " filters, strong compression or filming from a screen can raise scores too."
    ),
    "caveat.suspicious": (
        "It does not say that the video is manipulated, nor that it is not. Single scores at"
        " this level also occur in unmanipulated video."
    ),
    "caveat.no-evidence": (
        "It does not say that the video is real. The model can only fail to find: it sees"
        " faces, and only manipulations of the kinds it has learned. It does not judge voices,"
        " wholly generated scenes, misleading cuts or a false context."
    ),
    "caveat.inconclusive": (
        "It does not lean towards either answer: neither that the video is manipulated nor"
        " that it is not."
    ),
    "caveat.not-applicable": (
        "It does not say that the video is real or that nobody appears in it. Nothing was judged."
    ),
    "caveat.error": (
        "It says nothing about the content of the file. A damaged file is not a manipulated"
        " one, and a file that was not analysed is not a clean one."
    ),
    "interval": (
        "The analysed frames give {verbal} support for the proposition that face {face}"
        " between {start} and {end} was {proposition} rather than {alternative}, under model"
        " {model} (LR {ratio}, calibrated on {population}; false-alarm rate at this setting"
        " {rate} [95 % interval {low} to {high}]). {coverage}"
    ),
    "interval.neutral": (
        "The analysed frames support neither proposition about face {face} between {start} and"
        " {end}, manipulated or not, under model {model} (LR {ratio}, calibrated on"
        " {population}; false-alarm rate at this setting {rate} [95 % interval {low} to"
        " {high}]). {coverage}"
    ),
    "interval.rate": (
        "In the analysed frames face {face} between {start} and {end} lies over {level} of model"
        " {model}, which was set by unmanipulated material alone ({population}): no likelihood"
        " ratio is claimed. False-alarm rate at this setting {rate} [95 % interval {low} to"
        " {high}]. {coverage}"
    ),
    "level.manipulated": "the operating point",
    "level.suspicious": "the level for review",
    "proposition.manipulated": "manipulated",
    "proposition.not": "not",
    "proposition.unmanipulated": "not manipulated",
    "coverage": (
        "{judged} of {faces} face sightings were judged, in {scored} of {seconds} seconds."
    ),
    "coverage.still": "Faces in the picture that were judged: {judged} of {faces}.",
    "coverage.no-face": "{frames} looked at; no face was found.",
    "coverage.none": "Nothing of the file was analysed.",
    "false-alarms": (
        "False-alarm rate at this setting {rate} [95 % interval {low} to {high}], on {on}."
    ),
    "found": "At this setting {model} finds {called} of {files} real deepfakes{kinds}.",
    "found.unmeasured": "What {model} finds of real deepfakes was not measured.",
    "wrongly": "It wrongly calls {counts} manipulated.",
    "wrongly.unmeasured": "How often it calls real material manipulated was not measured.",
    "proof": "This is a screening result and not proof.",
    "verbal.limited": "limited",
    "verbal.moderate": "moderate",
    "verbal.moderately-strong": "moderately strong",
    "verbal.strong": "strong",
    "verbal.very-strong": "very strong",
    "scale": (
        "Words for the likelihood ratio (LR): 1 to 10 limited, 10 to 100 moderate, 100 to"
        " 1,000 moderately strong, 1,000 to 10,000 strong, above 10,000 very strong support;"
        " below 1 the same words hold for the opposite proposition, with 1/LR."
    ),
    "evidence": (
        "On people whom training never saw and on manipulations made for the test"
        " ({evaluated_on}) its AUC for single frames is {auc} [95 % interval {low} to {high}]:"
        " that says how well {model} knows these manipulations, and nothing of real deepfakes."
    ),
    "evidence.none": (
        "The model {model} is not certified: nobody has measured what it finds, and what it calls"
        " manipulated that is not."
    ),
}

_SCALE = (
    (10.0, "limited"),
    (100.0, "moderate"),
    (1_000.0, "moderately-strong"),
    (10_000.0, "strong"),
    (math.inf, "very-strong"),
)

# C0 and C1 controls, zero-width and bidirectional marks, line separators, annotation marks, tags
# and lone surrogates: they can make a file name look like another, or move a terminal's cursor.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Wording:
    """The verdict for people: `sentences` holds one evaluative sentence for each interval, or what
    was covered, and what the model is known to find. `scale` explains the verbal terms and is empty
    where none appears."""

    language: str
    label: str
    headline: str
    means: str
    does_not_mean: str
    sentences: tuple[str, ...]
    scale: str


def wording_of(verdict: Verdict) -> Wording:
    """The words for a verdict."""
    sentences = [interval_sentence(interval, verdict) for interval in verdict.intervals]
    if not sentences:
        sentences = [screening_sentence(verdict)]
    first = verdict.label is Label.NO_EVIDENCE  # what finds little says little by finding nothing
    sentences.insert(0 if first else len(sentences), found_sentence(verdict))
    ratios = any(interval.llr is not None for interval in verdict.intervals)
    scale = phrase("scale") if ratios else ""
    return _of_label(verdict.label, tuple(sentences), scale)


def wording_without_verdict(label: Label) -> Wording:
    """The words for a file without a verdict from its content."""
    return _of_label(label, (), "")


def interval_sentence(interval: Interval, verdict: Verdict) -> str:
    """Sentence on how strongly an interval supports that its face was manipulated."""
    calibration = verdict.calibration
    assert calibration is not None, "without a calibration there is no interval"
    low, high = calibration.false_alarm_interval
    values = {
        "face": str(interval.track_id),
        "start": timestamp(interval.start),
        "end": timestamp(interval.end),
        "model": verdict.model.name,
        "population": calibration.population,
        "rate": percent(calibration.false_alarm_rate),
        "low": percent(low),
        "high": percent(high),
        "coverage": coverage_sentence(verdict),
    }
    if interval.llr is None:
        text = phrase("interval.rate", level=phrase(f"level.{interval.label}"), **values)
    elif interval.llr == 0:
        text = phrase("interval.neutral", ratio=ratio(0), **values)
    else:
        found = interval.llr > 0
        text = phrase(
            "interval",
            ratio=ratio(interval.llr),
            verbal=phrase(f"verbal.{verbal(interval.llr)}"),
            proposition=phrase(f"proposition.{'manipulated' if found else 'unmanipulated'}"),
            alternative=phrase(f"proposition.{'not' if found else 'manipulated'}"),
            **values,
        )
    return f"{text} {phrase('proof')}"


def coverage_sentence(verdict: Verdict) -> str:
    """Sentence on coverage: judged faces, and seconds with a judged face."""
    coverage = verdict.coverage
    if not coverage.decoded:
        return phrase("coverage.none")
    if not coverage.faces:
        frames = "1 frame was" if coverage.analysed == 1 else f"{coverage.analysed} frames were"
        return phrase("coverage.no-face", frames=frames)
    still = verdict.video is not None and verdict.video.still
    return phrase(
        "coverage.still" if still else "coverage",
        judged=str(coverage.faces_scored),
        faces=str(coverage.faces),
        scored=f"{coverage.seconds_scored:.1f}",
        seconds=f"{coverage.seconds:.1f}",
    )


def screening_sentence(verdict: Verdict) -> str:
    """Sentence on coverage and on what a screening is; it also ends each interval's sentence."""
    return f"{coverage_sentence(verdict)} {phrase('proof')}"


def false_alarm_sentence(verdict: Verdict) -> str:
    """Sentence on how often unmanipulated material is called manipulated."""
    calibration = verdict.calibration
    assert calibration is not None, "without a calibration there is no interval"
    low, high = map(percent, calibration.false_alarm_interval)
    rate = percent(calibration.false_alarm_rate)
    on = calibration.measured_on or f"{calibration.clips:,} clips"
    return phrase("false-alarms", rate=rate, low=low, high=high, on=on)


def found_sentence(verdict: Verdict) -> str:
    """Sentence on how many real deepfakes the model finds at this operating point, and how many
    real files it calls manipulated; or that this was not measured."""
    model = verdict.model.name
    fakes = [each for each in verdict.measured if each.manipulated]
    # What training saw bounds nothing; the card lists it.
    real = [each for each in verdict.measured if not each.manipulated and not each.seen]
    if fakes:
        largest = sorted(fakes, key=lambda each: -each.files)[:KINDS]
        kinds = ", ".join(f"{each.called} of {each.files} {each.name}" for each in largest)
        found = phrase(
            "found",
            model=model,
            called=str(sum(each.called for each in fakes)),
            files=str(sum(each.files for each in fakes)),
            kinds=f" ({kinds})" if len(fakes) > 1 else f" ({fakes[0].name})",
        )
    else:
        found = phrase("found.unmeasured", model=model)
    if not real:
        return f"{found} {phrase('wrongly.unmeasured')}"
    return f"{found} {phrase('wrongly', counts=_listed([_counted(each) for each in real]))}"


def _counted(real: Counted) -> str:
    """A count of false alarms with its interval, and a note if the count is small."""
    low, high = map(percent, real.interval)
    limit = "; too few to show less" if real.files < FEW else ""
    return f"{real.called} of {real.files} {real.name} [{low} to {high}{limit}]"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def figures_of(verdict: Verdict) -> tuple[Measured, ...]:
    """Measured figures of the model: at this operating point, then those of its card."""
    counted = (
        Measured(
            f"{each.name} called manipulated",
            f"{each.files} {'real deepfakes' if each.manipulated else 'files nobody manipulated'}"
            f" of {each.groups} people or recordings" + (", seen in training" * each.seen),
            each.share,
            each.interval,
        )
        for each in verdict.measured
    )
    return (*counted, *verdict.model.evidence)


def evidence_sentence(verdict: Verdict) -> str:
    """Sentence on the measured quality of the model."""
    model = verdict.model
    if model.auc is None or model.auc_interval is None:
        return phrase("evidence.none", model=model.name)
    low, high = model.auc_interval
    return phrase(
        "evidence",
        model=model.name,
        evaluated_on=model.evaluated_on,
        auc=f"{model.auc:.3f}",
        low=f"{low:.3f}",
        high=f"{high:.3f}",
    )


def phrase(key: str, **values: str) -> str:
    """Fill one entry of the table.

    Raises:
        KeyError: the key is unknown, or a value is missing.
    """
    return WORDING[key].format(**values)


def verbal(llr: float) -> str:
    """The step of the verbal scale for a natural log-likelihood ratio, of either sign."""
    # A rounding error of the logarithm must not lift LR 10 over its bound.
    size = round(abs(llr), 9)
    return next(word for bound, word in _SCALE if size <= round(math.log(bound), 9))


def ratio(llr: float) -> str:
    """The likelihood ratio of a natural log-likelihood ratio, to two digits: "340", "1/12"."""
    size = abs(llr)
    if size > math.log(1e6):
        text = "over 1,000,000"
        return text if llr > 0 else "under 1/1,000,000"
    value = math.exp(size)
    digits = 1 if value < 9.95 else 0
    if value >= 99.5:
        value = round(value, 1 - math.floor(math.log10(value)))
    text = f"{value:,.{digits}f}"
    return text if llr >= 0 else f"1/{text}"


def credentials(provenance: Provenance) -> str:
    """Summarise content credentials in a few words; never as proof that a file is authentic."""
    match provenance.state, provenance.integrity, provenance.trust:
        case "valid", _, trust:
            text = f"signature intact, issuer {_ISSUER[trust or 'unchecked']}"
        case "invalid", "valid", _:
            text = "signature intact, certificate invalid"
        case "invalid", _, _:
            text = "altered after it was signed, or the signature is broken"
        case state, _, _:
            return state
    if provenance.source_type in AI_SOURCES:
        part = "" if provenance.source_type == AI_SOURCES[0] else "in part "
        text += f", says that it was {part}made by AI ({provenance.source_type})"
    return text


_ISSUER = {
    "unchecked": "not checked",
    "trusted": "trusted",
    "untrusted": "not trusted",
    "invalid": "not trusted",
}


def file_count(count: int) -> str:
    """ "1 file", "2,000 files"."""
    return f"{count:,} file{'s' * (count != 1)}"


def passed_over_text(counts: Iterable[tuple[str, int]]) -> str:
    """Summarise files that were not listed: "passed over: 2 .zip, 1 excluded", "" for none."""
    parts = [f"{count:,} {visible(what)}" for what, count in counts]
    return f"passed over: {', '.join(parts)}" if parts else ""


def percent(share: float) -> str:
    """Format a share in [0, 1]; "100 %" and "0 %" only for the exact values."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    value = 100 * share
    if value > 99:
        return f"{min(value, 99.99):.2f} %"
    if value < 0.005:
        return "under 0.01 %"
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.{1 if value >= 0.95 else 2}f} %"


def said_by_other_stream(reasons: Sequence[Reason]) -> bool:
    """True if the label comes from a stream besides the main one; the score does not apply."""
    return bool(reasons) and reasons[0].code == "other_stream"


def probability(score: float) -> str:
    """Format a probability; it is never rounded to 0 or 1."""
    if score > 0.99:
        return ">0.99"
    if score < 0.01:
        return "<0.01"
    return f"{score:.2f}"


def timestamp(seconds: float) -> str:
    """Format a time as "0:02.4" or, with hours, "1:00:07.0"."""
    tenths = round(max(0.0, seconds) * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    rest = f"{tenths // 10:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"


def time_span(start: float, end: float) -> str:
    """Format a time span as "0:02.4 to 0:03.0"."""
    return f"{timestamp(start)} to {timestamp(end)}"


def visible(text: str) -> str:
    """Spell out characters that hide or move text: "\\x1b", "\\u202e".

    The result can always be encoded as UTF-8.
    """

    def spell(found: re.Match[str]) -> str:
        code = ord(found[0])
        if code < 0x100:
            return f"\\x{code:02x}"
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return _UNSEEN.sub(spell, text)


def _of_label(label: Label, sentences: tuple[str, ...], scale: str) -> Wording:
    return Wording(
        language=LANGUAGE,
        label=phrase(f"label.{label}"),
        headline=phrase(f"headline.{label}"),
        means=phrase(f"means.{label}"),
        does_not_mean=phrase(f"caveat.{label}"),
        sentences=sentences,
        scale=scale,
    )


def counted(labels: Iterable[Label]) -> str:
    """Format the last line of every run: "3 files: 1 manipulated, 2 no-evidence"."""
    counts = Counter(labels)
    total = sum(counts.values())
    told = ", ".join(f"{counts[label]} {label}" for label in Label if counts[label])
    return f"{total} file{'s' * (total != 1)}: {told or 'nothing scanned'}"
