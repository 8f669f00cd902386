"""Paths of the outputs: a tree like that of the inputs, valid on every file system."""

from __future__ import annotations

import hashlib
import re
import unicodedata

STEM = 60  # characters; with accents as four bytes and the hash, below the 255 bytes of a name
_TREE = 512  # bytes of folders above the last part; paths end at 4096, Windows' at 260 or 32767
_KEPT = frozenset(" -_.,+=@()")  # besides letters, marks and digits
_OWN = re.compile(r"-[0-9a-f]{8}$")  # end of the last part; no folder above may end like it
_RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\..*)?$", re.IGNORECASE)
_REPORTS = ("results", "summary", "journal")  # prefixes of the files beside the tree


def folder_of(name: str) -> str:
    """The folder for the outputs of an item, relative to the results folder, "/"-separated.

    Folders mirror those of the name; the last part is the file's name without its suffix, at most
    60 characters, then "-" and 8 hex digits of the SHA-256 of the whole name. So two names never
    share a folder, also on file systems that ignore case or normalise accents. The same name gives
    the same folder on every machine. The path never contains "..", a control character, a name
    that Windows reserves, or a part above 255 bytes, and is never absolute.
    """
    *parents, last = name.split("/")
    tree: list[str] = []
    for depth, part in enumerate(parents, start=1):
        if part in ("", "."):
            continue
        tree.append(_tree_part(part, "/".join(parents[:depth]), top=not tree))
        if len("/".join(tree).encode()) > _TREE:  # the hash in the last part is unique anyway
            tree.pop()
            break
    stem, dot, _ = last.rpartition(".")
    return "/".join([*tree, f"{_safe(stem if dot and stem else last)}-{_short_hash(name)}"])


def _tree_part(part: str, path: str, *, top: bool) -> str:
    safe = _safe(part)
    folded = safe.casefold()
    if safe == part and not _OWN.search(folded) and not (top and folded.startswith(_REPORTS)):
        return safe
    # The "/" distinguishes it from a file of that name: in object stores a name can be both.
    return f"{safe}-{_short_hash(path + '/')}"


def _safe(part: str) -> str:
    """Replace characters that a file system, shell or page may not accept by "_"."""
    kept = [
        char if char in _KEPT or unicodedata.category(char)[0] in "LMN" else "_"
        for char in unicodedata.normalize("NFC", part)
    ]
    text = unicodedata.normalize("NFC", "".join(kept))[:STEM]
    # A leading dot hides a file, "-" starts an option, a mark needs a letter before it; Windows
    # drops trailing dots and spaces.
    if not text or text[0] in ". -" or unicodedata.category(text[0])[0] == "M":
        text = "_" + text[1:]
    if _RESERVED.match(text):  # a device on Windows, whatever follows the dot
        text = "_" + text[1:]
    if text[-1] in ". ":
        text = text[:-1] + "_"
    return text


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
