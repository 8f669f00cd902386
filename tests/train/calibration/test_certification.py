"""Who may be the default: no factor and no cap makes a failing model pass."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer

from deepscan.errors import UsageError
from deepscan.verdict.calibration import Calibration, Material, Scale, Tail
from train.calibration import model_card
from train.calibration.certification import failures, install
from train.calibration.certify import end
from train.calibration.model_card import readme_figures

WEIGHTS = Path(__file__).parents[3] / "deepscan" / "weights"

SCALE = Scale(1.0, 0.0, Tail(0.0, 0.1, 1.0))
MATERIAL = (
    Material("live swap", True, 23, 19, (0.001, 0.005)),
    Material("real pictures", False, 400, 380, (0.004, 0.009)),
    Material("real clips", False, 12, 10, ()),
    Material("real pictures that training saw", False, 200, 190, (0.001,) * 50, seen=True),
)
CALIBRATION = Calibration(
    "c", "p", 1.0, SCALE, SCALE, 0.01, 0.05, 0.005, (0.001, 0.02), 400, material=MATERIAL
)


def card(**changed: Any) -> dict[str, Any]:
    """One that passes; `changed` replaces materials, headline, AUC or figures of a source."""
    calibration = json.loads(json.dumps(asdict(CALIBRATION)))
    calibration |= {key: changed[key] for key in ("measured",) if key in changed}
    if "material" in changed:
        calibration["material"] = [asdict(each) for each in changed["material"]]
    higher = {"value": 0.6, "low": changed.get("source", 0.5), "high": 0.9}
    return {
        "name": "new",
        "calibration": calibration,
        "evaluation": {
            "auc": {"value": changed.get("auc", 0.9)},
            "sources": {"by_source": {
                "selfies": {"people": changed.get("people", 20), "higher_than_others": higher}
            }},
            "real_deepfakes": {"headline": changed.get("headline", 0.7), "looks": 3, "sets": {
                "all": {"clips": {"value": 0.66, "low": 0.5, "high": 0.8}}}},
        },
    }  # fmt: skip


def test_a_good_model_may_ship() -> None:
    assert failures(card(), card(headline=0.69)) == []
    assert failures(card(), None) == []
    before = card()
    del before["evaluation"]["real_deepfakes"]  # a default from before there was such a figure
    assert failures(card(), before) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"auc": 0.7}, "below the floor"),
        ({"measured": 0.03}, "of made clips are false alarms"),
        ({"source": 0.75}, "real faces of selfies"),
        ({"headline": 0.6}, "they would replace"),
        ({"headline": None}, "not measured on real deepfakes"),
        ({"material": MATERIAL[:1]}, "no real material"),
        ({"material": MATERIAL[-1:]}, "no real material"),  # training saw it
        (
            {"material": (Material("real pictures", False, 400, 380, (0.004,) * 12),)},
            "12 of 400 real pictures",
        ),
        (
            {"material": (Material("real clips", False, 12, 10, (0.004,) * 3),)},
            "3 of 12 real clips",
        ),
    ],
)
def test_each_failure_is_named(changed: dict[str, Any], said: str) -> None:
    (found,) = failures(card(**changed), card(headline=0.65))
    assert said in found


def test_one_clip_of_a_few_exceeds_nothing_for_sure() -> None:
    one = (*MATERIAL[:2], Material("real clips", False, 12, 10, (0.004,)))
    assert failures(card(material=one), None) == []


def test_two_people_are_no_source() -> None:
    assert failures(card(source=0.75, people=2), None) == []


def test_figures_of_the_readme_lead_with_real_deepfakes() -> None:
    text = " ".join(readme_figures(card()).split())
    assert text.startswith("**`new` finds 2 of 23 real deepfakes** at its operating point")
    assert "2 of 400 real pictures" in text and "3 looks" in text and "optimistic" in text
    bare = card(material=())
    del bare["evaluation"]["real_deepfakes"]
    assert "was not measured" in readme_figures(bare)


def checkout(root: Path) -> Path:
    for folder in ("deepscan/weights", "docs"):
        (root / folder).mkdir(parents=True)
    (root / "README.md").write_text(
        "# x\n<!-- figures of the default model -->\nold\n<!-- end of figures -->\nrest\n"
    )
    return root


def test_only_certified_weights_are_installed(tmp_path: Path) -> None:
    root, proof = checkout(tmp_path / "root"), tmp_path / "proof"
    (proof / "docs").mkdir(parents=True)
    (proof / "new.safetensors").write_bytes(b"weights")
    (proof / "new.json").write_text(json.dumps(card()))
    with pytest.raises(UsageError, match="were not certified"):
        install(proof / "new.json", root)
    refused = {**card(), "certification": {"passed": False, "failed": ["too weak"]}}
    (proof / "new.json").write_text(json.dumps(refused))
    with pytest.raises(UsageError, match="too weak"):
        install(proof / "new.json", root)
    assert "old" in (root / "README.md").read_text()
    assert not list((root / "deepscan/weights").iterdir())


def test_an_installed_model_is_in_weights_docs_and_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, proof = checkout(tmp_path / "root"), tmp_path / "proof"
    (proof / "docs").mkdir(parents=True)
    (proof / "new.safetensors").write_bytes(b"weights")
    (proof / "docs" / "reliability.svg").write_text("<svg/>")
    passed = deepcopy(card()) | {"certification": {"passed": True, "failed": []}}
    (proof / "new.json").write_text(json.dumps(passed))
    monkeypatch.setattr("train.calibration.certification.model_card", lambda values: "# card\n")
    written = install(proof / "new.json", root)
    assert sorted(path.relative_to(root).as_posix() for path in written) == [
        "README.md", "deepscan/weights/new.json", "deepscan/weights/new.safetensors",
        "docs/model-card.md", "docs/reliability.svg",
    ]  # fmt: skip
    text = (root / "README.md").read_text()
    assert "old" not in text and "finds 2 of 23" in text and text.endswith("rest\n")


def test_weights_that_fail_end_with_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = card()
    values["evaluation"]["evidence"] = [{"what": "clip AUC, all", "value": 0.6, "interval": [0, 1]}]
    values["certification"] = {"passed": False, "failed": ["too weak"], "notes": ["no controls"]}
    with pytest.raises(typer.Exit) as ended:
        end(values, tmp_path / "new.json", tmp_path)
    told = capsys.readouterr()
    assert ended.value.exit_code == 1 and "clip AUC, all: 0.600" in told.out
    assert "not certified: too weak" in told.err and "note: no controls" in told.err
    assert not list(tmp_path.iterdir())


def test_a_card_takes_the_list_of_looks_as_it_is_now(tmp_path):
    card, looks, page = tmp_path / "card.json", tmp_path / "looks.csv", tmp_path / "card.md"
    shipped = json.loads((WEIGHTS / "msccnet-lite0.json").read_text("utf-8"))
    card.write_text(json.dumps(shipped))
    looks.write_text("date,question,step,weights,headline,clips,pairs,difference\n"
                     "2026-01-01,which,9 crops,abc,0.600,0.61,0.62,\n")  # fmt: skip
    model_card.main(card, page, looks=looks)
    text, evaluation = page.read_text("utf-8"), json.loads(card.read_text("utf-8"))["evaluation"]
    assert "chosen with 1 look at them" in text and "| which | 9 crops | 0.600 |" in text
    found = evaluation["evidence"]
    assert "chosen with 1 look at them" in found[0]["on"]
    before = shipped["evaluation"]["evidence"]
    assert [each["what"] for each in found] == [each["what"] for each in before]
    assert [each["value"] for each in found] == [each["value"] for each in before]
