"""README, CONTRIBUTING and docs/: links, options, modules and commands are what they say.

Every line of a `console` block that begins with "$ " runs here, page by page, in a folder with made
media. What cannot run in a test (an installation, a cluster, hours of training) stands in a `sh`
block, whose options and modules are checked.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from click import Command, Group
from PIL import Image

from deepscan import exit_codes
from deepscan.cli import arguments, scan

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = {"README.md", "CONTRIBUTING.md"}  # pages whose commands run in the suite
HAVE_OWN_TEST = {"docs/speed.md"}  # tests/train/benchmarks/
EXIT_CODES = {0, exit_codes.FOUND, exit_codes.INCONCLUSIVE}
LONGEST_README = 130  # lines


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, kind: str) -> list[str]:
    """The lines of all fenced blocks of that kind, continued lines joined."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)
    return "".join(found).replace("\\\n", " ").splitlines()


def shown(page: Path) -> list[str]:
    """Commands that run: what follows "$ " in console blocks."""
    return [line[2:] for line in blocks(page, "console") if line.startswith("$ ")]


def commands(group: Any = None, before: tuple[str, ...] = ()) -> dict[tuple[str, ...], Command]:
    """Every command of `deepscan` by its words: ("engine", "build")."""
    group = group or typer.main.get_command(scan.app)
    found: dict[tuple[str, ...], Command] = {}
    for name, command in group.commands.items():
        found[(*before, name)] = command
        # Duck-typed: Typer brings a copy of click.
        if isinstance(command, Group) or hasattr(command, "commands"):
            found |= commands(command, (*before, name))
    return found


def flags() -> set[str]:
    return {
        flag for command in commands().values() for option in command.params for flag in option.opts
    } | {"--version", "--help", "--help-all"}


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@each_page
def test_linked_files_exist(page: Path) -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", text_of(page))
    assert [name for name in linked if not (page.parent / name).exists()] == []


@each_page
def test_modules_and_test_folders_exist(page: Path) -> None:
    for name in re.findall(r"python -m (train[a-z_.0-9]*|examples[a-z_.]*)", text_of(page)):
        path = ROOT / name.rstrip(".").replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), name
    for name in re.findall(r"pytest (tests/[a-z_/]+)", text_of(page)):
        assert (ROOT / name).exists(), name


@each_page
def test_options_and_commands_exist(page: Path) -> None:
    named = set()
    lines = [line for line in (*shown(page), *blocks(page, "sh")) if line.startswith("deepscan ")]
    for line in (*lines, *re.findall(r"`deepscan ([^`]*)`", text_of(page))):
        named |= set(re.findall(r"(?<!\S)--[a-z][a-z-]*", line))
    assert named <= flags()
    first = {words[0] for words in commands()}
    for word in re.findall(r"`deepscan ([a-z]+)\b[^`.]*`", text_of(page)):
        assert word in first, word


def test_the_readme_is_short_and_names_every_page() -> None:
    text = text_of(ROOT / "README.md")
    assert len(text.splitlines()) <= LONGEST_README
    assert [name_of(page) for page in PAGES[1:] if name_of(page) not in text] == []


def test_the_readme_names_labels_exit_codes_and_outputs() -> None:
    text = text_of(ROOT / "README.md")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| (\d)[^|]*\|$", text, re.MULTILINE))
    assert rows == {
        str(label): str(exit_codes.ExitPolicy().code_of(label)) for label in exit_codes.Label
    }
    assert f"interruption {exit_codes.INTERRUPTED}" in " ".join(text.split())
    suffixes = {suffix for _, suffix in arguments.KINDS.values()}
    assert set(re.findall(r"^\| `result(\.[a-z0-9.]+)` \|", text, re.MULTILINE)) == suffixes


def test_the_tables_in_contributing_exist() -> None:
    text = text_of(ROOT / "CONTRIBUTING.md")
    tables = re.findall(r"\| `([A-Z_]+)` in `([a-z_/]+)/__init__\.py` \|", text)
    assert len(tables) >= 8
    for name, folder in tables:
        module = folder.replace("/", ".")
        if not module.startswith("train"):
            module = f"deepscan.{module}"
        assert getattr(import_module(module), name), (name, module)


def test_make_help_lists_every_target() -> None:
    said = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    text = text_of(ROOT / "Makefile")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert re.search(rf"^make {target} +\S", said, re.MULTILINE), target


def test_help_says_what_the_exit_codes_mean() -> None:
    text = " ".join(scan._EPILOG.split())
    for code in (
        exit_codes.OK,
        exit_codes.FOUND,
        exit_codes.ERROR,
        exit_codes.INCONCLUSIVE,
        exit_codes.INTERRUPTED,
    ):
        assert re.search(rf"\b{code} ", text)
    assert "2 comes before 1 before 3 before 0" in text


def make_material(folder: Path) -> None:
    """The files that the pages name: video.mp4, damaged.mp4, folders of clips, faces."""
    from examples.demo import portrait
    from tests.conftest import draw_face
    from tests.media import make_video
    from tests.models import detectors
    from train.smoke import write_faces

    picture = portrait()
    make_video(folder / "video.mp4", draw=lambda _: picture, frames=50, size=(640, 480))
    damaged = bytearray((folder / "video.mp4").read_bytes())
    middle = damaged.index(b"mdat") + 4000
    damaged[middle : middle + 300] = bytes(300)
    (folder / "damaged.mp4").write_bytes(damaged)
    for name in ("ARCHIVE", "media"):
        (folder / name).mkdir()
        clip = folder / name / "clip.mp4"
        make_video(clip, draw=lambda _: picture, frames=6, size=(640, 480))
    write_faces(folder / "FACES")
    (folder / "REAL").mkdir()
    for number in range(99):  # recordings that differ in light and size
        shown = Image.fromarray((picture * (0.6 + 0.004 * number)).astype(np.uint8))
        side = 0.7 + 0.003 * number
        small = shown.resize((round(shown.width * side), round(shown.height * side)))
        small.save(folder / "REAL" / f"{number:02d}.jpg", quality=60 + number % 30)
    detectors.export(detectors.classifier(), folder / "detector.onnx", outputs=("logits",))
    detectors.export(detectors.segmenter(), folder / "segmenter.onnx", outputs=("p_real", "mask"))
    for kind in ("known-real", "known-fake"):
        (folder / kind).mkdir()
        for number in range(5):
            drawn = draw_face(4 * number, forged=kind == "known-fake")
            Image.fromarray(drawn).save(folder / kind / f"{number}.png")
    (folder / "train").symlink_to(ROOT / "train")  # recipes are named from the checkout


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if name_of(page) in QUICK else pytest.mark.slow)
        for page in PAGES
        if shown(page) and name_of(page) not in HAVE_OWN_TEST
    ],
    ids=name_of,
)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    make_material(tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "100",
        "DEEPSCAN_MODELS": str(tmp_path / "models"),
    }
    for line in shown(page):
        words = shlex.split(line)
        if words[:3] == ["python", "-m", "train.train"]:
            words += ["--until", "1", "--workers", "0"]  # a whole training takes hours
        if words[0] == "deepscan":
            words = ["python", "-m", *words]
        assert words[0] == "python", line
        ran = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert ran.returncode in EXIT_CODES, f"{line}\n{ran.stdout[-1000:]}\n{ran.stderr[-2000:]}"
