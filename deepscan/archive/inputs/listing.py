"""Lists the files that the inputs of a command line stand for, one by one.

No file is opened and no list is kept, so the scan of a tree of any size starts at once. Entries
that will not be scanned (a link, a pipe, a folder without access) are listed with the reason: left
out silently, they would look clean.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from deepscan.archive.inputs.patterns import Pattern, has_wildcard, parts_of
from deepscan.archive.inputs.remote import connect, is_address, list_remote, local_path
from deepscan.archive.journal import is_results
from deepscan.archive.lock import DOWNLOADS
from deepscan.archive.records import InputFile, SkippedEntry
from deepscan.errors import UnreadableError, UsageError, reason_of, system_errors_as
from deepscan.files import check_exists
from deepscan.types import Label, Reason
from deepscan.video.formats import APPLE_DOUBLE, is_text

logger = logging.getLogger(__name__)

# Also formats that deepscan does not read: a file left out silently would look clean.
# fmt: off
VIDEO_SUFFIXES = frozenset(
    (
        ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m1v", ".m2t",
        ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
        ".mts", ".mxf", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv",
    )
)
PICTURE_SUFFIXES = frozenset(
    (
        ".avif", ".bmp", ".dib", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png",
        ".tif", ".tiff", ".webp",
    )
)
# fmt: on
_SOURCE_SUFFIXES = frozenset((".ts", ".mts"))  # also used by TypeScript
_LOOKED_AT = 4096  # bytes that are checked for text
_SUFFIX = re.compile(r"\.[a-z0-9_+-]{1,12}")  # suffixes that are counted by name
_SUFFIXES = 20  # counted by name; all others together
DEPTH = 64  # folders below a named one
_MEDIA = VIDEO_SUFFIXES | PICTURE_SUFFIXES
_HEAD = 2**16  # bytes of a list that show its separator; no path is that long
_LIST_LINE = 2**16

Entry = InputFile | SkippedEntry


@dataclass(slots=True)
class Counts:
    """Counts of files that a listing left out.

    `not_media` counts files in folders without a suffix of video or pictures, and macOS metadata or
    source code with one; `excluded` counts entries (files, or whole folders) that a pattern left
    out, `repeated` entries that were listed under another input. `results` lists results folders of
    deepscan, which are not entered. `suffixes` counts the files that are not media by suffix.
    """

    not_media: int = 0
    excluded: int = 0
    repeated: int = 0
    results: list[Path] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)

    def pass_file(self, name: str) -> None:
        """Count a file that is not media."""
        self.not_media += 1
        suffix = os.path.splitext(name)[1].lower()
        if not suffix:
            self.suffixes["without a suffix"] += 1
        elif _SUFFIX.fullmatch(suffix):  # others are counted together
            self.suffixes[suffix] += 1

    def passed_over(self) -> tuple[tuple[str, int], ...]:
        """(reason, count) of the files left out: suffixes by frequency, then other reasons."""
        ranked = sorted(self.suffixes.items(), key=lambda item: (-item[1], item[0]))
        rest = self.not_media - sum(count for _, count in ranked[:_SUFFIXES])
        others = (
            ("with other suffixes", rest),
            ("excluded", self.excluded),
            ("named twice", self.repeated),
            ("results folder" if len(self.results) == 1 else "results folders", len(self.results)),
        )
        return (*ranked[:_SUFFIXES], *((what, count) for what, count in others if count))


@dataclass(slots=True)
class Listing(Iterator[Entry]):
    """Yields the entries one at a time; `counts` is final after the last.

    `roots` are the folders (absolute, without links) and addresses that are listed completely, not
    by a pattern, a list or as a single file.
    """

    counts: Counts
    entries: Iterator[Entry]
    roots: tuple[str, ...] = ()

    def __next__(self) -> Entry:
        return next(self.entries)


def list_inputs(
    inputs: Sequence[str],
    *,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    follow_links: bool = False,
    skip: Path | None = None,
    stdin: BinaryIO | None = None,
) -> Listing:
    """List the files that inputs stand for, sorted within each folder.

    An input is a file, a folder (recursively), a pattern with `*`, `?`, `[...]` or `**`, a list of
    files `@list.txt`, `-` for a list on standard input, or an address (`s3://...`, with `*` only).
    A list has one path per line, `#` starts a comment; if it contains a NUL, paths end with NUL and
    there are no comments. Paths in lists are literal and relative to the working directory.

    In folders (and by patterns without a suffix) only files with a suffix of video or pictures are
    listed; named files are always listed. The same file is listed once; hard links are separate
    files with equal identities.

    A single named file keeps its name. With several inputs, named files keep the given path, and
    files in folders are prefixed with the folder's name.

    Patterns of `include` and `exclude` match the path below the named folder, or a folder on that
    path; a pattern without "/" matches a single part of it, at any depth. An `include` pattern with
    a suffix (`*.dat`) lists such files although the suffix is not one of media.

    Args:
        follow_links: enter links to folders and list links to files, each target once. A link that
            is named is always followed.
        skip: the results folder, which is never entered; other results folders are recognised by
            their journal and left out below a named folder (see `Counts.results`).
        stdin: read for `-`; default: the program's standard input.

    Raises:
        UsageError: an input does not exist or lies in the results folder, a list cannot be read, a
            pattern matches nothing, or an address lacks a package. Raised before the first entry.
    """
    if not inputs:
        raise UsageError("nothing to scan: name files, folders, patterns or lists")
    several = len(inputs) > 1 or _is_list(inputs[0])
    walk = _Walk(
        include=tuple(Pattern.of(text) for text in include),
        exclude=tuple(Pattern.of(text) for text in exclude),
        follow=follow_links,
        skip=skip,
        several=several,
        remembers=several or follow_links,
    )
    roots = [_root(text) for text in inputs]
    for text, root in zip(inputs, roots, strict=True):
        walk.check(text, root)
    prefixes = _prefixes(roots) if several else [""] * len(roots)

    def entries() -> Iterator[Entry]:
        for text, root, prefix in zip(inputs, roots, prefixes, strict=True):
            if text == "-":
                yield from walk.named(_read_list(stdin or sys.stdin.buffer))
            elif _is_list(text):
                with open(text[1:], "rb") as file:
                    yield from walk.named(_read_list(file))
            else:
                yield from walk.root(root, prefix)

    whole = [each for each in roots if each.pattern is None and not _is_list(each.text)]
    return Listing(
        walk.counts,
        entries(),
        tuple(
            each.base.rstrip("/") if each.remote else os.path.realpath(each.base)
            for each in whole
            if each.remote or os.path.isdir(each.base)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Root:
    """One input: its base folder, file or address, and the pattern below it, if any."""

    text: str
    base: str
    pattern: Pattern | None = None
    remote: bool = False


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder to enter. `path` has no links; `name` is relative to the root; `places` are
    positions in the root's pattern, None if everything below is listed."""

    path: str
    name: str
    depth: int
    places: frozenset[int] | None


@dataclass(slots=True)
class _Walk:
    """The state of one listing: entries seen, and counts of those left out."""

    include: tuple[Pattern, ...]
    exclude: tuple[Pattern, ...]
    follow: bool
    skip: Path | None
    several: bool
    remembers: bool  # False within one tree, where every file comes once
    counts: Counts = field(default_factory=Counts)
    folders: set[tuple[int, int]] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    results: str | None = field(init=False)

    def __post_init__(self) -> None:
        self.results = None if self.skip is None else os.path.realpath(self.skip)

    def check(self, text: str, root: _Root) -> None:
        """Raise UsageError for an input that cannot work."""
        if not text or "\0" in text:
            raise UsageError(f"{text!r} names nothing: name files, folders, patterns or lists")
        if text == "-":
            return
        if _is_list(text):
            with (
                system_errors_as(UsageError, f"the list {text[1:]} cannot be read"),
                open(text[1:], "rb") as file,
            ):
                head = file.read(_HEAD)
            if not is_list(head):
                raise UsageError(
                    f"{text[1:]} is no list of names: to scan it, name it without the @"
                )
            return
        if root.remote:
            connect(root.base)
        elif os.path.isdir(root.base) and self._in_results(os.path.realpath(root.base)):
            raise UsageError(
                f"{text} lies in the results folder {self.skip}: name another one for the results"
            )
        elif root.pattern is None:
            check_exists(root.base)
        if root.pattern is not None and not root.remote:
            kept = self.include, self.exclude, self.follow, self.skip
            first = _Walk(*kept, several=False, remembers=self.follow)
            if not os.path.isdir(root.base) or next(first.root(root, ""), None) is None:
                raise UsageError(f"{text} matches no file that can be scanned")

    def named(self, lines: Iterable[str]) -> Iterator[Entry]:
        """Yield the files that a list names."""
        for line in lines:
            if is_address(line):
                root = _Root(line, line, remote=True)
                yield from self.root(root, line.partition("://")[2].strip("/"))
            else:
                yield from self.root(_Root(line, line), _given(line))

    def root(self, root: _Root, prefix: str) -> Iterator[Entry]:
        if root.remote:
            yield from self._remote(root, prefix)
            return
        path = os.path.realpath(root.base)
        name = _given(root.text) if self.several else os.path.basename(os.path.abspath(root.text))
        try:
            facts = os.stat(path)
        except (OSError, ValueError) as error:
            yield self._unreadable(name, path, error)
            return
        if stat.S_ISDIR(facts.st_mode):
            if self._in_results(path):
                self._pass_results(path)
                return
            places = None if root.pattern is None else root.pattern.start()
            yield from self._tree(_Folder(path, "", 0, places), prefix, root)
        elif not self._is_repeated(path):
            yield self._file(self._own(name, path), path)

    def _tree(self, top: _Folder, prefix: str, root: _Root) -> Iterator[Entry]:
        waiting: list[Iterator[Entry | _Folder]] = [iter((top,))]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif isinstance(entry, _Folder):
                waiting.append(self._enter(entry, top, root))
            else:
                name = f"{prefix}/{entry.name}" if prefix else entry.name
                yield replace(entry, name=self._own(name, str(entry.path)))

    def _enter(self, folder: _Folder, top: _Folder, root: _Root) -> Iterator[Entry | _Folder]:
        """Yield the entries of a folder, and its subfolders to enter later."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(folder.path, flags)
            try:
                facts = os.fstat(descriptor)
                if (facts.st_dev, facts.st_ino) in self.folders:  # a loop, a mount, two inputs
                    self.counts.repeated += 1
                    return
                if folder is not top and self._is_results(folder.path, facts):
                    self._pass_results(folder.path)
                    return
                self.folders.add((facts.st_dev, facts.st_ino))
                with os.scandir(descriptor) as entries:
                    kinds = sorted((os.fsencode(entry.name), _kind(entry)) for entry in entries)
            finally:
                os.close(descriptor)
        except OSError as error:
            yield self._unreadable(
                folder.name or os.path.basename(folder.path) or "root", folder.path, error
            )
            return
        for raw, kind in kinds:
            last = os.fsdecode(raw)
            name = f"{folder.name}/{last}" if folder.name else last
            path = os.path.join(folder.path, last)
            places = folder.places
            if places is not None:
                assert root.pattern is not None
                places = root.pattern.step(places, last)
                if not places:
                    continue
            inner = replace(folder, path=path, name=name, depth=folder.depth + 1, places=places)
            if kind == "link":
                yield from self._link(inner, root)
            elif kind == "folder":
                yield from self._subfolder(inner, root)
            elif self._is_wanted(inner, root) and not self._is_repeated(path):
                yield self._file(name, path)

    def _subfolder(self, folder: _Folder, root: _Root) -> Iterator[SkippedEntry | _Folder]:
        if self._is_excluded(folder.name):
            self.counts.excluded += 1
        elif folder.depth > DEPTH:
            text = f"more than {DEPTH} folders deep: not entered"
            yield _skipped(folder.name, folder.path, "limit_depth", text, Label.ERROR)
        elif folder.places is not None and root.pattern and root.pattern.ends(folder.places):
            yield replace(folder, places=None)  # the pattern names the folder: list all of it
        else:
            yield folder

    def _link(self, link: _Folder, root: _Root) -> Iterator[Entry | _Folder]:
        target = os.path.realpath(link.path)
        if os.path.isdir(target):
            if self.follow:
                yield from self._subfolder(replace(link, path=target), root)
            elif self._is_excluded(link.name):
                self.counts.excluded += 1
            else:
                yield _skipped(link.name, link.path, "skipped_symlink", "a link to a folder")
        elif self._is_wanted(link, root, target):
            if not self.follow:
                why = "a symbolic link; --follow-links follows it"
                yield _skipped(link.name, link.path, "skipped_symlink", why)
            elif not self._is_repeated(target):
                yield self._file(link.name, target)

    def _remote(self, root: _Root, prefix: str) -> Iterator[Entry]:
        self.remembers = True  # an object store may have names that no tree has
        own = parts_of(root.base.partition("://")[2]) or ("root",)
        folder = Path(os.path.abspath(self.skip or tempfile.gettempdir())) / DOWNLOADS
        try:
            for found in list_remote(root.base, depth=DEPTH, follow_links=self.follow):
                name = "/".join(part for part in parts_of(found.name) if part != "..")
                inside = "/".join(part for part in (prefix, name) if part)
                path = local_path(found.address, folder)
                if not found.name:
                    given = "/".join(own) if self.several else own[-1]
                    entry = InputFile(given, path, None, found.address)
                    if found.kind != "file":
                        yield _skipped(given, path, *_REMOTE[found.kind])
                        continue
                elif found.kind in ("unreadable", "too_deep"):  # a folder: it has no suffix
                    if self._is_excluded(name):
                        self.counts.excluded += 1
                        continue
                    code, text, label = _REMOTE[found.kind]
                    inside = self._own(inside or own[-1], found.address)
                    yield _skipped(inside, path, code, found.why or text, label)
                    continue
                elif not self._is_wanted_below(name, root):
                    continue
                elif found.kind == "file":
                    entry = InputFile(inside, path, None, found.address)
                else:
                    code, text, label = _REMOTE[found.kind]
                    yield _skipped(inside, path, code, found.why or text, label)
                    continue
                if found.address in self.files:
                    self.counts.repeated += 1
                    continue
                self.files.add(found.address)
                yield replace(entry, name=self._own(entry.name, found.address))
        except (UnreadableError, UsageError) as error:
            reason = Reason("unreadable", str(error))
            yield SkippedEntry("/".join(own), local_path(root.base, folder), Label.ERROR, reason)

    def _is_wanted_below(self, name: str, root: _Root) -> bool:
        places = None
        if root.pattern is not None:
            places = root.pattern.start()
            for part in name.split("/"):
                if root.pattern.ends(places):  # the pattern names this folder: all of it
                    places = None
                    break
                places = root.pattern.step(places, part)
        return self._is_wanted(_Folder("", name, 0, places), root)

    def _is_wanted(self, entry: _Folder, root: _Root, target: str = "") -> bool:
        """True if a file that was found in a folder is listed; counts it otherwise."""
        places, pattern = entry.places, root.pattern
        if places is not None and pattern is not None and not pattern.ends(places):
            return False
        if self._is_excluded(entry.name):
            self.counts.excluded += 1
            return False
        meant = places is not None and pattern is not None and pattern.literal
        if self.include:
            matching = [each for each in self.include if each.matches(entry.name)]
            if not matching:
                self.counts.excluded += 1
                return False
            last = entry.name.rpartition("/")[2]  # the file itself has to match, not a folder
            meant = meant or any(
                each.literal and fnmatchcase(last, each.parts[-1]) for each in matching
            )
        media = meant or _is_media(entry.name) or (target and _is_media(target))
        if media and not (entry.path and _only_named_like_media(entry.path)):
            return True
        self.counts.pass_file(entry.name)
        return False

    def _is_excluded(self, name: str) -> bool:
        return any(pattern.matches(name) for pattern in self.exclude)

    def _is_repeated(self, path: str) -> bool:
        if not self.remembers:
            return False
        if path in self.files:
            self.counts.repeated += 1
            return True
        self.files.add(path)
        return False

    def _own(self, name: str, where: str) -> str:
        """A name that no other entry has; it depends only on the location of the file."""
        if not self.remembers:
            return name
        number = 0
        wanted = name
        while wanted in self.names:
            mark = hashlib.sha256(f"{number}{where}".encode("utf-8", "surrogatepass")).hexdigest()
            stem, suffix = os.path.splitext(name)
            wanted = f"{stem}~{mark[:8]}{suffix}"
            number += 1
        self.names.add(wanted)
        return wanted

    def _file(self, name: str, path: str) -> Entry:
        try:
            facts = os.lstat(path)
            if stat.S_ISLNK(facts.st_mode):  # a loop
                return _skipped(name, path, "skipped_symlink", "a link that leads nowhere")
            if not stat.S_ISREG(facts.st_mode):
                return _skipped(name, path, "skipped_special", f"{_what(facts.st_mode)}, no file")
            if not os.access(path, os.R_OK):
                raise PermissionError(13, "Permission denied")
        except (OSError, ValueError) as error:
            return self._unreadable(name, path, error)
        identity = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
        return InputFile(name, Path(path), identity)

    def _unreadable(self, name: str, path: str, error: Exception) -> SkippedEntry:
        return _skipped(name, path, "unreadable", reason_of(error), Label.ERROR)

    def _in_results(self, path: str) -> bool:
        if self.results is None:
            return False
        return path == self.results or path.startswith(self.results.rstrip("/") + "/")

    def _is_results(self, path: str, facts: os.stat_result) -> bool:
        return self._in_results(path) or self._is_skip(facts) or is_results(Path(path))

    def _is_skip(self, facts: os.stat_result) -> bool:
        try:
            return self.results is not None and os.path.samestat(facts, os.stat(self.results))
        except OSError:
            return False

    def _pass_results(self, path: str) -> None:
        self.counts.results.append(Path(path))
        logger.warning("%s: results of deepscan, not scanned", path)


_REMOTE = {
    "link": ("skipped_symlink", "a symbolic link", Label.INCONCLUSIVE),
    "special": ("skipped_special", "not a file, as the driver says", Label.INCONCLUSIVE),
    "unreadable": ("unreadable", "cannot be read", Label.ERROR),
    "too_deep": ("limit_depth", f"more than {DEPTH} folders deep: not entered", Label.ERROR),
}


def _is_list(text: str) -> bool:
    return text == "-" or text.startswith("@")


def _is_media(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _MEDIA


def _only_named_like_media(path: str) -> bool:
    """True for files with a media suffix that are AppleDouble of macOS or TypeScript."""
    name = os.path.basename(path)
    suffix = os.path.splitext(name)[1].lower()
    beside = name.startswith("._") or os.path.basename(os.path.dirname(path)) == ".AppleDouble"
    if not beside and suffix not in _SOURCE_SUFFIXES:
        return False
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(_LOOKED_AT)
    except OSError:
        return False  # the scan will report the error
    if beside and head.startswith(APPLE_DOUBLE):
        return True
    return suffix in _SOURCE_SUFFIXES and is_text(head)


def _root(text: str) -> _Root:
    if _is_list(text):
        return _Root(text, text)
    if is_address(text):
        protocol, _, rest = text.partition("://")
        whole = rest.split("/")
        magic = next((n for n, part in enumerate(whole) if "*" in part), None)
        if magic is None:
            return _Root(text, text, remote=True)
        base = f"{protocol}://{'/'.join(whole[:magic])}"
        return _Root(text, base, Pattern.over(parts_of("/".join(whole[magic:]))), remote=True)
    if not has_wildcard(text) or os.path.lexists(text):
        return _Root(text, text)
    whole = text.split("/")
    magic = next(n for n, part in enumerate(whole) if has_wildcard(part))
    base = "/".join(whole[:magic]) or ("/" if text.startswith("/") else ".")
    return _Root(text, base, Pattern.over(parts_of("/".join(whole[magic:]))))


def _given(text: str) -> str:
    """The name of a file among several inputs: the path as it was given."""
    path = os.path.normpath(text)
    if os.path.isabs(path) or path.split("/")[0] == "..":
        path = os.path.abspath(text)
    return "" if path == "." else path.lstrip("/")


def _prefixes(roots: Sequence[_Root]) -> list[str]:
    """Names of folders, each with as many parts of its path as make it unique."""
    whole = [
        parts_of(root.base.partition("://")[2] if root.remote else os.path.abspath(root.base))
        or ("root",)
        for root in roots
    ]
    used = [1] * len(roots)
    while True:
        names = ["/".join(parts[-count:]) for parts, count in zip(whole, used, strict=True)]
        longer = False
        for n, name in enumerate(names):
            same_name = [
                m for m, other in enumerate(names) if other == name and whole[m] != whole[n]
            ]
            if same_name and used[n] < len(whole[n]):
                used[n] += 1
                longer = True
        if not longer:
            return names


def is_list(head: bytes) -> bool:
    """True if bytes can be the start of a list of names.

    Names separated by NUL are never empty, while media have two NULs in a row near their start.
    UTF-16, which some Windows shells write, would be read as names of one letter.
    """
    return b"\0\0" not in head and not head.startswith((b"\xff\xfe", b"\xfe\xff"))


def _read_list(file: BinaryIO) -> Iterator[str]:
    """Yield the paths of a list, read in pieces."""
    rest = file.read(_HEAD)
    nul = b"\0" in rest
    end = b"\0" if nul else b"\n"
    if not nul:
        rest = rest.removeprefix(b"\xef\xbb\xbf")
    while True:
        *lines, rest = rest.split(end)
        for line in lines:
            yield from _path(line, nul=nul)
        more = file.read(_LIST_LINE)
        if not more:
            yield from _path(rest, nul=nul)
            return
        rest += more


def _path(line: bytes, *, nul: bool) -> Iterator[str]:
    if not nul:
        line = line.removesuffix(b"\r")
        if line.startswith(b"#") or not line.strip():
            return
    if line:
        yield os.fsdecode(line)


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    return "folder" if entry.is_dir(follow_symlinks=False) else "file"


def _what(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a folder" if stat.S_ISDIR(mode) else "a device"


def _skipped(
    name: str,
    path: str | Path,
    code: str,
    text: str,
    label: Label = Label.INCONCLUSIVE,
) -> SkippedEntry:
    return SkippedEntry(name, Path(path), label, Reason(code, text))
