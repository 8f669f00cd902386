"""The cache saves work and is never believed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepscan.engines import maintenance, openvino
from deepscan.engines.cache import cache_folder, key_of, read_entry, write_entry
from deepscan.engines.choose import load_engine
from deepscan.engines.parity import probe
from deepscan.errors import ModelError
from tests.models.build import write_model

FACTS = {"kind": "test"}
PARTS = (b"first part", b"", b"third" * 1000)


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def test_an_entry_comes_back_as_it_was(folder):
    assert read_entry(folder, "key") is None
    write_entry(folder, "key", FACTS, *PARTS)
    assert read_entry(folder, "key") == PARTS
    assert read_entry(folder, "other") is None
    assert sorted(path.name for path in folder.iterdir()) == ["key.bin", "key.json"]


def test_a_later_entry_replaces_an_earlier_one(folder):
    write_entry(folder, "key", FACTS, b"old", b"older")
    write_entry(folder, "key", FACTS, b"new")
    assert read_entry(folder, "key") == (b"new",)


@pytest.mark.parametrize("suffix", [".bin", ".json"])
@pytest.mark.parametrize("length", [0, 1, 10, -1])
def test_a_truncated_entry_is_absent(folder, suffix, length):
    write_entry(folder, "key", FACTS, *PARTS)
    path = folder / f"key{suffix}"
    path.write_bytes(path.read_bytes()[:length])
    assert read_entry(folder, "key") is None


def test_any_changed_byte_makes_an_entry_absent(folder):
    write_entry(folder, "key", FACTS, *PARTS)
    data = (folder / "key.bin").read_bytes()
    for place in (0, 9, 10, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        (folder / "key.bin").write_bytes(changed)
        assert read_entry(folder, "key") is None
    (folder / "key.bin").write_bytes(data + b"x")
    assert read_entry(folder, "key") is None


@pytest.mark.parametrize("text", ["[]", "{}", '{"parts": 3}', '{"parts": [{}]}', '{"parts": [1]}'])
def test_a_side_file_that_is_something_else_makes_an_entry_absent(folder, text):
    write_entry(folder, "key", FACTS, *PARTS)
    (folder / "key.json").write_text(text)
    assert read_entry(folder, "key") is None


def test_half_an_entry_is_absent(folder):
    write_entry(folder, "key", FACTS, *PARTS)
    (folder / "key.json").unlink()
    assert read_entry(folder, "key") is None


def test_without_a_folder_nothing_is_kept(folder):
    write_entry(None, "key", FACTS, *PARTS)
    assert read_entry(None, "key") is None


def test_a_folder_that_cannot_be_written_is_no_error(folder, caplog):
    (folder / "file").write_text("")
    write_entry(folder / "file", "key", FACTS, *PARTS)
    assert "cannot be written" in caplog.text


def test_keys_follow_every_fact():
    assert key_of({"a": "1", "b": "2"}) == key_of({"b": "2", "a": "1"})
    assert len({key_of({"a": "1"}), key_of({"a": "2"}), key_of({"b": "1"}), key_of({})}) == 4


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "engines"
    monkeypatch.delenv("DEEPSCAN_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "deepscan" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "home" / ".cache" / "deepscan" / "engines"
    monkeypatch.delenv("HOME")
    assert cache_folder() is None


def test_a_folder_that_others_may_write_to_is_not_used(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path))
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(0o777)
    assert cache_folder() is None
    assert "chmod 700" in caplog.text


def test_the_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path / "new"))
    before = os.umask(0)
    try:
        folder = cache_folder()
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_place_of_the_folder_means_no_cache(monkeypatch, tmp_path):
    (tmp_path / "own").write_text("")
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path / "own"))
    assert cache_folder() is None


# The converted network


@pytest.fixture
def conversions(monkeypatch):
    """Counts conversions."""
    seen = []
    convert = openvino._convert

    def counting(*arguments):
        seen.append(arguments)
        return convert(*arguments)

    monkeypatch.setattr(openvino, "_convert", counting)
    return seen


def scores(models):
    engine = load_engine("openvino-fp32", "tiny", folder=models)
    found = engine.predict(probe(64)[:4]).scores
    engine.close()
    return found


@pytest.fixture(scope="module")
def converted(models, tmp_path_factory):
    """A cache that one engine has filled, and what that engine said."""
    place = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPSCAN_CACHE", str(place))
        return place, scores(models)


def test_a_network_is_converted_once(models, monkeypatch, conversions, converted):
    place, first = converted
    monkeypatch.setenv("DEEPSCAN_CACHE", str(place))
    assert np.array_equal(scores(models), first)
    assert conversions == []
    # One entry each for the network, what torch said about the probe, and the proof.
    assert len(list((place / "engines").glob("*.json"))) == 3


@pytest.mark.parametrize("damage", ["cut", "changed", "swapped"])
def test_a_damaged_network_is_converted_again(
    models, monkeypatch, tmp_path, conversions, converted, damage
):
    monkeypatch.setenv("DEEPSCAN_CACHE", str(tmp_path))
    place, expected = converted
    shutil.copytree(place / "engines", tmp_path / "engines")
    paths = sorted((tmp_path / "engines").glob("*.bin"), key=lambda path: path.stat().st_size)
    data = bytearray(paths[-1].read_bytes())
    if damage == "cut":
        paths[-1].write_bytes(data[: len(data) // 2])
    elif damage == "changed":
        data[len(data) // 2] ^= 0xFF
        paths[-1].write_bytes(data)
    else:
        paths[-1].write_bytes(paths[0].read_bytes())
    assert np.array_equal(scores(models), expected)
    assert len(conversions) == 1
    assert np.array_equal(scores(models), expected)
    assert len(conversions) == 1


def test_other_weights_are_another_entry(models, tmp_path, conversions):
    expected = scores(models)
    write_model(tmp_path, seed=9)
    assert not np.allclose(scores(tmp_path), expected, atol=1e-3)
    assert len(conversions) >= 1
    assert np.array_equal(scores(models), expected)


def test_weights_that_changed_are_an_error_though_the_cache_has_them(tmp_path):
    write_model(tmp_path)
    scores(tmp_path)
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match="SHA-256"):
        scores(tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        scores(tmp_path)


def test_without_a_cache_it_works_all_the_same(models, monkeypatch):
    expected = scores(models)
    for name in ("DEEPSCAN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert np.array_equal(scores(models), expected)


@pytest.mark.parametrize("proven", [True, False], ids=["the same CPU", "another CPU"])
def test_a_second_start_needs_no_torch_and_tells_nobody(models, cache, proven):
    scores(models)
    if not proven:  # a proof holds for one CPU; what torch said about the probe for all
        for entry in maintenance.entries(cache):
            if entry.kind == "parity":
                (cache / f"{entry.key}.json").unlink()
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from deepscan.engines.choose import load_engine\n"
        "load_engine('openvino-fp32', 'tiny', folder=Path(sys.argv[1]))\n"
        "from deepscan.engines.hardware import has_gpu_driver\n"
        "unwanted = {'timm', 'torchvision', 'deepscan.models.msccnet'} & set(sys.modules)\n"
        "assert has_gpu_driver() or 'torch' not in sys.modules\n"
        "assert not unwanted, unwanted\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(models)],
        env={**os.environ, "DEEPSCAN_CACHE": str(cache.parent)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_class_centres_stay_in_fp32(models, machine):
    """What the compiled network says about itself, in bf16."""
    if not machine.has_bf16:
        pytest.skip("this CPU has no bf16")
    engine = load_engine("openvino-bf16", "tiny", folder=models)
    found = {}
    for node in engine._compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        kind = str(facts["layerType"].value)
        found.setdefault(kind, []).append(
            (node.get_friendly_name(), str(facts["runtimePrecision"].value))
        )
    centres = [
        (kind, precision)
        for kind in ("MatMul", "FullyConnected", "Softmax")
        for name, precision in found[kind]
        if name.startswith(openvino.CENTRES)
    ]
    assert len(centres) == 5  # centres, projection, products with pixels, softmax, attended
    assert {precision for _, precision in centres} == {"f32"}
    convolutions = [precision for _, precision in found["Convolution"]]
    assert convolutions.count("bf16") > 0.9 * len(convolutions)
    engine.close()
