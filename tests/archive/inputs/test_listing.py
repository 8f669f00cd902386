"""Listing inputs: every file once, under a name of its own, and nothing passed over in silence."""

from __future__ import annotations

import io
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscan.archive.inputs.listing import DEPTH, Listing, list_inputs
from deepscan.archive.inputs.patterns import Pattern
from deepscan.archive.journal import Journal
from deepscan.archive.records import InputFile, SkippedEntry
from deepscan.errors import UsageError
from deepscan.types import Label
from tests.archive.made import RUN


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the working directory is."""
    folder = tmp_path / "tree"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def make(*names: str | bytes) -> None:
    for name in names:
        raw = os.fsencode(name)
        os.makedirs(os.path.dirname(raw) or b".", exist_ok=True)
        with open(raw, "wb") as file:
            file.write(b"x")


def names(*inputs: str, **wanted: Any) -> list[str]:
    return [entry.name for entry in list_inputs(inputs, **wanted)]


def ended(listing: Listing) -> dict[str, str]:
    """Name -> the reason's code, "" for an item."""
    return {
        entry.name: entry.reason.code if isinstance(entry, SkippedEntry) else ""
        for entry in listing
    }


def test_a_folder_gives_its_media_sorted_with_names_from_the_folder_on(tree: Path) -> None:
    make("a/b/2.MKV", "a/b/1.mp4", "a/a.png", "a/notes.txt", "a/none", "a/.hidden.mp4", "a/b.mov")
    listing = list_inputs(["a"])
    items = list(listing)
    found = [".hidden.mp4", "a.png", "b/1.mp4", "b/2.MKV", "b.mov"]
    assert [item.name for item in items] == found
    assert listing.counts.not_media == 2
    for item in items:
        facts = (tree / "a" / item.name).stat()
        assert isinstance(item, InputFile) and item.path == tree / "a" / item.name
        assert item.identity == (facts.st_dev, facts.st_ino, 1, facts.st_mtime_ns)


def test_a_named_file_is_taken_whatever_it_looks_like(tree: Path) -> None:
    make("sub/notes.txt")
    assert names("sub/notes.txt", exclude=("*.txt",)) == ["notes.txt"]


def test_several_inputs_have_names_of_their_own(tree: Path) -> None:
    make("x/clips/1.mp4", "y/clips/1.mp4", "z/1.mp4", "1.mp4")
    assert names("x/clips", "y/clips", "z", "1.mp4") == [
        "x/clips/1.mp4",
        "y/clips/1.mp4",
        "z/1.mp4",
        "1.mp4",
    ]
    assert names("x", "./z/../1.mp4") == ["x/clips/1.mp4", "1.mp4"]
    absolute = str(tree / "1.mp4")
    assert names("z", absolute) == ["z/1.mp4", absolute.lstrip("/")]


def test_names_that_would_meet_are_kept_apart(tree: Path) -> None:
    make("a/clips/x.mp4", "clips/x.mp4")
    one, other = names("a/clips", "clips/x.mp4")
    assert one == "clips/x.mp4" and other.startswith("clips/x~") and other.endswith(".mp4")
    assert names("a/clips", "clips/x.mp4") == [one, other]


def test_the_same_file_is_listed_once_however_it_is_named(tree: Path) -> None:
    make("a/b/1.mp4", "a/2.mp4")
    os.symlink("a", "link")
    listing = list_inputs(
        ["a/2.mp4", "a", "./a/b", "a/b/1.mp4", "link", "link/2.mp4", "a/**/*.mp4"]
    )
    assert [entry.name for entry in listing] == ["a/2.mp4", "a/b/1.mp4"]
    assert listing.counts.repeated >= 4


def test_hard_links_are_files_of_their_own_with_one_identity(tree: Path) -> None:
    make("1.mp4")
    os.link("1.mp4", "2.mp4")
    one, two = list_inputs(["."])
    assert isinstance(one, InputFile) and isinstance(two, InputFile)
    assert (one.name, two.name) == ("1.mp4", "2.mp4") and one.identity == two.identity


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/*.mp4", ["1.mp4"]),
        ("a/*", ["1.mp4", "b/3.mp4", "b/c/4.mp4"]),  # folders with all that is in them
        ("a/**", ["1.mp4", "b/3.mp4", "b/c/4.mp4"]),
        ("a/**/*.mp4", ["1.mp4", "b/3.mp4", "b/c/4.mp4"]),
        ("**/c/?.mp4", ["a/b/c/4.mp4"]),
        ("a/*/*.mp4", ["b/3.mp4"]),
        ("a/*.txt", ["2.txt"]),  # a suffix that is named is meant
        ("a/[12].*", ["1.mp4"]),
    ],
)
def test_patterns(tree: Path, pattern: str, expected: list[str]) -> None:
    make("a/1.mp4", "a/2.txt", "a/b/3.mp4", "a/b/c/4.mp4")
    assert names(pattern) == expected
    assert names(str(tree / pattern)) == expected


def test_a_file_whose_name_looks_like_a_pattern(tree: Path) -> None:
    make("a[1].mp4", "a1.mp4")
    assert names("a[1].mp4") == ["a[1].mp4"]


def test_include_and_exclude(tree: Path) -> None:
    make("t/news/1.mp4", "t/news/raw/2.mp4", "t/old/3.mp4", "t/4.dat", "t/news/5.txt")

    def under(**wanted: Any) -> list[str]:
        return names("t", **wanted)

    assert under(include=("news",)) == ["news/1.mp4", "news/raw/2.mp4"]
    assert under(include=("news/*.mp4",)) == ["news/1.mp4"]
    assert under(include=("*.dat", "3.*")) == ["4.dat", "old/3.mp4"]
    assert under(exclude=("raw", "old/**")) == ["news/1.mp4"]
    assert under(include=("news/**",), exclude=("*/raw",)) == ["news/1.mp4"]
    # With several inputs too, patterns begin below the folder that was named.
    assert names("t", "t/4.dat", include=("old/*",)) == ["t/old/3.mp4", "t/4.dat"]
    listing = list_inputs(["t"], exclude=("news",))
    assert len(list(listing)) == 1 and listing.counts.excluded == 1


def test_links_are_said_and_not_followed(tree: Path, tmp_path: Path) -> None:
    make("t/1.mp4", "../out/2.mp4", "../out/x.txt")
    os.symlink("/etc/passwd", "t/passwd.mp4")
    os.symlink(tmp_path / "out", "t/out")
    os.symlink("nowhere", "t/dangling.mp4")
    os.symlink("loop.mp4", "t/loop.mp4")
    os.symlink(tmp_path / "out" / "x.txt", "t/notes")
    listing = list_inputs(["t"])
    entries = {entry.name: entry for entry in listing}
    links = ["dangling.mp4", "loop.mp4", "out", "passwd.mp4"]
    assert sorted(entries) == ["1.mp4", *links]
    for name in links:
        entry = entries[name]
        assert isinstance(entry, SkippedEntry) and entry.label is Label.INCONCLUSIVE
        assert entry.reason.code == "skipped_symlink"
    assert listing.counts.not_media == 1


def test_links_can_be_followed_each_target_once(tree: Path, tmp_path: Path) -> None:
    make("t/1.mp4", "../out/2.mp4")
    os.symlink(tmp_path / "out", "t/out")
    os.symlink("..", "t/up")
    os.symlink("1.mp4", "t/z.mp4")
    os.symlink("nowhere", "t/dangling.mp4")
    os.symlink("loop.mp4", "t/loop.mp4")
    listing = list_inputs(["t"], follow_links=True)
    assert ended(listing) == {
        "1.mp4": "",
        "dangling.mp4": "unreadable",
        "loop.mp4": "skipped_symlink",
        "out/2.mp4": "",
    }
    assert listing.counts.repeated == 2


def test_a_link_that_is_named_is_followed_once(tree: Path) -> None:
    make("real/1.mp4")
    os.symlink("real/1.mp4", "named.mp4")
    os.symlink("real", "folder")
    (entry,) = list_inputs(["named.mp4"])
    assert isinstance(entry, InputFile) and entry.name == "named.mp4"
    assert entry.path == tree / "real" / "1.mp4"
    assert names("folder") == ["1.mp4"]


def test_pipes_sockets_and_devices_are_said_and_never_opened(tree: Path) -> None:
    os.mkdir("t")
    os.mkfifo("t/pipe.mp4")
    os.mkfifo("t/pipe")
    os.mkdir("t/folder.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("t/socket.mkv")
        listing = list_inputs(["t", "/dev/zero"])
        assert ended(listing) == {
            "t/pipe.mp4": "skipped_special",
            "t/socket.mkv": "skipped_special",
            "dev/zero": "skipped_special",
        }
    assert listing.counts.not_media == 1


ODD = [
    "new\nline.mp4",
    "\x1b[31mred.mp4",
    "\u202egpj.mp4",
    "\r.mp4",
    " lead.mp4",
    "-i.mp4",
    "http:x.mp4",
    "%03d.mp4",
    "<img src=x onerror=alert(1)>.mp4",
    "=cmd|' .mp4",
    "n" * 251 + ".mp4",
    "cafe\u0301.mp4",
    "caf\u00e9.mp4",
    "*.mp4",
]


def test_odd_names(tree: Path) -> None:
    make(*(f"t/{name}" for name in ODD), b"t/caf\xe9.mp4")
    found = names("t")
    assert sorted(found, key=os.fsencode) == found
    assert set(found) == {*ODD, "caf\udce9.mp4"}
    for entry in list_inputs(["t"]):
        assert isinstance(entry, InputFile) and entry.path.read_bytes() == b"x"
    assert [names(f"t/{name}") for name in ODD] == [[name] for name in ODD]


def test_deep_trees_end_at_the_cap_and_it_is_said(tree: Path) -> None:
    descriptor = os.open(".", os.O_RDONLY)
    for depth in range(300):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
        if depth + 1 in (DEPTH, DEPTH + 1):
            os.close(os.open("x.mp4", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    os.close(descriptor)
    try:
        listing = list(list_inputs(["."]))
        deep = "/".join(["d"] * (DEPTH + 1))
        assert {entry.name for entry in listing} == {deep, "/".join(["d"] * DEPTH) + "/x.mp4"}
        (refused,) = (entry for entry in listing if isinstance(entry, SkippedEntry))
        assert (refused.label, refused.reason.code) == (Label.ERROR, "limit_depth")
    finally:
        subprocess.run(["rm", "-rf", "d"], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read_is_an_error(tree: Path) -> None:
    make("t/1.mp4", "t/closed/2.mp4")
    os.chmod("t/1.mp4", 0)
    os.chmod("t/closed", 0)
    try:
        assert ended(list_inputs(["t"])) == {"1.mp4": "unreadable", "closed": "unreadable"}
    finally:
        os.chmod("t/closed", 0o700)


def test_no_access_is_an_error(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("t/1.mp4", "t/closed/2.mp4")
    real = os.open

    def refuse(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    entries = list(list_inputs(["t"]))
    assert [entry.name for entry in entries] == ["1.mp4", "closed"]
    for entry in entries:
        assert isinstance(entry, SkippedEntry) and entry.label is Label.ERROR
        assert entry.reason.code == "unreadable" and "Permission denied" in entry.reason.text


def test_missing_files_are_errors_not_silence(tree: Path) -> None:
    make("1.mp4")
    for gone in ("gone.mp4", "1.mp4/gone"):
        with pytest.raises(UsageError, match=f"^{gone} cannot be found"):
            list_inputs(["1.mp4", gone])
    Path("names").write_text("1.mp4\ngone.mp4\n")
    assert ended(list_inputs(["@names"])) == {"1.mp4": "", "gone.mp4": "unreadable"}


def test_a_file_that_goes_away_while_it_is_listed(tree: Path) -> None:
    make("t/1.mp4", "t/2.mp4")
    listing = list_inputs(["t"])
    assert next(listing).name == "1.mp4"
    os.unlink("t/2.mp4")
    assert ended(listing) == {"2.mp4": "unreadable"}


def test_lists(tree: Path) -> None:
    make("a.mp4", "b/c.mp4", "#d.mp4", "x*.mp4", b"caf\xe9.dat")
    Path("list.txt").write_bytes(
        b"\xef\xbb\xbf# mine\na.mp4\r\n\n./#d.mp4\nb\nx*.mp4\ncaf\xe9.dat\nno"
    )
    expected = dict.fromkeys(("a.mp4", "#d.mp4", "b/c.mp4", "x*.mp4", "caf\udce9.dat"), "")
    assert ended(list_inputs(["@list.txt"])) == {**expected, "no": "unreadable"}
    given = io.BytesIO(b"#d.mp4\0a.mp4\0new\nline\0")
    assert ended(list_inputs(["-"], stdin=given)) == {
        "#d.mp4": "",
        "a.mp4": "",
        "new\nline": "unreadable",
    }


def test_a_long_list_is_not_held(tree: Path) -> None:
    make("a.mp4")
    Path("list.txt").write_bytes(b"".join(b"missing-%d\n" % n for n in range(3000)))
    listing = list_inputs(["@list.txt", "a.mp4"])
    assert sum(1 for _ in listing) == 3001


def test_lists_and_all_else_can_be_mixed(tree: Path) -> None:
    make("a.mp4", "b/c.mp4", "d/e.mp4", "f/g/h.mp4")
    given = io.BytesIO(b"b\na.mp4\n")
    found = names("-", "a.mp4", "d", "f/**/*.mp4", stdin=given)
    assert found == ["b/c.mp4", "a.mp4", "d/e.mp4", "f/g/h.mp4"]


def test_the_results_folder_is_never_scanned(tree: Path) -> None:
    make("in/1.mp4", "in/out/1-0123abcd/result.mp4", "in/older/x/result.mp4", "in/fresh/2.mp4")
    make("in/fresh/journal.jsonl")
    with Journal(Path("in/older")) as journal:
        journal.begin(RUN)
    listing = list_inputs(["in"], skip=Path("in/out"))
    assert [entry.name for entry in listing] == ["1.mp4", "fresh/2.mp4"]
    assert listing.counts.results == [tree / "in/older", tree / "in/out"]
    assert names("in/older") == ["x/result.mp4"]  # named, so it is meant


@pytest.mark.parametrize("inside", ["out", "out/1-0123abcd", "out/*", "./in/../out"])
def test_the_results_folder_cannot_be_an_input(tree: Path, inside: str) -> None:
    make("out/1-0123abcd/result.mp4", "in/1.mp4")
    with pytest.raises(UsageError, match="results folder"):
        list_inputs(["in", inside], skip=Path("out"))


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ([], "nothing"),
        ([""], "names nothing"),
        (["a\0b"], "names nothing"),
        (["@missing.txt"], "list missing.txt"),
        (["*.mp4"], "matches no file"),
        (["t/*.mkv"], "matches no file"),
        (["nothing/**/*.mp4"], "matches no file"),
        (["unknown-protocol://x/y"], "unknown-protocol"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(
    tree: Path, inputs: list[str], match: str
) -> None:
    make("t/1.mp4")
    with pytest.raises(UsageError, match=match):
        list_inputs(inputs)


def test_listing_begins_before_the_tree_is_read(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("t/a/1.mp4", "t/b/2.mp4")
    read: list[Any] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (read.append(path), real(path))[1])
    listing = list_inputs(["t"])
    assert not read
    assert next(listing).name == "a/1.mp4" and len(read) == 2


def reference(pattern: list[str], parts: list[str]) -> bool:
    """What a pattern means, as slow and plain as it can be said."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(reference(pattern[1:], parts[n:]) for n in range(len(parts) + 1))
    if not parts:
        return False
    same = pattern[0] in ("*", parts[0])
    return same and reference(pattern[1:], parts[1:])


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=1, max_size=5),
    st.lists(st.sampled_from("ab"), min_size=1, max_size=6),
)
def test_patterns_match_as_they_read(pattern: list[str], parts: list[str]) -> None:
    def prefixes() -> Iterator[list[str]]:
        for length in range(1, len(parts) + 1):
            yield parts[:length]

    expected = any(reference(pattern, prefix) for prefix in prefixes())
    assert Pattern.over(tuple(pattern)).matches("/".join(parts)) == expected


def test_what_is_only_named_like_media_is_passed_over_and_counted(tree: Path) -> None:
    double = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(4072)
    packets = (b"G" + bytes(range(187))) * 40
    contents = {
        "a/clip.mp4": b"x",
        "a/._clip.mp4": double,
        "a/._real.mp4": b"\0\0\0\x18ftyp",
        "a/view.ts": "export const größe = 1;\n".encode() * 400,
        "a/module.mts": b"export {};\n",
        "a/empty.ts": b"",
        "a/old.ts": "// größe\n".encode("latin-1") * 9,
        "a/.AppleDouble/clip.mp4": double,
        "a/broadcast.ts": packets,
        "a/torn.ts": bytes(5000),
        "a/camera.mts": b"\0\0\0\0" + packets,
    }
    for name, data in contents.items():
        make(name)
        Path(name).write_bytes(data)
    media = ["._real.mp4", "broadcast.ts", "camera.mts", "clip.mp4", "torn.ts"]
    for wanted in ({}, {"include": ("*.ts", "*.mts", "*.mp4")}):
        listing = list_inputs(["a"], **wanted)
        assert [entry.name for entry in listing] == media
        assert listing.counts.not_media == 6
    assert names("a/view.ts", "a/._clip.mp4") == ["a/view.ts", "a/._clip.mp4"]  # they were named
