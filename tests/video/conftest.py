"""Clips for the tests in this folder, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepscan.video.isolation.launcher import _FORKSERVER
from tests.media import make_video

Clip = Callable[..., Path]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Give the path of a clip of that name made with those arguments; each is made only once."""
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, Path] = {}

    def make(name: str, **wanted: Any) -> Path:
        key = f"{name} {sorted(wanted.items())}"
        if key not in made:
            place = folder / f"{len(made)}"
            place.mkdir()
            made[key] = make_video(place / name, **{"frames": 20, "size": (160, 120), **wanted})
        return made[key]

    return make


@pytest.fixture(scope="session", autouse=True)
def server() -> None:
    """What all files share is there before anybody counts descriptors."""
    _FORKSERVER.server()
