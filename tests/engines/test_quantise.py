"""Eight bits: made from faces that somebody gave, measured on others, refused where it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepscan.engines import quantise as quantising
from deepscan.engines import shelf
from deepscan.engines.load import load_engine
from deepscan.engines.machine import Machine
from deepscan.engines.openvino import CENTRES, OpenVINOEngine
from deepscan.engines.parity import TOLERANCES, Conformity, probe
from deepscan.engines.quantise import LEAST_FACES, extremes, halves, quantise, read_faces
from deepscan.errors import EngineError, UsageError
from deepscan.models.weights import read_card
from tests.engines.test_recipe import write

pytest.importorskip("nncf", reason="the extra int8 is not installed")

RECIPE = """
model = "tiny"
runtime = "openvino"
precision = "int8"
[tolerance]
max_score_difference = 0.05
mean_score_difference = 0.01
mean_mask_iou = 0.85
max_mask_difference = 0.35
verdict_equality = 0.95
"""
GENEROUS = replace(TOLERANCES["int8"], max_score_difference=1.0, mean_score_difference=1.0,
                   mean_mask_iou=0.0, max_mask_difference=1.0, verdict_equality=0.0)  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder of pictures of any size: the probe's, moved and shaded."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "below").mkdir()
    for number in range(LEAST_FACES + 8):
        picture = np.roll(probe(80)[number % 12], number, axis=1) * (0.5 + number / 200)
        path = folder / ("below" if number % 2 else ".") / f"{number}.png"
        Image.fromarray(picture.astype(np.uint8)[:, : 80 - number % 7]).save(path)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def able(machine):
    if not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(machine.flags):
        pytest.skip("this CPU has no int8")
    return machine


@pytest.fixture(scope="module")
def made(able, models, faces, tmp_path_factory):
    """A cache that holds the model "tiny" in eight bits, and what that cost."""
    folder = tmp_path_factory.mktemp("int8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSCAN_CACHE", str(folder))
        # A network with made-up weights loses more than a trained one.
        patch.setattr(quantising, "COST_LIMIT", GENEROUS)
        cost = quantise(read_card("tiny", models), able, faces)
    return folder, cost


def test_the_cost_is_of_faces_that_did_not_calibrate(made):
    cost = made[1]
    assert cost.faces + cost.judged == LEAST_FACES + 8 and min(cost.faces, cost.judged) > 10
    assert 0 < cost.figures.mean_score_difference <= cost.figures.max_score_difference < 0.5
    assert cost.figures.mean_mask_iou > 0.5 and len(cost.calibration) == 64


def test_what_is_kept_runs_and_the_cost_stands_beside_it(made, models, able, monkeypatch):
    folder, cost = made
    monkeypatch.setenv("DEEPSCAN_CACHE", str(folder))
    engine = OpenVINOEngine(read_card("tiny", models), able, precision="int8")
    assert engine.name == "openvino-cpu-int8"
    found = engine.predict(probe(64)[:8])
    expected = load_engine("torch-cpu-fp32", "tiny", folder=models).predict(probe(64)[:8])
    assert 0 < np.abs(found.scores - expected.scores).max() < 0.5  # another computation
    (entry,) = [each for each in shelf.entries() if each.kind == "openvino-int8"]
    note = (folder / "engines" / f"{entry.key}.bin").read_bytes()
    note = json.loads(note[note.rindex(b'{"calibration"') :])
    assert note["figures"]["verdict_equality"] == cost.figures.verdict_equality
    assert note["faces"] == cost.faces and note["nncf"]


def test_only_the_later_stages_and_mfa_are_in_eight_bits(made, models, able, monkeypatch):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(made[0]))
    engine = OpenVINOEngine(read_card("tiny", models), able, precision="int8")
    precisions = {}
    for node in engine._compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        kind, precision = (str(facts[key].value) for key in ("layerType", "runtimePrecision"))
        precisions.setdefault(kind, []).append((node.get_friendly_name(), precision))
    convolutions = [precision for _, precision in precisions["Convolution"]]
    assert convolutions.count("u8") + convolutions.count("i8") > len(convolutions) / 3
    for kind in ("MatMul", "FullyConnected", "Softmax"):
        for name, precision in precisions[kind]:
            assert precision in ("f32", "bf16"), name
            assert precision == "f32" or not name.startswith(CENTRES)


def test_what_costs_too_much_is_refused_with_the_figures_and_not_kept(
    able, models, faces, monkeypatch, tmp_path
):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path))
    monkeypatch.setattr(quantising, "_quantised", lambda graph, constants, *_: (graph, constants))
    bad = Conformity(0.4, 0.1, 0.5, 0.9, 0.7)
    monkeypatch.setattr(quantising, "compare", lambda *_, **__: bad)
    with pytest.raises(EngineError, match=r"costs too much .*a score differs by 0\.4") as error:
        quantise(read_card("tiny", models), able, faces)
    assert "70.0% of the verdicts" in str(error.value)
    assert not [entry for entry in shelf.entries() if entry.kind == "openvino-int8"]


def test_a_full_disk_is_said(able, models, faces, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path))
    monkeypatch.setattr(quantising, "_quantised", lambda graph, constants, *_: (graph, constants))
    good = Conformity(0.0, 0.0, 1.0, 0.0, 1.0)
    monkeypatch.setattr(quantising, "compare", lambda *_, **__: good)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepscan.engines.cache._replace", full)
    with pytest.raises(EngineError, match="cannot be kept in"):
        quantise(read_card("tiny", models), able, faces)
    assert "No space left" in caplog.text


def test_it_is_built_from_a_recipe_and_the_proof_says_the_cost(
    deepscan_cli, able, models, faces, made, monkeypatch, tmp_path
):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path / "own"))
    folder = write(tmp_path, RECIPE, "tiny-openvino-int8")
    for key, value in (("models", models), ("recipes", folder)):
        monkeypatch.setitem(shelf.build_recipe.__kwdefaults__, key, value)
    arguments = ("engine", "build", "tiny-openvino-int8")
    ran = deepscan_cli(*arguments)
    assert ran.code == 2 and len(ran.err.splitlines()) == 1
    assert "never calibrated" in ran.err and "--calibration FOLDER_OF_FACES" in ran.err
    monkeypatch.setattr(quantising, "quantise", lambda *_: made[1])
    monkeypatch.setattr(
        shelf, "set_up", lambda *_, **__: load_engine("torch", "tiny", folder=models)
    )
    ran = deepscan_cli(*arguments, "--calibration", faces)
    assert ran.code == 0, ran.err
    assert f"{made[1].judged} faces beside the {made[1].faces} that calibrated" in ran.out
    assert "verdict equality" in ran.out and "share of equal verdicts" in ran.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("msccnet-s-openvino-int8", "--calibration", "/no/such"), "no such folder"),
        (("msccnet-s-openvino-int8", "--calibration", "EMPTY"), "0 pictures of faces"),
        (("msccnet-s-openvino-bf16", "--calibration", "EMPTY"), "takes no --calibration"),
        (("msccnet-s-openvino-bf16", "--device", "gpu"), "--device gpu: give cuda or cuda:N"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(deepscan_cli, able, tmp_path, arguments, told):
    arguments = [tmp_path if each == "EMPTY" else each for each in arguments]
    ran = deepscan_cli("engine", "build", *arguments)
    assert ran.code == 2 and told in ran.err and len(ran.err.splitlines()) == 1


def test_an_old_cpu_and_a_missing_package_are_said(models, faces, able, monkeypatch):
    card = read_card("tiny", models)
    old = Machine("an old CPU", ("avx2",), 2, None)
    with pytest.raises(EngineError, match=r"no int8 instructions \(VNNI\)"):
        quantise(card, old, faces)
    with pytest.raises(EngineError, match=r"no int8 instructions \(VNNI\)"):
        OpenVINOEngine(card, old, precision="int8")
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(EngineError, match=r"pip install 'deepscan\[int8\]'"):
        quantise(card, able, faces)


def test_without_a_cache_there_is_nowhere_to_keep_it(models, faces, able, monkeypatch):
    for variable in ("DEEPSCAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(EngineError, match="there is no cache"):
        quantise(read_card("tiny", models), able, faces)


def test_pictures_that_cannot_be_read_are_left_out_and_named(faces, tmp_path, caplog):
    crops = read_faces(faces, 32)
    assert crops.shape == (LEAST_FACES + 8, 32, 32, 3) and crops.dtype == np.uint8
    for path in faces.rglob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "half.png").write_bytes((faces / "0.png").read_bytes()[:100])
    with caplog.at_level("WARNING", "deepscan"):
        assert len(read_faces(tmp_path, 32)) == len(crops)
    assert "half.png is left out" in caplog.text


def test_halves_depend_on_nothing_but_the_pictures(faces):
    crops = read_faces(faces, 32)
    first, second = halves(crops)
    assert len(first) + len(second) == len(crops)
    again = halves(crops[::-1])
    assert {crop.tobytes() for crop in first} == {crop.tobytes() for crop in again[0]}
    with pytest.raises(UsageError, match="the same"):
        halves(np.zeros((70, 8, 8, 3), np.uint8))


def test_extremes_are_not_those_of_the_probe():
    assert extremes(64).shape == (11, 64, 64, 3)
    noise = {crop.tobytes() for crop in extremes(64)[:6]}
    assert not noise & {crop.tobytes() for crop in probe(64)}


def test_nncf_does_not_tell_its_vendor():
    code = (
        "import sys\nfrom deepscan.engines.quantise import _import_nncf\n_import_nncf()\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "import nncf.telemetry.wrapper as wrapper\n"
        "assert not isinstance(wrapper.telemetry, wrapper.NNCFTelemetry)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
