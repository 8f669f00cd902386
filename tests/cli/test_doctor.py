"""The doctor tells what works, believes nothing, and never raises over what is broken."""

from __future__ import annotations

import json

import pytest

from deepscan.cli import doctor
from deepscan.cli.doctor import Finding, examine
from deepscan.engines.choose import build, load_engine, parse_name
from deepscan.engines.hardware import Hardware, detect_hardware
from deepscan.engines.parity import selftest_values
from deepscan.models.library import read_card
from deepscan.options import ScanOptions
from tests.models.build import write_model

TINY = ScanOptions(model="tiny")


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """The self-test of the model "tiny", as the reference computes it."""
    folder = tmp_path_factory.mktemp("first")
    write_model(folder)
    engine = build(parse_name("torch-cpu-fp32"), read_card("tiny", folder), detect_hardware(), "")
    return selftest_values(engine)


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(warm, monkeypatch):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(warm))


@pytest.fixture
def quick(monkeypatch):
    """Only the reference is tried, and no process is started."""
    monkeypatch.setattr(doctor, "every_choice", lambda _: [parse_name("torch-cpu-fp32")])
    monkeypatch.setattr(doctor, "_run_child", lambda code: Finding("", True, '{"libx": "1.2.3"}'))
    return ScanOptions(model="tiny", engine="torch-cpu-fp32")


def test_a_healthy_installation_is_told_in_full(values, tmp_path):
    write_model(tmp_path, selftest=values, calibration={"name": "tiny-1"})
    report = examine(TINY, folder=tmp_path)
    assert report.ok and report.reasons == ()
    engine = load_engine("auto", "tiny", folder=tmp_path)
    assert report.chosen_engine == engine.name and report.chosen_reason == engine.info.reason
    found = {one.name: one for one in report.engines}
    assert {"openvino-cpu-fp32", "torch-cpu-fp32", "torch-cuda-fp32"} <= set(found)
    assert (
        found["openvino-cpu-fp32"].works and found["openvino-cpu-fp32"].parity.mean_mask_iou > 0.99
    )
    assert found["torch-cpu-fp32"].detail == "the reference"
    assert found["torch-cuda-fp32"].works == (detect_hardware().cuda is not None)
    assert report.selftest.works and report.selftest.largest_difference < 0.02
    assert report.model.calibration == "tiny-1" and report.model.auc == 0.75
    assert [one.name for one in report.decoders] == ["pyav", "decord"]
    assert report.decoders[0].works
    names = [name for name, _ in report.versions]
    assert {"deepscan", "python", "torch", "openvino", "libavcodec"} <= set(names)
    assert report.cache_free > 0

    assert json.loads(report.to_json())["model"]["name"] == "tiny"
    text = report.to_text()
    for word in ("works here", report.chosen_engine, values_of(report), "tiny-1", "known crops"):
        assert word in text


def values_of(report):
    return report.model.sha256


def test_a_model_that_answers_otherwise_is_found_out(values, tmp_path, quick):
    wrong = values | {"scores": [values["scores"][0] + 0.1, *values["scores"][1:]]}
    write_model(tmp_path, selftest=wrong)
    report = examine(quick, folder=tmp_path)
    assert not report.ok and report.selftest.works is False
    assert report.selftest.largest_difference == pytest.approx(0.1, abs=1e-3)
    assert "self-test failed" in report.reasons[0]
    assert "NOT" in report.to_text()


@pytest.mark.parametrize(
    "change", [{"seed": 99}, {"scores": [0.5]}, {"scores": None}, {"tolerance": "wide"}]
)
def test_a_selftest_that_cannot_be_made_has_failed(values, tmp_path, quick, change):
    write_model(tmp_path, selftest=values | change)
    report = examine(quick, folder=tmp_path)
    assert not report.ok and report.selftest.works is False


def test_a_card_without_selftest_is_noted(tmp_path, quick):
    write_model(tmp_path)
    report = examine(quick, folder=tmp_path)
    assert report.ok and report.selftest.works is None
    assert any("no self-test" in note for note in report.notes)


def test_a_missing_model_is_a_finding(tmp_path, quick):
    report = examine(quick, folder=tmp_path)
    assert not report.ok and report.model is None and report.chosen_engine is None
    assert "no model 'tiny'" in report.reasons[0]
    assert json.loads(report.to_json())["model"] is None and "tiny" in report.to_text()


def test_damaged_weights_are_a_finding(tmp_path, quick):
    write_model(tmp_path)
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    report = examine(quick, folder=tmp_path)
    assert not report.ok and "SHA-256" in report.reasons[0]


def test_an_engine_that_was_asked_for_and_does_not_run_is_a_finding(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(doctor, "detect_hardware", lambda: Hardware("a plain CPU", (), 2, None))
    write_model(tmp_path)
    for name, word in (("torch-cuda", "no CUDA"), ("openvino-bf16", "bf16"), ("nothing", "engine")):
        report = examine(ScanOptions(model="tiny", engine=name), folder=tmp_path)
        assert not report.ok and report.chosen_engine is None
        assert word in report.reasons[0]


def test_without_a_decoder_nothing_works_and_without_decord_all_does(tmp_path, quick, monkeypatch):
    write_model(tmp_path)
    answers = {
        doctor._AV: Finding("", True, "{}"),
        doctor._DECORD: Finding("", False, "No module named 'decord'"),
        doctor._SANDBOX: Finding("", True, "none"),
    }
    monkeypatch.setattr(doctor, "_run_child", answers.__getitem__)
    report = examine(quick, folder=tmp_path)
    assert report.ok
    assert [one.works for one in report.decoders] == [True, False]
    assert report.sandbox == "none" and any("Landlock" in note for note in report.notes)

    answers[doctor._AV] = Finding("", False, "No module named 'av'")
    report = examine(quick, folder=tmp_path)
    assert not report.ok and "No module named 'av'" in report.reasons[0]


def test_children_tell_what_they_print_or_why_they_died():
    assert doctor._run_child("print('fine')").detail == "fine"
    failed = doctor._run_child("raise ImportError('gone')")
    assert not failed.works and "gone" in failed.detail
    killed = doctor._run_child("import os; os.abort()")
    assert not killed.works and "exit status" in killed.detail


def test_no_cache_is_noted(tmp_path, quick, monkeypatch):
    write_model(tmp_path)
    for name in ("DEEPSCAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    report = examine(quick, folder=tmp_path)
    assert report.ok and report.cache is None and any("no cache" in note for note in report.notes)
