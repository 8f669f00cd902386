"""One small model and one cache for the whole folder: a conversion costs seconds."""

from __future__ import annotations

import pytest

from deepscan.engines.hardware import detect_hardware
from tests.models.build import write_model


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with the model "tiny"."""
    folder = tmp_path_factory.mktemp("models")
    write_model(folder)
    return folder


@pytest.fixture(scope="session")
def machine():
    return detect_hardware()


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(warm_cache, monkeypatch):
    """Keep off the user's own cache."""
    monkeypatch.setenv("DEEPSCAN_CACHE", str(warm_cache))
    return warm_cache / "engines"
