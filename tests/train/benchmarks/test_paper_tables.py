"""Tables from evaluation files: the right figure in the right cell, empty where there is none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from deepscan.errors import UsageError
from deepscan.models import MODELS
from train.benchmarks import paper_tables
from train.benchmarks.__main__ import app
from train.evaluation.evaluate import FORMAT

SMALL = MODELS["msccnet-s"]


def figures(auc, video=None, miou=None):
    image = {"accuracy": 0.7, "auc": auc, "macro_f1": 0.6, "eer": 0.3, "average_precision": 0.8}
    pixel = {"accuracy": 0.9, "macro_f1": 0.5, "miou": miou, "mcc": 0.4}
    return {
        "image": image,
        "pixel": None if miou is None else pixel,
        "video_auc": {"mean": video},
        "undefined": {},
    }


def evaluation(
    path, *, dataset, auc=0.5, video=None, miou=None, sha="aaaaaaaa11", config=SMALL, **more
):
    """A file as train.evaluation.evaluate writes it."""
    trained = more.pop("trained", {"name": "pixel-faceforensics", "manipulations": []})
    recipe = json.dumps({"dataset": trained, "forges": {} if trained else {"swap": 1.0}})
    data = {"dataset": dataset, "split": "test", "compression": more.pop("compression", "")}
    kinds = more.pop("manipulations", {})
    values = {
        "format": FORMAT,
        "model": {
            "name": "ours",
            "sha256": sha,
            "config": config.to_dict(),
            "training": {"recipe": recipe},
        },
        "data": data,
        "joint": figures(auc, video, miou),
        "manipulations": {kind: figures(value) for kind, value in kinds.items()},
        "failed": [],
        "robustness": more.pop("robustness", []),
    }
    assert not more
    path.write_text(json.dumps(values))
    return path


def rows_of(text):
    """Cells of a table without its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def read(*paths):
    return paper_tables.read_evaluations(paths)


def test_within_and_by_manipulation(tmp_path):
    found = read(
        evaluation(
            tmp_path / "a.json", dataset="pixel-faceforensics", compression="c40", auc=0.91,
            miou=0.625, manipulations={"Deepfakes": 0.95, "FaceSwap": 0.85},
        ),
        evaluation(tmp_path / "b.json", dataset="faceforensics", compression="c23", auc=0.97),
    )  # fmt: skip
    paper, c40, c23 = rows_of(paper_tables.intra(found))
    assert paper == ["MSCCNet (paper)", *[""] * 9]
    assert c40[:4] == ["ours (aaaaaaaa)", "c40", "0.700", "0.910"] and c40[8] == "0.625"
    assert c23[1] == "c23" and c23[3] == "0.970"
    assert c23[6:] == [""] * 4  # no pixel truth: empty, not zero
    kinds = [
        row for row in rows_of(paper_tables.per_manipulation(found)) if row[0].startswith("ours")
    ]
    assert [(row[2], row[4]) for row in kinds] == [("Deepfakes", "0.950"), ("FaceSwap", "0.850")]


def test_across_manipulations_shows_only_what_was_not_learned(tmp_path):
    found = read(
        evaluation(
            tmp_path / "a.json", dataset="pixel-faceforensics", compression="c23",
            trained={"name": "pixel-faceforensics", "manipulations": ["Deepfakes"]},
            manipulations={"Deepfakes": 0.99, "FaceSwap": 0.61},
        ),
    )  # fmt: skip
    own = [
        row for row in rows_of(paper_tables.cross_manipulation(found)) if row[0].startswith("ours")
    ]
    assert [row[1:3] for row in own] == [["Deepfakes", "FaceSwap"]]
    assert own[0][4] == "0.610"


def test_across_data_sets_needs_a_network_trained_on_the_paper_s_data(tmp_path):
    found = read(
        evaluation(tmp_path / "a.json", dataset="celeb-df-v2", auc=0.75),
        evaluation(tmp_path / "b.json", dataset="celeb-df-v2", auc=0.65, sha="b" * 9, trained={}),
    )
    own = [row for row in rows_of(paper_tables.cross_dataset(found)) if row[0].startswith("ours")]
    assert [(row[0], row[1], row[3]) for row in own] == [
        ("ours (aaaaaaaa)", "celeb-df-v2", "0.750")
    ]


def test_ablations_go_by_the_configuration(tmp_path):
    bare = replace(SMALL, mfa=False, mscc=False)
    wide = replace(SMALL, dct_k=4, band_k=4, graph=False)
    found = read(
        evaluation(tmp_path / "a.json", dataset="pixel-faceforensics", config=bare, sha="1" * 8),
        evaluation(tmp_path / "b.json", dataset="pixel-faceforensics", config=wide, sha="2" * 8),
    )
    all_of_them = paper_tables.all_tables()

    def variants(name):
        rows = rows_of(all_of_them[name][1](found))
        return {row[0][6:14]: row[1] for row in rows if row[0].startswith("ours")}

    assert variants("A6") == {"11111111": "baseline", "22222222": "MFA + MSCC"}
    assert variants("A7") == {"22222222": "fixed-dct"}
    assert variants("A8") == {"22222222": "k = 4 (N = 16), filters of k = 4"}
    assert variants("A9") == {"22222222": "with fused coarse map and without graph step"}


def test_field_tables_take_the_measure_of_their_level(tmp_path):
    found = read(
        evaluation(tmp_path / "a.json", dataset="celeb-df-v2", auc=0.71, video=0.76, trained={}),
        evaluation(tmp_path / "b.json", dataset="faceforensics", compression="c23", auc=0.93),
    )
    published = {table["name"]: table for table in paper_tables.read_published()}
    frames = rows_of(paper_tables.field_table(published["deepfakebench"], found))
    ours = frames[-1]
    assert ours[0] == "**ours (aaaaaaaa), ours**" and ours[1] == "resnet18"
    assert ours[2] == "0.930" and ours[5] == "0.710" and ours[3] == ""
    videos = rows_of(paper_tables.field_table(published["effort"], found))
    assert videos[-1][1] == "0.760" and set(videos[-1][2:]) == {""}
    untouched = rows_of(paper_tables.field_table(published["deepfakebench-types"], found))
    assert not [row for row in untouched if "ours" in row[0]]


def test_published_figures_are_whole_and_sourced():
    published = paper_tables.read_published()
    assert len({table["name"] for table in published}) == len(published)
    for table in published:
        titles = [column["title"] for column in table["columns"]]
        for row in table["rows"]:
            assert table.get("source") or row["source"]
            assert set(row["values"]) | set(row.get("marks", {})) <= set(titles)
            assert all(0.5 <= value <= 1 for value in row["values"].values()), row
    bench = next(table for table in published if table["name"] == "deepfakebench")
    xception = next(row for row in bench["rows"] if row["method"] == "Xception")
    assert xception["values"]["FF c23"] == 0.9637 and xception["values"]["CDFv2"] == 0.7365
    effort = next(table for table in published if table["name"] == "effort")["rows"][-1]
    mean = sum(value for key, value in effort["values"].items() if key != "avg") / 7
    assert mean == pytest.approx(effort["values"]["avg"], abs=5e-4)


def test_cost_of_the_paper_s_network_is_that_of_the_specification():
    parameters, macs = paper_tables.cost_of(MODELS["msccnet-r50"])
    assert parameters == 52_145_531
    assert macs / 1e9 == pytest.approx(218.25, abs=0.6)


def test_the_command(tmp_path):
    row = {"disturbance": "jpeg", "level": 30.0, "auc": 0.6, "iou_fake": None}
    evaluation(tmp_path / "a.json", dataset="dolos", auc=0.8, robustness=[row])
    run = CliRunner().invoke
    out = tmp_path / "tables.md"
    done = run(app, ["tables", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    text = out.read_text()
    for number in range(1, 11):
        assert f"## A{number}: " in text
    assert "## deepfakebench: " in text and "`a.json`" in text and str(tmp_path) not in text
    assert "| ours (aaaaaaaa) | dolos | jpeg | 30 | 0.600 |  |" in text
    one = run(app, ["tables", str(tmp_path / "a.json"), "--only", "A5"])
    assert one.exit_code == 0 and "## A5" in one.output and "## A6" not in one.output
    wrong = run(app, ["tables", "--only", "A11"])
    assert wrong.exit_code == 2 and "no table 'A11'; there are A1" in wrong.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "found 'list'"),
        ('{"format": "other/1"}', "expected a file of format"),
        (json.dumps({"format": FORMAT, "model": {}, "data": {}}), r"lacks joint, .*model.name"),
    ],
)
def test_a_file_that_is_no_evaluation_is_named(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read(path)


def test_two_files_of_the_same_are_refused(tmp_path):
    paths = [evaluation(tmp_path / f"{name}.json", dataset="dfd") for name in "ab"]
    with pytest.raises(UsageError, match="same network on the same data"):
        read(*paths)
    with pytest.raises(UsageError, match="found none"):
        (tmp_path / "empty").mkdir()
        read(tmp_path / "empty")
