"""Addresses: listed like folders, fetched whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from deepscan.archive.inputs.listing import list_inputs
from deepscan.archive.inputs.remote import fetch, list_remote, local_path
from deepscan.archive.lock import DOWNLOADS
from deepscan.archive.records import InputFile, SkippedEntry
from deepscan.errors import LimitError, OutputError, UnreadableError, UsageError
from deepscan.types import Label

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def store() -> Iterator[Any]:
    """A bucket in memory with some files in it."""
    system = fsspec.filesystem("memory")
    for name in ("b/2.mp4", "b/1.MKV", "b/sub/3.mp4", "b/notes.txt"):
        system.pipe(f"/{name}", name.encode())
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def names(*inputs: str, **wanted: Any) -> list[str]:
    return [entry.name for entry in list_inputs(inputs, **wanted)]


def test_a_remote_folder_is_listed_like_a_local_one(store: Any, tmp_path: Path) -> None:
    listing = list_inputs(["memory://b"], skip=tmp_path)
    items = list(listing)
    assert [item.name for item in items] == ["1.MKV", "2.mp4", "sub/3.mp4"]
    assert listing.counts.not_media == 1
    for item in items:
        assert isinstance(item, InputFile) and item.identity is None and item.address is not None
        assert item.path == local_path(item.address, tmp_path / DOWNLOADS)
        fetched = fetch(item.address, item.path.parent)
        assert fetched == item.path and fetched.read_bytes() == f"b/{item.name}".encode()


def test_filters_patterns_and_names_of_several_inputs(store: Any, tmp_path: Path) -> None:
    (tmp_path / "own.mp4").write_bytes(b"x")
    assert names("memory://b", exclude=("sub",)) == ["1.MKV", "2.mp4"]
    assert names("memory://b", include=("*.txt",)) == ["notes.txt"]
    assert names("memory://b/*.mp4") == ["2.mp4"]
    assert names("memory://b/**/*.mp4") == ["2.mp4", "sub/3.mp4"]
    assert names("memory://b/*.txt") == ["notes.txt"]
    assert names("memory://b/notes.txt") == ["notes.txt"]
    assert names("memory://b/sub", str(tmp_path), "memory://b/sub/3.mp4", "memory://b/2.mp4") == [
        "sub/3.mp4",
        f"{tmp_path.name}/own.mp4",
        "b/2.mp4",
    ]


def test_a_key_with_an_empty_part_is_scanned(store: Any, tmp_path: Path) -> None:
    for name in ("/b/sub//3.mp4", "/b/sub//deep//4.mp4", "/b//5.mp4", "/b//notes.txt"):
        store.pipe(name, name.encode())
    listing = list_inputs(["memory://b"], skip=tmp_path)
    items = {item.name: item for item in listing}
    assert len(items) == 6 and listing.counts.not_media == 2
    assert {"5.mp4", "sub/3.mp4", "sub/deep/4.mp4"} <= items.keys()
    (twin,) = items.keys() - {"1.MKV", "2.mp4", "5.mp4", "sub/3.mp4", "sub/deep/4.mp4"}
    assert twin.startswith("sub/3~")  # each has a name of its own
    for item in items.values():
        assert isinstance(item, InputFile) and item.address is not None
        content = fetch(item.address, item.path.parent).read_bytes().decode()
        assert item.address.endswith(f"/{content.lstrip('/')}")


def test_folders_of_a_store_that_are_not_listed_are_told(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pipe("/b/sub//3.mp4", b"x")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no such listing")

    monkeypatch.setattr(type(store), "find", refuse)
    told = {entry.name: entry for entry in list_inputs(["memory://b"], skip=tmp_path)}
    skipped = told["sub"]
    assert isinstance(skipped, SkippedEntry) and skipped.label is Label.ERROR
    assert "empty part" in skipped.reason.text and "no such listing" in skipped.reason.text


class Bucket(BaseHTTPRequestHandler):
    """As much of S3 as a listing needs: one bucket of empty objects."""

    keys = ("in//x.mp4", "in/a.mp4", "in/", "in/sub/b.mp4", "/top.mp4")

    def do_GET(self) -> None:
        asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        prefix, mark = asked.get("prefix", ""), asked.get("delimiter", "")
        objects, folders = [], set()
        for key in (key for key in self.keys if key.startswith(prefix)):
            head, found, _ = key[len(prefix) :].partition(mark) if mark else (key, "", "")
            if found:
                folders.add(prefix + head + mark)
            else:
                objects.append(key)
        body = "<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>"
        body += "".join(f"<Contents><Key>{k}</Key><Size>0</Size></Contents>" for k in objects)
        for folder in sorted(folders):
            body += f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
        data = f"{body}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/b" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_s3_lists_keys_with_empty_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver itself against a server here: what it says of such keys is its own."""
    pytest.importorskip("s3fs")
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "made-up")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            found = [each.address for each in list_remote("s3://b/in")]
            top = [each.address for each in list_remote("s3://b")]
        finally:
            server.shutdown()
            thread.join()
    assert found == ["s3://b/in/a.mp4", "s3://b/in//x.mp4", "s3://b/in/sub/b.mp4"]
    assert sorted(top) == sorted([*found, "s3://b//top.mp4"])


def test_addresses_in_lists(store: Any, tmp_path: Path) -> None:
    wanted = tmp_path / "list.txt"
    wanted.write_text("memory://b/2.mp4\nmemory://b/sub\nmemory://b/gone.mp4\nno-such://x\n")
    entries = list(list_inputs([f"@{wanted}"]))
    assert [entry.name for entry in entries[:3]] == ["b/2.mp4", "b/sub/3.mp4", "b/gone.mp4"]
    for entry in entries[2:]:
        assert isinstance(entry, SkippedEntry) and entry.label is Label.ERROR
        assert entry.reason.code == "unreadable"


def test_file_addresses_say_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe.mp4")
    found = {each.name: each.kind for each in list_remote(f"file://{tmp_path}")}
    assert found == {"a.mp4": "file", "link.mp4": "link", "loop": "link", "pipe.mp4": "special"}
    codes = {
        entry.name: entry.reason.code if isinstance(entry, SkippedEntry) else ""
        for entry in list_inputs([f"file://{tmp_path}"])
    }
    assert codes["a.mp4"] == "" and codes["link.mp4"] == "skipped_symlink"
    assert codes["pipe.mp4"] == "skipped_special"
    deep = list(list_remote(f"file://{tmp_path}", depth=3, follow_links=True))
    assert "loop/loop/loop/loop" in {each.name for each in deep if each.kind == "too_deep"}


def test_no_extra_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match=r"'.\[remote\]'"):
        list_inputs(["s3://bucket/clips"])


@pytest.mark.parametrize(
    "address", ["s3://key:secret@bucket/x", "ftp://me:secret@host", "zip://x::file:///y.zip"]
)
def test_addresses_that_are_refused_keep_their_secret(address: str) -> None:
    with pytest.raises(UsageError) as refused:
        list_inputs([address])
    assert "secret" not in str(refused.value)


def test_fetching_is_whole_or_not_at_all(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LimitError) as limited:
        fetch("memory://b/2.mp4", tmp_path, size=6)
    assert limited.value.reason == "limit_size"
    with pytest.raises(UnreadableError, match=r"gone\.mp4"):
        fetch("memory://b/gone.mp4", tmp_path)
    monkeypatch.setattr(type(store), "info", lambda *_, **__: {"size": 100, "type": "file"})
    with pytest.raises(UnreadableError, match="7 of 100 bytes"):
        fetch("memory://b/2.mp4", tmp_path)
    monkeypatch.setattr(type(store), "info", lambda *_, **__: {"size": None, "type": "file"})
    with pytest.raises(LimitError):
        fetch("memory://b/2.mp4", tmp_path, size=6)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        fetch("memory://b/2.mp4", tmp_path / "file")
