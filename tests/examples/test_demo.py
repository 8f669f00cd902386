"""The demo as a user runs it: the shipped model, real decoding, a truth that only it knows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deepscan.models.card import FOLDER
from deepscan.types import Label


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, shipped_model: object) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo")
    ran = subprocess.run(
        [sys.executable, "-m", "examples.demo", str(out)],
        capture_output=True,
        text=True,
        cwd=FOLDER.parent.parent,
        timeout=280,
        check=True,
    )
    return out, ran.stdout


def test_the_demo_writes_everything_and_says_where(said: tuple[Path, str]) -> None:
    out, text = said
    for name in ("mp4", "masks.mkv", "json", "frames.jsonl", "html"):
        assert (out / f"result.{name}").stat().st_size > 0
        assert f"result.{name}" in text


def test_the_demo_finds_the_manipulated_seconds_and_pixels(said: tuple[Path, str]) -> None:
    _, text = said
    found = re.search(
        r"masks IoU ([\d.]+); intervals IoU ([\d.]+); ([\d.]+)% of the judged pixels", text
    )
    assert found, text
    masks, intervals, false = map(float, found.groups())
    assert f"clip.mp4: {Label.MANIPULATED}" in text
    assert masks > 0.4
    assert intervals > 0.6
    assert false < 15
