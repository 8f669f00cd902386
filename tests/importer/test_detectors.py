"""Detectors of others: what they say in deepscan is what they say in their own framework."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from deepscan.engines.choose import create_engine, parse_name
from deepscan.engines.hardware import detect_hardware
from deepscan.engines.parity import predict_all, probe
from deepscan.errors import ModelError, UsageError
from deepscan.importer.detector import import_detector
from deepscan.importer.polarity import auc_interval
from deepscan.importer.questions import Answers
from deepscan.importer.wrap import MAX_MASK
from deepscan.models.library import list_cards, models_folder, read_card
from deepscan.models.onnx_file import read_facts
from tests.importer.conftest import BGR, INVERTED
from tests.models import detectors

ENGINES = ("onnxruntime-cpu-fp32", "openvino-cpu-fp32")


def predict(card, crops, name=ENGINES[0]):
    engine = create_engine(parse_name(name), card, detect_hardware())
    try:
        return predict_all(engine, crops)
    finally:
        engine.close()


def theirs(made, name, crops):
    if name == "bgr":
        return detectors.judge_classifier(made.classifier, crops), None
    return detectors.judge_segmenter(made.segmenter, crops)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["bgr", "inverted"])
def test_scores_and_masks_are_those_of_their_own_framework(made, imported, name, engine):
    crops = probe(detectors.SIDE)
    found = predict(imported[name], crops, engine)
    scores, masks = theirs(made, name, crops)
    assert np.ptp(scores) > 0.3
    assert np.abs(found.scores - scores).max() < 1e-3
    if masks is None:
        assert found.masks is None and not imported[name].has_mask
    else:
        assert np.abs(found.masks - masks).max() < 1e-3


def test_the_card_says_all_that_was_learnt(made, imported):
    card = read_card("bgr")
    assert (card.kind, card.licence, card.source) == ("onnx", "MIT", "made by the tests")
    assert card.input.colours == "bgr" and card.input.size == detectors.SIDE
    assert card.input.mean == pytest.approx([255 * value for value in detectors.MEAN])
    assert card.output.score == "two-logits" and card.output.manipulated == 0
    assert not card.certified and card.calibration is None and card.info.auc is None
    polarity = card.values["polarity"]
    assert polarity["settled_by"] == "crops" and polarity["crops"] == "yours"
    assert polarity["auc"] == 1.0 and polarity["low"] > 0.5 and polarity["real"] == 5
    assert card.values["origin"]["file"] == "classifier.onnx"
    assert read_card("inverted").output.mask_manipulated == 0


def test_the_file_carries_the_border(imported):
    facts = read_facts(imported["inverted"].path.read_bytes())
    assert [port.name for port in facts.inputs] == ["crops"]
    assert [port.name for port in facts.outputs] == ["scores", "masks"]
    assert facts.inputs[0].shape == (None, detectors.SIDE, detectors.SIDE, 3)


QUESTIONS = [
    ("colours", "order of its colours: give --colours"),
    ("mean", "how its pixels are scaled: give --pixels"),
    ("crop_scale", "--crop-scale 1.3"),
    ("score", r"which of its outputs is the score \(logits \(N, 2\)\)"),
    ("index", "which of its two scores is manipulated: give --index"),
]


@pytest.mark.parametrize(("left_out", "asked"), QUESTIONS)
def test_what_the_file_does_not_say_is_asked_for(made, left_out, asked):
    with pytest.raises(UsageError, match=asked):
        import_detector(made.bgr, "asked", replace(BGR, **{left_out: None}), {})


def test_a_file_that_says_less_is_asked_more(made, tmp_path):
    model = onnx.load(made.bgr)
    for dim in model.graph.input[0].type.tensor_type.shape.dim:
        dim.Clear()
        dim.dim_param = "any"
    path = tmp_path / "free.onnx"
    onnx.save(model, path)
    with pytest.raises(UsageError, match="give --layout"):
        import_detector(path, "asked", BGR, {})
    with pytest.raises(UsageError, match="give --input-size"):
        import_detector(path, "asked", replace(BGR, layout="nchw"), {})
    whole = replace(BGR, layout="nchw", input_size=detectors.SIDE)
    card = import_detector(path, "free", whole, {}, force=True)
    crops = probe(detectors.SIDE)
    expected = detectors.judge_classifier(made.classifier, crops)
    assert np.abs(predict(card, crops).scores - expected).max() < 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"index": 1}, r"clean faces higher.*turn it with --index 0"),
        ({"index": None, "score": "logit"}, "holds 2 numbers for a crop.*another --score"),
        ({"input_size": 64}, "takes crops of 96 px, not of 64"),
        ({"layout": "nhwc"}, "which is nchw, not nhwc"),
        ({"score": "p=two-logits"}, "has no output p"),
        ({"pixels": "0..1"}, "not both"),
        ({"mask": "two-logits"}, "cannot be score and mask"),
    ],
)
def test_what_contradicts_the_file_is_refused(made, changes, said):
    with pytest.raises((UsageError, ModelError), match=said):
        import_detector(made.bgr, "refused", replace(BGR, **changes), {}, **made.known)
    assert "refused" not in {card.name for card, _ in list_cards()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"polarity": "high"}, "turn it with --polarity low"),
        ({"mask_polarity": None}, "give --mask-polarity"),
        ({"mask": "mask=two-logits"}, r"its mask mask is \(N, 1, 96, 96\)"),
        ({"mask": "probability"}, "several outputs"),
        ({"index": 1}, "--index is for two numbers"),
    ],
)
def test_what_contradicts_a_segmenter_is_refused(made, changes, said):
    with pytest.raises((UsageError, ModelError), match=said):
        import_detector(made.inverted, "refused", replace(INVERTED, **changes), {}, **made.known)


def test_crops_that_cannot_tell_ask_for_others_or_a_word(made):
    unsaid = replace(INVERTED, polarity=None)
    with pytest.raises(
        UsageError, match=r"polarity.* is unclear.*--real FOLDER.*--polarity high or low"
    ):
        import_detector(made.inverted, "unsaid", unsaid, {})
    card = import_detector(made.inverted, "said", INVERTED, {}, force=True)
    assert card.values["polarity"]["settled_by"] == "statement"
    assert card.values["polarity"]["crops"] == "control crops"


@pytest.mark.parametrize("pair", [("real", None), (None, "manipulated")])
def test_one_kind_of_crops_is_not_enough(made, pair):
    given = {name: made.known[name] for name in pair if name}
    with pytest.raises(UsageError, match="together"):
        import_detector(made.bgr, "one", BGR, {}, **given)


def test_intervals_of_the_auc():
    for few, low in ((2, 0.5), (5, 0.65), (20, 0.88)):
        area, bottom, top = auc_interval(np.zeros(few), np.ones(few))
        assert area == top == 1.0 and abs(bottom - low) < 0.12
    area, bottom, top = auc_interval(np.arange(10.0), np.arange(10.0))
    assert bottom < area == 0.5 < top and top - area == pytest.approx(area - bottom)


class Constant(nn.Module):
    def forward(self, x):
        return x.mean(dim=(1, 2, 3)) * 0 + 0.3


class Broken(nn.Module):
    def forward(self, x):
        return torch.log(-1 - x.mean(dim=(1, 2, 3)))


class Company(nn.Module):
    """Judges a crop by what else is in the batch."""

    def forward(self, x):
        seen = x.mean(dim=(1, 2, 3))
        return torch.sigmoid(4 * (seen - seen.mean()))


class Unbounded(nn.Module):
    def forward(self, x):
        return 9 * x.mean(dim=(1, 2, 3))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Constant(), "ignores what it is given"),
        (Broken(), "NaN"),
        (Company(), "differently alone and among others"),
        (Unbounded(), "give --score logit"),
    ],
)
def test_a_model_that_says_nothing_is_refused_and_leaves_nothing(tmp_path, module, said):
    path = detectors.export(module, tmp_path / "odd.onnx")
    answers = Answers(
        colours="rgb", pixels="0..1", crop_scale=1.3, score="probability", polarity="high"
    )
    with pytest.raises(ModelError, match=said):
        import_detector(path, "odd", answers, {})
    assert not [one for one in models_folder().iterdir() if "odd" in one.name]


def test_a_graph_of_one_batch_is_filled_up(made, tmp_path, monkeypatch):
    path = detectors.export(made.classifier, tmp_path / "three.onnx", batch=3)
    card = import_detector(path, "three", BGR, {}, force=True)
    assert card.input.batch == 3
    crops = probe(detectors.SIDE)[:7]
    expected = detectors.judge_classifier(made.classifier, crops)
    for name in ENGINES:
        assert np.abs(predict(card, crops, name).scores - expected).max() < 1e-3


class Large(nn.Module):
    """A mask of two logits, larger than deepscan keeps."""

    def forward(self, x):
        blue = 30 * (x[:, 2:] - x[:, 1:2])
        mask = nn.functional.interpolate(torch.cat([-blue, blue], 1), scale_factor=4)
        return blue.mean(dim=(1, 2, 3)), mask


def test_large_masks_of_two_logits_are_averaged(tmp_path):
    path = detectors.export(Large().eval(), tmp_path / "large.onnx", outputs=("score", "mask"))
    answers = Answers(
        colours="rgb", pixels="0..1", crop_scale=1.3, score="score=logit", polarity="high",
        mask="mask=two-logits", mask_polarity="high",
    )  # fmt: skip
    card = import_detector(path, "large", answers, {}, force=True)
    assert card.output.mask_size == MAX_MASK
    crops = probe(detectors.SIDE)[:6]
    with torch.inference_mode():
        _, mask = Large()(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255)
        expected = torch.softmax(mask, 1)[:, 1:]
        expected = nn.functional.avg_pool2d(expected, 3)[:, 0].numpy()
    assert np.abs(predict(card, crops).masks - expected).max() < 1e-3


def test_weights_in_a_file_beside_it_are_taken_in(made, tmp_path):
    path = tmp_path / "split.onnx"
    onnx.save(
        onnx.load(made.bgr), path, save_as_external_data=True, location="split.bin",
        size_threshold=0,
    )  # fmt: skip
    card = import_detector(path, "split", BGR, {}, force=True)
    assert not read_facts(card.path.read_bytes()).external
    crops = probe(detectors.SIDE)
    expected = detectors.judge_classifier(made.classifier, crops)
    assert np.abs(predict(card, crops).scores - expected).max() < 1e-3


def changed(made, tmp_path, change):
    model = onnx.load(made.bgr)
    change(model)
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def elsewhere(place):
    def change(model):
        tensor = model.graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)

    return change


def foreign(model):
    model.graph.node[0].domain = "com.example"


def random(model):
    node = onnx.helper.make_node("RandomNormal", [], ["noise"], shape=[1])
    model.graph.node.append(node)


def inner_loop(model):
    body = onnx.helper.make_graph([onnx.helper.make_node("Loop", ["a"], ["b"])], "body", [], [])
    node = onnx.helper.make_node("If", ["c"], ["d"], then_branch=body, else_branch=body)
    model.graph.node.append(node)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (elsewhere("../weights.bin"), "outside of its folder"),
        (elsewhere("/etc/hostname"), "outside of its folder"),
        (elsewhere("missing.bin"), "does not lie beside it"),
        (foreign, "operators of com.example"),
        (random, "RandomNormal"),
        (inner_loop, "Loop"),
    ],
)
def test_files_that_reach_further_are_refused(made, tmp_path, change, said):
    with pytest.raises(ModelError, match=said):
        import_detector(changed(made, tmp_path, change), "reaching", BGR, {})


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x07", b"\x3a\xff\xff\xff\xff\x7f"])
def test_what_is_no_onnx_file_is_refused_in_one_line(tmp_path, data):
    path = tmp_path / "junk.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="no ONNX file") as found:
        import_detector(path, "junk", BGR, {})
    assert "\n" not in str(found.value)


def test_a_cut_file_is_refused_wherever_it_is_cut(made):
    data = made.bgr.read_bytes()
    whole = read_facts(data)
    for length in range(0, len(data), 97):
        try:
            facts = read_facts(data[:length])
        except ModelError:
            continue
        assert facts != whole


def test_a_changed_file_does_not_run(made, imported, tmp_path):
    card = imported["bgr"]
    folder = tmp_path / "copy"
    folder.mkdir()
    values = dict(card.values)
    (folder / "copy.onnx").write_bytes(made.bgr.read_bytes())  # not as an import writes it
    values["sha256"] = values["origin"]["sha256"]
    (folder / "copy.json").write_text(json.dumps(values))
    for name in ENGINES:
        with pytest.raises(ModelError, match="not as an import writes them"):
            predict(read_card(str(folder)), probe(detectors.SIDE), name)
    values["sha256"] = "0" * 64
    (folder / "copy.json").write_text(json.dumps(values))
    for name in ENGINES:
        with pytest.raises(ModelError, match="SHA-256"):
            predict(read_card(str(folder)), probe(detectors.SIDE), name)
