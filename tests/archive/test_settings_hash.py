"""The key holds all that decides a result, and nothing else."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from deepscan.archive.settings_hash import result_key, settings_hash
from deepscan.options import Limits, ScanOptions

VERSIONS = (("deepscan", "0.1.0"), ("python", "3.11.7"), ("av", "18.1.0"), ("openvino", "2025.4"))
ENGINE = "openvino-cpu-fp32"
BASE = settings_hash(ScanOptions(), "aa", ENGINE, VERSIONS)

OTHER = {int: 7, float: 0.123, bool: True, str: "other", type(None): 0.5}
IDLE = {"engine", "model", "isolate", "trust_list"}


@pytest.mark.parametrize("name", [field.name for field in fields(ScanOptions)])
def test_every_setting_that_changes_a_result_changes_the_key(name: str) -> None:
    value = getattr(ScanOptions(), name)
    other = Limits(frames=5) if name == "limits" else not value if value is True else None
    changed = replace(ScanOptions(), **{name: OTHER[type(value)] if other is None else other})
    assert (settings_hash(changed, "aa", ENGINE, VERSIONS) == BASE) == (name in IDLE)


def test_model_engine_calibration_and_content_change_it() -> None:
    others = {
        settings_hash(ScanOptions(), "bb", ENGINE, VERSIONS),
        settings_hash(ScanOptions(), "aa", "openvino-gpu-fp16", VERSIONS),
        settings_hash(ScanOptions(), "aa", ENGINE, VERSIONS, calibration="other/2"),
    }
    assert len({BASE, *others}) == 4
    assert len({result_key("c1", BASE), result_key("c2", BASE), result_key("c1", min(others))}) == 3


@pytest.mark.parametrize(
    ("package", "counts"),
    [("deepscan", True), ("av", True), ("openvino", True), ("python", False), ("timm", False)],
)
def test_only_versions_that_touch_a_result_count(package: str, counts: bool) -> None:
    versions = tuple({**dict(VERSIONS), package: "99"}.items())
    assert (settings_hash(ScanOptions(), "aa", ENGINE, versions) != BASE) is counts


def test_the_order_of_versions_does_not_matter() -> None:
    assert settings_hash(ScanOptions(), "aa", ENGINE, VERSIONS[::-1]) == BASE


def test_keys_hold_from_one_release_to_the_next() -> None:
    assert (
        result_key("aa", "bb") == "c7ec6d9bb93d526abb5919832ad473027244d476d593175329bfa9d66a1411b0"
    )
