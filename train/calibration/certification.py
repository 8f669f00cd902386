"""Certify weights: the checks that they must pass to become the default, and their installation.

Every check is reported with its figure; no factor or cap makes a failing one pass. A user's own
model needs no certificate to scan: its verdicts say what was not measured.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepscan.errors import UsageError
from deepscan.files import atomic_output
from deepscan.verdict.calibration import ENOUGH, Calibration
from deepscan.verdict.decide import MODEL_FLOOR
from train.calibration.model_card import model_card, readme_figures
from train.calibration.shortcut_test import LEAST

SOURCE_LIMIT = 0.7  # how surely real faces of one source may score above those of the others
README = re.compile(r"(<!-- figures of the default model -->\n).*?(<!-- end of figures -->)", re.S)


def failures(card: Mapping[str, Any], replaced: Mapping[str, Any] | None) -> list[str]:
    """List the failed checks of weights; empty if they may become the default.

    Args:
        card: as `train.calibration.certify` made it.
        replaced: the card of the default that they are to replace, None: there is none.
    """
    evaluation = card["evaluation"]
    calibration = Calibration.from_card(card)
    found = []
    auc = evaluation["auc"]["value"]
    if not auc >= MODEL_FLOOR:
        found.append(f"frame AUC {auc:.3f} on made crops is below the floor of {MODEL_FLOOR}")
    made = calibration.measured
    if made > calibration.rate:
        found.append(f"{made:.2%} of made clips are false alarms, {calibration.rate:.2%} promised")
    return [*found, *_real(calibration), *_sources(evaluation), *_headline(evaluation, replaced)]


def _real(calibration: Calibration) -> list[str]:
    """Real material above the upper bound stated for made clips, or none at all."""
    bound = max(calibration.rate, calibration.measured_interval[1])
    real = [each for each in calibration.material if not (each.manipulated or each.seen)]
    found = [] if real else ["no real material that training has not seen was measured"]
    for each in real:
        counted = each.at(calibration.rate)
        # A few files exceed a bound only where their whole interval lies above it.
        share = counted.share if each.files >= ENOUGH else counted.interval[0]
        if share > bound:
            found.append(
                f"{counted.called} of {each.files} {each.name} are called manipulated: above the "
                f"stated upper bound of {bound:.2%}"
            )
    return found


def _sources(evaluation: Mapping[str, Any]) -> list[str]:
    found = []
    for name, row in ((evaluation.get("sources") or {}).get("by_source") or {}).items():
        higher = row["higher_than_others"]
        if row["people"] < LEAST or higher is None:
            continue  # their faces, not their source
        if higher["low"] > SOURCE_LIMIT:
            found.append(
                f"real faces of {name} score above those of other sources: {higher['value']:.2f} "
                f"[{higher['low']:.2f}, {higher['high']:.2f}]"
            )
    return found


def _headline(evaluation: Mapping[str, Any], replaced: Mapping[str, Any] | None) -> list[str]:
    real = evaluation.get("real_deepfakes")
    if not real or real.get("headline") is None:
        return ["not measured on real deepfakes: give the set with --devset"]
    before = ((replaced or {}).get("evaluation") or {}).get("real_deepfakes") or {}
    if replaced is None or before.get("headline") is None:
        return []
    if real["headline"] < before["headline"]:
        return [
            f"the mean of clip AUCs over live swap, FF++ c23 and Celeb-DF is "
            f"{real['headline']:.3f}, that of {replaced['name']}, which they would replace, is "
            f"{before['headline']:.3f}"
        ]
    return []


def install(card: Path, root: Path) -> list[Path]:
    """Make certified weights the ones that ship; returns the files written under `root`.

    Weights and card go to deepscan/weights, the model card and its diagram to docs, the figures
    into README.md.

    Raises:
        UsageError: they are not certified, or README.md has no place for figures.
    """
    values = json.loads(card.read_text("utf-8"))
    certificate = values.get("certification", {})
    if not certificate.get("passed"):
        why = "; ".join(certificate.get("failed", ["they were not certified"]))
        raise UsageError(f"{card.stem} may not ship: {why}")
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    if not README.search(text):
        raise UsageError(f"{readme} lacks the marks of the figures of the default model")
    shown = README.sub(lambda m: m[1] + readme_figures(values) + "\n" + m[2], text)
    weights = root / "deepscan" / "weights"
    written = [weights / card.with_suffix(".safetensors").name, weights / card.name]
    shutil.copyfile(card.with_suffix(".safetensors"), written[0])
    shutil.copyfile(card, written[1])
    diagram = card.parent / "docs" / "reliability.svg"
    pages = [(root / "docs" / "model-card.md", model_card(values)), (readme, shown)]
    shutil.copyfile(diagram, root / "docs" / diagram.name)
    for path, page in pages:
        with atomic_output(path) as part:
            part.write_text(page, "utf-8")
    return [*written, root / "docs" / diagram.name, *(path for path, _ in pages)]
