"""Reads content credentials (C2PA): who signed a file, and whether it has changed since.

They are reported beside the verdict and do not enter it: their absence proves nothing, and a valid
signature says who vouches for the pixels, not that they are authentic. A library in native code
reads untrusted bytes, so it runs in a sandboxed process. Nothing is fetched from the network,
neither remote manifests nor the status of certificates.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, get_args

from deepscan.errors import UsageError, VideoError
from deepscan.options import Limits
from deepscan.types import AI_SOURCES, CredentialState, Integrity, Provenance, Trust
from deepscan.video.input_file import Source, open_source
from deepscan.video.isolation.launcher import start_interpreter
from deepscan.video.isolation.sandbox import die_with_parent, limit_resources, lock_down
from deepscan.video.structure import boxes

logger = logging.getLogger(__name__)

MEMORY = 2**30  # bytes of address space; reading a small signed clip takes 48 MB of it
TIME, PACE = 60.0, 20 * 2**20  # seconds, and bytes a second beyond them: the whole file is hashed
LARGEST = 2**20  # bytes of an answer
LONGEST = 300  # characters of a name
MOST = 32  # notes
BOXES = 10_000  # at the top level of an MP4; with more the library has to look
C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
SIGNS = (b"c2pa", b"C2PA", b"jumb", b"provenance")
SEARCHED = 64 * 2**20  # bytes; in larger files the library has to look

EXTRA = "pip install '.[provenance]' in deepscan's checkout"
MATROSKA = b"\x1a\x45\xdf\xa3"
UNTRUSTED = "signingCredential.untrusted"
OFFLINE = {"verify": {"ocsp_fetch": False, "remote_manifest_fetch": False}}


def read_provenance(
    path: Path, limits: Limits | None = None, *, anchors: str | None = None
) -> Provenance:
    """Read the content credentials of a file. Never raises for what is in it.

    Args:
        limits: the largest size of a file.
        anchors: trusted certificates in PEM; without them trust is unchecked.
    """
    if find_spec("c2pa") is None:
        return Provenance("unknown", notes=(f"not read: {EXTRA}",))
    try:
        source = open_source(path, limits or Limits())
    except VideoError as error:
        return Provenance("unreadable", notes=(_clean(str(error)),))
    try:
        if source.head().startswith(MATROSKA):
            return Provenance("unsupported", notes=("C2PA has no place in Matroska or WebM",))
        if _is_plain(source):
            return Provenance("absent")
        return _ask(source, anchors)
    except OSError as error:
        return Provenance("unreadable", notes=(_clean(f"cannot be read: {error.strerror}"),))
    finally:
        os.close(source.descriptor)


def read_trust_list(path: Path) -> str:
    """Read the trusted certificates (PEM).

    Raises:
        UsageError: the file cannot be read or holds no certificate.
    """
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"the trust list {path} cannot be read: {why}") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise UsageError(f"the trust list {path} holds no certificate: give a file in PEM")
    return text


def _is_plain(source: Source) -> bool:
    """True if a file surely holds no credentials: spares the process for nearly all of them.

    In an MP4 they lie in a box at the top level, as does the note that they lie elsewhere;
    everywhere else their first bytes say what they are.
    """
    if source.head()[4:8] != b"ftyp":
        if source.size > SEARCHED:
            return False
        data = os.pread(source.descriptor, SEARCHED, 0)
        return not any(sign in data for sign in SIGNS)
    for box in boxes(source.descriptor, most=BOXES):
        name = os.pread(source.descriptor, 16, box.data) if box.kind == b"uuid" else b""
        if name in (C2PA_BOX, XMP_BOX):
            return False
        if box.length == 0 or box.start + box.length >= source.size:
            return bool(box.kind)
    return False


# The calling process, which checks every answer


def _ask(source: Source, anchors: str | None) -> Provenance:
    allowed = round(TIME + source.size / PACE)
    job = {
        "descriptor": source.descriptor,
        "parent": os.getpid(),
        "anchors": anchors,
        "time": allowed,
    }
    process = start_interpreter(
        "deepscan.c2pa", json.dumps(job), (source.descriptor,), stdout=subprocess.PIPE
    )
    with process:
        try:
            said = _receive(process, allowed)
        finally:
            process.kill()
    if said is None:
        return Provenance("unreadable", notes=(f"reading took longer than {allowed} s",))
    try:
        return _believable(json.loads(said))
    except (ValueError, TypeError, KeyError, RecursionError):
        logger.debug("%s: the reader of credentials said %r", source.path, said[:200])
        code = process.returncode
        how = signal.Signals(-code).name if code and code < 0 and not said else "nonsense"
        return Provenance("unreadable", notes=(f"the process that read them ended with {how}",))


def _receive(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """Read the output of a process until it ends; None after `seconds`."""
    assert process.stdout is not None
    until, said = time.monotonic() + seconds, bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(said) <= LARGEST:
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            data = os.read(process.stdout.fileno(), 2**16)
            if not data:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5.0)
                break
            said += data
    return bytes(said)


def _believable(said: Any) -> Provenance:
    """Check the answer of a process, which a hostile file may have taken over.

    Raises:
        ValueError, TypeError, KeyError: it is invalid.
    """
    state, integrity, trust = said["state"], said["integrity"], said["trust"]
    if (
        state not in get_args(CredentialState)
        or integrity not in (None, *get_args(Integrity))
        or trust not in (None, *get_args(Trust))
        or (state == "valid") != (integrity == "valid" and trust != "invalid")
    ):
        raise ValueError("an answer that cannot be")
    words = {
        name: None if said[name] is None else _clean(said[name])
        for name in ("signer", "issuer", "time", "generator", "source_type")
    }
    notes = tuple(_clean(note) for note in said["notes"][:MOST])
    return Provenance(state, integrity, trust, **words, notes=notes)


def _clean(text: str) -> str:
    """Shorten a text from the file and replace control characters."""
    if not isinstance(text, str):
        raise TypeError("no text")
    short = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
    return "".join(each if each.isprintable() else "\ufffd" for each in short)


# The process


def main(argument: str) -> NoReturn:
    """Read the credentials of the file in `argument`, a job in JSON; never returns."""
    order = json.loads(argument)
    die_with_parent()
    if os.getppid() != order["parent"]:
        os._exit(0)
    importlib.import_module("encodings.idna")  # nothing can be imported in the sandbox
    c2pa = importlib.import_module("c2pa")
    settings: dict[str, Any] = {**OFFLINE}
    if order["anchors"] is not None:
        settings["trust"] = {"trust_anchors": order["anchors"]}
    limit_resources(memory=MEMORY, most_memory=MEMORY, cpu=order["time"] + 1)
    lock_down()
    try:
        answer = _read(c2pa, order["descriptor"], settings)
    except Exception as error:  # of the library, of the callbacks it makes, or for want of memory
        answer = Provenance("unreadable", notes=(f"{type(error).__name__}: {error}"[:LONGEST],))
    data = json.dumps(answer.to_json()).encode()
    while data:
        data = data[os.write(1, data) :]
    # Native libraries may hang or crash at a normal exit.
    os._exit(0)


def _read(c2pa: Any, descriptor: int, settings: dict[str, Any]) -> Provenance:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        try:
            reader = c2pa.Reader(None, file, context=c2pa.Context.from_dict(settings))
        except c2pa.C2paError as error:
            return _without(c2pa, error)
        return provenance_of(json.loads(reader.json()), anchored="trust" in settings)


def _without(c2pa: Any, error: Exception) -> Provenance:
    """Translate an error of the library."""
    kind, text = c2pa.C2paError, str(error)
    if text.startswith("Remote"):
        return Provenance("unknown", notes=(f"they are remote and are not fetched: {text}",))
    if isinstance(error, kind.ManifestNotFound):
        return Provenance("absent")
    if isinstance(error, kind.NotSupported):
        return Provenance("unsupported", notes=("C2PA knows no such container",))
    return Provenance("unreadable", notes=(text,))


def provenance_of(report: dict[str, Any], *, anchored: bool) -> Provenance:
    """Summarise a report of the C2PA library; `anchored` if it had trusted certificates.

    Raises:
        KeyError, TypeError: the report is invalid.
    """
    active = report["manifests"][report["active_manifest"]]
    found = report.get("validation_results", {}).get("activeManifest", {})
    failures = list(found.get("failure", ()))
    for delta in report.get("validation_results", {}).get("ingredientDeltas", ()):
        failures += delta.get("validationDeltas", {}).get("failure", ())
    codes = [str(failure["code"]) for failure in failures]
    of_trust = [code for code in codes if code.startswith("signingCredential.")]
    broken = set(codes) - set(of_trust) or (
        report.get("validation_state") == "Invalid" and not of_trust
    )
    integrity: Integrity = "invalid" if broken else "valid"
    trust: Trust
    if set(of_trust) - {UNTRUSTED}:
        trust = "invalid"
    elif of_trust or report.get("validation_state") != "Trusted":
        trust = "untrusted" if anchored else "unchecked"
    else:
        trust = "trusted"
    signature = active.get("signature_info") or {}
    notes = [
        f"{failure['code']}: {failure.get('explanation') or failure.get('url', '')}"
        for failure in failures
        if failure["code"] != UNTRUSTED or anchored
    ]
    if trust == "unchecked":
        notes.append("the issuer was not checked: no trust list was given")
    return Provenance(
        state="valid" if integrity == "valid" and trust != "invalid" else "invalid",
        integrity=integrity,
        trust=trust,
        signer=signature.get("common_name"),
        issuer=signature.get("issuer"),
        time=signature.get("time"),
        generator=_generator(active),
        notes=tuple(notes),
        source_type=_source_type([active, *report["manifests"].values()]),
    )


def _source_type(manifests: Iterable[dict[str, Any]]) -> str | None:
    """The source type that the claims state for the picture or its ingredients; AI first."""
    found = [
        str(action["digitalSourceType"]).rpartition("/")[2]
        for manifest in manifests
        for assertion in manifest.get("assertions") or ()
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in (assertion.get("data") or {}).get("actions") or ()
        if isinstance(action, dict) and action.get("digitalSourceType")
    ]
    return next((each for each in found if each in AI_SOURCES), found[0] if found else None)


def _generator(manifest: dict[str, Any]) -> str | None:
    """The name of the program that made a claim."""
    for info in manifest.get("claim_generator_info") or ():
        if isinstance(info, dict) and info.get("name"):
            return f"{info['name']} {info.get('version') or ''}".strip()
    named = manifest.get("claim_generator")
    return named if isinstance(named, str) else None
