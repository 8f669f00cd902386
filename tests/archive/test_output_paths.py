"""Folders of results: the same tree, no two alike, harmless on any file system."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepscan.archive.output_paths import folder_of

WINDOWS = re.compile(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$")

parts = st.one_of(
    st.text(max_size=8),
    st.text(max_size=3).map(lambda text: text * 80),
    st.text(alphabet="aA.\u0301\u00e9e_- /\\:\udcff\u202e\x1b\n\x00", max_size=12),
    st.sampled_from(["..", ".", "", "CON", "nul.mp4", "a.mp4", "A.MP4", "a.mkv", "con ", "a."]),
)
names = st.lists(parts, min_size=1, max_size=5).map("/".join)


@settings(deadline=None)
@given(names)
@example("/etc/passwd")
@example("../../x.mp4")
@example("\u0301x/\u0301.mp4")
@example("\U0001d15e" * 80 + ".mp4")
def test_a_folder_is_safe_everywhere(name: str) -> None:
    folder = folder_of(name)
    assert not PurePosixPath(folder).is_absolute() and not PureWindowsPath(folder).anchor
    for part in folder.split("/"):
        assert part not in ("", ".", "..") and len(part.encode()) <= 255
        assert not set(part) & set('<>:"|?*\\') and part[-1] not in ". "
        assert not part.startswith((".", "-"))
        assert all(unicodedata.category(char)[0] != "C" for char in part)
        assert unicodedata.is_normalized("NFC", part)
        assert not WINDOWS.match(part)
    assert len(folder.encode()) < 1024
    assert re.search(r"-[0-9a-f]{8}$", folder)


@settings(deadline=None)
@given(st.lists(names, min_size=2, max_size=8, unique=True))
@example([":", ":/x"])
def test_no_two_names_share_a_folder_or_lie_in_each_others(names: list[str]) -> None:
    folded = [unicodedata.normalize("NFC", folder_of(name).casefold()) for name in names]
    assert len(set(folded)) == len(names)
    for folder in folded:
        assert not any(other.startswith(folder + "/") for other in folded)


def test_names_that_differ_in_case_suffix_or_accents_only() -> None:
    alike = ["caf\u00e9.mp4", "cafe\u0301.mp4", "CAF\u00c9.MP4", "caf\u00e9.mkv", "caf\udce9.mp4"]
    assert len({folder_of(name).casefold() for name in alike}) == len(alike)


def test_the_tree_is_mirrored() -> None:
    folder = folder_of("2024/My Videos/\u0421\u044a\u0451\u043c\u043a\u0430 (1).mp4")
    assert re.fullmatch(
        "2024/My Videos/\u0421\u044a\u0451\u043c\u043a\u0430 \\(1\\)-[0-9a-f]{8}", folder
    )


def test_the_name_of_a_folder_does_not_change_between_versions() -> None:
    assert folder_of("a/b.mp4") == "a/b-b0a066fc"


@pytest.mark.parametrize("part", ["summary.html", "Results", "journal.jsonl", "clip-0123abcd"])
def test_folders_of_inputs_do_not_stand_where_results_are(part: str) -> None:
    assert folder_of(f"{part}/x.mp4").split("/")[0] != part


def test_deep_and_long_trees_stay_short() -> None:
    deep = "/".join(["x" * 255] * 64)
    one, other = folder_of(deep + "/a.mp4"), folder_of(deep + "/b/a.mp4")
    assert len(one) < 700 and one != other
