"""Content credentials: signed, altered, absent, hostile; and a process that is not believed."""

from __future__ import annotations

import datetime
import json
import os
import platform
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from deepscan import c2pa as provenance
from deepscan.c2pa import (
    Provenance,
    _believable,
    provenance_of,
    read_provenance,
    read_trust_list,
)
from deepscan.errors import UsageError
from deepscan.options import ScanOptions
from deepscan.scan.scanner import Scanner
from deepscan.sinks.html import credentials_of
from deepscan.video.isolation import launcher
from deepscan.video.isolation.sandbox import DENIED
from deepscan.wording import credentials
from tests.conftest import fake_scanner
from tests.media import make_video

NOW = datetime.datetime.now(datetime.UTC)
ABSENT = Provenance("absent")


@pytest.fixture(scope="module")
def c2pa():
    return pytest.importorskip("c2pa")


@pytest.fixture(scope="module")
def chain():
    """A root certificate (PEM), and a signer's key and chain (PEM) below it."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(name):
        parts = ((NameOID.ORGANIZATION_NAME, "Example Press"), (NameOID.COMMON_NAME, name))
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])

    def certify(name, key, issuer, issuer_key, *, root):
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        given = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(days=1))
            .not_valid_after(NOW + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
            )
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=root, crl_sign=root, **usage),
                critical=True,
            )
        )
        if not root:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            given = given.add_extension(purpose, critical=False)
        signed = given.sign(issuer_key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = certify("Example Root", root_key, "Example Root", root_key, root=True)
    leaf = certify("Example Desk", key, "Example Root", root_key, root=False)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return root, secret, leaf + root


@pytest.fixture(scope="module")
def signed(tmp_path_factory, c2pa, chain):
    """A video and a picture that are signed, with those that they were before."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("signed")
    make_video(folder / "plain.mp4", frames=3, size=(64, 64))
    Image.new("RGB", (64, 64), (9, 99, 200)).save(folder / "plain.jpg")
    _, secret, certificates = chain
    kind = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    created = {"action": "c2pa.created", "digitalSourceType": kind}
    claim = {
        "claim_generator_info": [{"name": "example-camera", "version": "2.1"}],
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [created]}},
        ],
    }
    for suffix in ("mp4", "jpg"):
        info = c2pa.C2paSignerInfo(b"es256", certificates, secret, None)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(claim) as builder:
            plain, target = folder / f"plain.{suffix}", folder / f"signed.{suffix}"
            builder.sign_file(os.fspath(plain), os.fspath(target), signer)
    return folder


def altered(path, target, place=-40):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    target.write_bytes(data)
    return target


# Files


@pytest.mark.parametrize("suffix", ["mp4", "jpg"])
def test_a_signed_file(signed, suffix):
    found = read_provenance(signed / f"signed.{suffix}")
    assert (found.state, found.integrity, found.trust) == ("valid", "valid", "unchecked")
    assert (found.signer, found.issuer) == ("Example Desk", "Example Press")
    assert found.generator == "example-camera 2.1"
    assert "no trust list" in found.notes[-1]


def test_a_made_up_certificate_is_not_called_valid(signed, chain, tmp_path):
    """Whoever can sign can write any name into a certificate of their own."""
    found = read_provenance(signed / "signed.mp4")
    assert credentials(found) == "signature intact, issuer not checked"
    known = read_provenance(signed / "signed.mp4", anchors=chain[0].decode())
    assert credentials(known) == "signature intact, issuer trusted"
    broken = read_provenance(altered(signed / "signed.mp4", tmp_path / "a.mp4"))
    assert credentials(broken).startswith("altered after it was signed")
    assert credentials(replace(found, trust="untrusted")).endswith("issuer not trusted")
    assert credentials(ABSENT) == "absent"
    shown = dict(credentials_of(found))
    assert shown["State"] == credentials(found) and "valid" not in shown.values()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("trainedAlgorithmicMedia", "says that it was made by AI (trainedAlgorithmicMedia)"),
        ("compositeWithTrainedAlgorithmicMedia", "says that it was in part made by AI"),
        ("digitalCapture", None),
    ],
)
def test_a_claim_that_says_made_by_ai_is_told(signed, c2pa, chain, tmp_path, kind, told):
    code = f"http://cv.iptc.org/newscodes/digitalsourcetype/{kind}"
    actions = [{"action": "c2pa.created", "digitalSourceType": code}]
    claim = {
        "claim_generator_info": [{"name": "example-generator"}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": actions}}],
    }
    _, secret, certificates = chain
    info = c2pa.C2paSignerInfo(b"es256", certificates, secret, None)
    target = tmp_path / "made.jpg"
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder(claim) as builder:
        builder.sign_file(os.fspath(signed / "plain.jpg"), os.fspath(target), signer)
    found = read_provenance(target)
    assert found.source_type == kind
    assert dict(credentials_of(found))["Says of its source"] == kind
    if told is None:
        assert "AI" not in credentials(found)
    else:
        assert told in credentials(found)


def test_what_a_part_says_of_ai_comes_first():
    def claim(kind):
        action = {"action": "c2pa.created", "digitalSourceType": f"http://x/{kind}"}
        return {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]}

    report = {
        "active_manifest": "edit",
        "manifests": {"edit": claim("digitalCapture"), "part": claim("trainedAlgorithmicMedia")},
    }
    assert provenance_of(report, anchored=False).source_type == "trainedAlgorithmicMedia"


@pytest.mark.parametrize("content", [None, b"no certificate", b"\xff\xfe"])
def test_a_trust_list_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "list.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"trust list .*list\.pem"):
        read_trust_list(path)
    with pytest.raises(UsageError, match="trust list"):
        Scanner(ScanOptions(trust_list=str(path)))


def test_a_scan_checks_the_issuer_against_a_trust_list(signed, chain, tmp_path):
    (tmp_path / "list.pem").write_bytes(chain[0])
    told = {}
    for trust_list in (None, str(tmp_path / "list.pem")):
        with fake_scanner(ScanOptions(trust_list=trust_list)) as scanner:
            target = tmp_path / f"{trust_list is None}.json"
            scanner.scan(signed / "signed.mp4", {"record": target})
            told[trust_list is None] = json.loads(target.read_text())["provenance"]["summary"]
    assert told[True].endswith("issuer not checked") and told[False].endswith("issuer trusted")


@pytest.mark.parametrize("suffix", ["mp4", "jpg"])
def test_a_signed_file_that_was_altered(signed, suffix, tmp_path):
    found = read_provenance(altered(signed / f"signed.{suffix}", tmp_path / f"a.{suffix}"))
    assert (found.state, found.integrity) == ("invalid", "invalid")
    assert found.signer == "Example Desk"  # who signed what it was
    assert any("mismatch" in note for note in found.notes)


@pytest.mark.parametrize("suffix", ["mp4", "jpg"])
def test_a_file_without_credentials_costs_no_process(signed, suffix, monkeypatch):
    monkeypatch.setattr(provenance, "_ask", lambda *given: pytest.fail("a process"))
    assert read_provenance(signed / f"plain.{suffix}") == ABSENT


def test_a_list_of_trusted_certificates(signed, chain):
    found = read_provenance(signed / "signed.mp4", anchors=chain[0].decode())
    assert (found.state, found.trust, found.notes) == ("valid", "trusted", ())


def test_somebody_elses_list_of_trusted_certificates(signed, tmp_path):
    import ssl

    known = ssl.create_default_context()
    known.load_default_certs()
    other = known.get_ca_certs(binary_form=True)
    if not other:
        pytest.skip("this system has no certificates of its own")
    anchors = ssl.DER_cert_to_PEM_cert(other[0])
    found = read_provenance(signed / "signed.jpg", anchors=anchors)
    assert (found.state, found.integrity, found.trust) == ("valid", "valid", "untrusted")
    assert any(note.startswith("signingCredential.untrusted") for note in found.notes)


def test_matroska_has_no_place_for_credentials(tmp_path, c2pa):
    clip = make_video(tmp_path / "a.webm", frames=2, size=(64, 64), codec="libvpx")
    assert read_provenance(clip).state == "unsupported"


def test_a_file_of_no_known_kind(tmp_path, c2pa):
    (tmp_path / "a.bin").write_bytes(b"c2pa" * 100)
    assert read_provenance(tmp_path / "a.bin").state == "unsupported"


def test_credentials_that_lie_elsewhere_are_not_fetched(signed, tmp_path):
    xmp = (
        b"http://ns.adobe.com/xap/1.0/\0"
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-"
        b"rdf-syntax-ns#'><rdf:Description rdf:about='' xmlns:dcterms='http://purl.org/dc/terms/' "
        b"dcterms:provenance='http://127.0.0.1:9/manifest.c2pa'/></rdf:RDF></x:xmpmeta>"
    )
    data = (signed / "plain.jpg").read_bytes()
    segment = b"\xff\xe1" + (len(xmp) + 2).to_bytes(2, "big") + xmp
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    found = read_provenance(tmp_path / "a.jpg")
    assert found.state == "unknown" and found.signer is None
    assert "are not fetched" in found.notes[0] and "127.0.0.1" in found.notes[0]


def test_without_the_extra_nobody_looks(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "find_spec", lambda name: None)
    found = read_provenance(tmp_path / "a.mp4")
    assert found.state == "unknown" and ".[provenance]" in found.notes[0]


@pytest.mark.parametrize("make", [None, os.mkdir, os.mkfifo])
def test_what_cannot_be_read(tmp_path, make, c2pa):
    if make is not None:
        make(tmp_path / "a\n.mp4")
    found = read_provenance(tmp_path / "a\n.mp4")
    assert found.state == "unreadable" and "\n" not in found.notes[0]


def children():
    """The processes that this one has started and not yet taken leave of."""
    found = Path("/proc/self/task").glob("*/children")
    return {child for path in found for child in path.read_text().split()}


def test_mutated_files_end_in_a_state_and_leave_no_process(signed, tmp_path):
    rng, before = random.Random(7), children()
    whole = (signed / "signed.mp4").read_bytes()
    store = whole.index(b"jumb")
    for number in range(6):
        data = bytearray(whole)
        for _ in range(10 * (number + 1)):
            data[store + rng.randrange(4000)] = rng.randrange(256)
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        assert read_provenance(path).state in ("invalid", "unreadable", "absent")
    assert children() == before


# A process that goes wrong


@pytest.fixture
def child(monkeypatch, tmp_path, signed):
    """Puts a process of the test's in the place of the one that reads."""

    def play(text):
        start = f"import os, sys, time\n{text}".replace("{", "{{").replace("}", "}}")
        monkeypatch.setattr(launcher, "START", start)
        return read_provenance(signed / "signed.mp4")

    return play


def test_a_process_that_hangs_is_killed(child, monkeypatch):
    monkeypatch.setattr(provenance, "TIME", 1.0)
    began = time.monotonic()
    found = child("time.sleep(600)")
    assert time.monotonic() - began < 10
    assert found.state == "unreadable" and "longer than 1 s" in found.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "os.kill(os.getpid(), 11)", "print('[1]')", "print('{')", "print('[' * 100000)", "pass",
        "print('{\"state\": \"valid\", \"integrity\": null, \"trust\": null}')",
        "sys.stdout.write('x' * 2**23)",
    ],
)  # fmt: skip
def test_nonsense_is_not_believed(child, text):
    found = child(text)
    assert found.state == "unreadable" and len(found.notes) == 1
    if "kill" in text:
        assert "SIGSEGV" in found.notes[0]


def test_the_process_has_no_network(signed, monkeypatch):
    """What the library could reach if a file took it over."""
    if not sys.platform.startswith("linux") or platform.machine() not in DENIED:
        pytest.skip("rights are taken away on Linux only")
    text = (
        "import socket, sys; sys.path.append(sys.argv[2])\n"
        "from deepscan import c2pa as provenance\n"
        "provenance._read = lambda *given: socket.socket()\n"
        "provenance.main(sys.argv[1])"
    )
    monkeypatch.setattr(launcher, "START", text)
    (note,) = read_provenance(signed / "signed.jpg").notes
    assert note.startswith("PermissionError")


def answer(**values):
    return {
        "state": "valid", "integrity": "valid", "trust": "unchecked", "signer": "a", "issuer": None,
        "time": None, "generator": None, "source_type": None, "notes": [], **values,
    }  # fmt: skip


def test_words_are_made_fit_to_be_shown():
    found = _believable(answer(signer="a\x1b[2J\u202eb\n" + "x" * 1000, notes=["\0"] * 100))
    assert found.signer.startswith("a\ufffd[2J\ufffdb\ufffdx") and len(found.signer) == 300
    assert found.notes == ("\ufffd",) * 32


@pytest.mark.parametrize(
    "values",
    [
        {"state": "trusted"}, {"integrity": "yes"}, {"trust": 1}, {"signer": 1}, {"notes": [1]},
        {"integrity": "invalid"}, {"state": "absent"}, {"trust": "invalid"},
    ],
)  # fmt: skip
def test_answers_that_cannot_be(values):
    with pytest.raises((ValueError, TypeError)):
        _believable(answer(**values))


# Reports of the library


def report(*codes, state="Valid", **manifest):
    failures = [{"code": code, "explanation": "why"} for code in codes]
    return {
        "active_manifest": "m",
        "manifests": {"m": {"signature_info": {"issuer": "I", "common_name": "C"}, **manifest}},
        "validation_results": {"activeManifest": {"failure": failures}},
        "validation_state": state,
    }


@pytest.mark.parametrize(
    ("codes", "state", "expected"),
    [
        ((), "Trusted", ("valid", "valid", "trusted")),
        (("signingCredential.untrusted",), "Valid", ("valid", "valid", "untrusted")),
        (("signingCredential.expired",), "Invalid", ("invalid", "valid", "invalid")),
        (("signingCredential.ocsp.revoked",), "Invalid", ("invalid", "valid", "invalid")),
        (("assertion.dataHash.mismatch",), "Invalid", ("invalid", "invalid", "untrusted")),
        (("claimSignature.mismatch",), "Invalid", ("invalid", "invalid", "untrusted")),
        ((), "Invalid", ("invalid", "invalid", "untrusted")),
    ],
)
def test_integrity_and_trust_are_two_things(codes, state, expected):
    found = provenance_of(report(*codes, state=state), anchored=True)
    assert (found.state, found.integrity, found.trust) == expected


def test_what_a_claim_says_of_itself():
    assert provenance_of(report(claim_generator="cam/1"), anchored=False).generator == "cam/1"
    info = [{"name": "cam"}]
    assert provenance_of(report(claim_generator_info=info), anchored=False).generator == "cam"


def test_it_is_ready_for_json():
    values = json.loads(json.dumps(Provenance("absent", notes=("a",)).to_json()))
    assert values["state"] == "absent" and values["notes"] == ["a"] and values["signer"] is None
