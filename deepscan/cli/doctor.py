"""Examines this installation: installed packages, working engines, and the choice of `auto`.

Every engine is loaded and compared with the reference, the model scores known crops, and decoders
are imported in separate processes, as in a scan.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deepscan.engines.cache import cache_folder
from deepscan.engines.choose import Choice, build, candidates, every_choice, parse_name
from deepscan.engines.engine import Engine
from deepscan.engines.hardware import Hardware, detect_hardware
from deepscan.engines.packages import PACKAGES, installed_versions
from deepscan.engines.parity import SelfTest, check_selftest, selftest_scores
from deepscan.errors import DeepscanError, EngineError
from deepscan.models.card import Card
from deepscan.models.library import read_card
from deepscan.models.weights import read_weights
from deepscan.options import ScanOptions
from deepscan.types import Parity

CHILD_TIME = 60.0  # seconds that a small process may take on a busy machine
DISK = 64 * 2**20  # bytes; a converted network takes 10 MB

_AV = (
    "import av, json; print(json.dumps({name: '.'.join(map(str, numbers))"
    " for name, numbers in av.library_versions.items()}))"
)
_DECORD = "import decord; print(decord.__version__)"
_SANDBOX = "from deepscan.video.isolation.sandbox import lock_down; print(lock_down())"


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of a part: works with a version, or the reason why it does not."""

    name: str
    works: bool
    detail: str


@dataclass(frozen=True, slots=True)
class EngineFinding:
    """The state of an engine: usable or not, the reason, and its parity with torch if measured."""

    name: str
    works: bool
    detail: str
    parity: Parity | None = None

    def values(self) -> dict[str, Any]:
        """Plain values for JSON, with the figures of parity at the same level."""
        figures = dict.fromkeys(field.name for field in fields(Parity))
        if self.parity is not None:
            figures = asdict(self.parity)
        return {"name": self.name, "works": self.works, "detail": self.detail, **figures}


@dataclass(frozen=True, slots=True)
class ModelFinding:
    """The model as its card describes it; `evaluated_on` names what the AUC was measured on."""

    name: str
    sha256: str
    input_size: int
    auc: float | None
    auc_interval: tuple[float, float] | None
    evaluated_on: str
    calibration: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """The report: `ok` if scans work as intended; else `reasons` says why not.

    `notes` are further remarks for people. `sandbox` names the active protections of a decoder
    process ("landlock-6+seccomp", "none"). `cache_free` is in bytes.
    """

    ok: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]
    machine: Hardware
    decoders: tuple[Finding, ...]
    engines: tuple[EngineFinding, ...]
    chosen_engine: str | None
    chosen_reason: str
    model: ModelFinding | None
    selftest: SelfTest
    sandbox: str
    cache: str | None
    cache_free: int | None

    def to_json(self) -> str:
        """The report as one JSON object."""
        values = {**asdict(self), "engines": [engine.values() for engine in self.engines]}
        return json.dumps(values, indent=2, ensure_ascii=True, allow_nan=False)

    def to_text(self) -> str:
        """The report for people."""
        lines = ["deepscan works here." if self.ok else "deepscan does NOT work correctly here:"]
        lines += [f"  - {reason}" for reason in self.reasons]
        lines += [f"  note: {note}" for note in self.notes]
        lines += ["", "Versions"]
        lines += [f"  {name:<16} {number}" for name, number in self.versions]
        hardware = self.machine
        lines += ["", "Hardware"]
        lines.append(f"  cpu              {hardware.cpu}, {hardware.cores} cores")
        lines.append(f"  instructions     {' '.join(hardware.flags) or 'none that matter'}")
        lines.append(f"  cuda             {hardware.cuda or 'no device'}")
        lines.append(f"  sandbox          {self.sandbox}")
        free = "" if self.cache_free is None else f", {self.cache_free / 2**30:.1f} GB free"
        lines.append(f"  cache            {self.cache or 'none'}{free}")
        lines += ["", "Decoders"]
        lines += [f"  {_mark(one.works)} {one.name:<18} {one.detail}" for one in self.decoders]
        lines += ["", "Engines"]
        lines += [
            f"  {_mark(one.works)} {one.name:<18} {_parity_text(one)}" for one in self.engines
        ]
        lines.append(f"  a scan uses {self.chosen_engine or 'none'} ({self.chosen_reason})")
        lines += ["", "Model"]
        if (model := self.model) is None:
            lines.append("  none")
        else:
            lines.append(f"  {model.name}, {model.input_size} px, SHA-256 {model.sha256}")
            if model.auc_interval is not None:
                low, high = model.auc_interval
                lines.append(
                    f"  AUC {model.auc:.3f} ({low:.3f} to {high:.3f}) on {model.evaluated_on}"
                )
            lines.append(f"  calibration {model.calibration or 'none'}")
        lines.append(f"  self-test: {self.selftest.detail}")
        return "\n".join(lines)


def examine(options: ScanOptions, *, folder: Path | None = None) -> Report:
    """Check everything that a scan with these options needs.

    Takes some seconds: every engine is loaded, and compared with torch if that was never done.

    Args:
        options: engine and model to check.
        folder: where models lie.
    """
    hardware = detect_hardware()
    reasons: list[str] = []
    notes: list[str] = []
    decoders, libraries = _decoders()
    if not decoders[0].works:
        reasons.append(f"no video can be read: {decoders[0].detail}")
    sandbox = _run_child(_SANDBOX)
    if not sandbox.works:
        reasons.append(f"decoder processes cannot be locked down: {sandbox.detail}")
    elif sandbox.detail == "none":
        notes.append("decoder processes keep access to files and network: no Landlock, no seccomp")
    card, model = _model(options.model, folder, reasons)
    engines: tuple[EngineFinding, ...] = ()
    chosen, why, selftest = None, "no model", SelfTest(None, "no engine")
    if card is not None:
        engines = tuple(_check_engine(choice, card, hardware) for choice in every_choice(card))
        engine = _choose(options.engine, card, hardware, engines)
        if isinstance(engine, str):
            why = engine
            reasons.append(engine)
        else:
            chosen, why = engine.name, engine.info.reason
            selftest = _selftest(engine, card)
            engine.close()
            if selftest.works is False:
                reasons.append(f"the self-test failed: {selftest.detail}")
            elif selftest.works is None:
                notes.append(f"no self-test: {selftest.detail}")
    cache = cache_folder()
    free = shutil.disk_usage(cache).free if cache else None
    if free is None:
        notes.append("no cache: every start converts the network again. Set DEEPSCAN_CACHE")
    elif free < DISK:
        notes.append(f"only {free // 2**20} MB are free in {cache}")
    return Report(
        ok=not reasons,
        reasons=tuple(reasons),
        notes=tuple(notes),
        versions=(*_versions(), *libraries),
        machine=hardware,
        decoders=decoders,
        engines=engines,
        chosen_engine=chosen,
        chosen_reason=why,
        model=model,
        selftest=selftest,
        sandbox=sandbox.detail if sandbox.works else "unknown",
        cache=str(cache) if cache else None,
        cache_free=free,
    )


def _versions() -> tuple[tuple[str, str], ...]:
    found = dict(installed_versions())
    missing = [(package, "not installed") for package in PACKAGES if package not in found]
    return (*found.items(), *missing)


def _decoders() -> tuple[tuple[Finding, ...], tuple[tuple[str, str], ...]]:
    """Check PyAV and decord; also returns the versions of PyAV's FFmpeg libraries."""
    av = _run_child(_AV)
    libraries: tuple[tuple[str, str], ...] = ()
    if av.works:
        libraries = tuple(sorted(json.loads(av.detail).items()))
        av = Finding("pyav", True, version("av"))
    decord = _run_child(_DECORD)
    if not decord.works:
        decord = Finding("decord", False, f"{decord.detail}; PyAV reads everything instead")
    return (replace(av, name="pyav"), replace(decord, name="decord")), libraries


def _run_child(code: str) -> Finding:
    """Run a line of Python in a separate process; returns its output, or why it failed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=CHILD_TIME,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("", False, str(error))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("", False, f"exit status {done.returncode}: {last}")
    return Finding("", True, done.stdout.strip())


def _model(
    name: str, folder: Path | None, reasons: list[str]
) -> tuple[Card | None, ModelFinding | None]:
    try:
        card = read_card(name, folder)
        read_weights(card)
    except DeepscanError as error:
        reasons.append(str(error))
        return None, None
    info = card.info
    return card, ModelFinding(
        info.name,
        info.sha256,
        info.input_size,
        info.auc,
        info.auc_interval,
        info.evaluated_on,
        None if card.calibration is None else str(card.calibration["name"]),
    )


def _check_engine(choice: Choice, card: Card, hardware: Hardware) -> EngineFinding:
    try:
        engine: Any = build(choice, card, hardware, "", allow_build=False)
    except DeepscanError as error:
        return EngineFinding(choice.name, False, str(error))
    engine.close()
    parity = engine.info.parity
    detail = "the reference" if parity is None else "agrees with torch"
    return EngineFinding(choice.name, True, detail, parity)


def _choose(
    name: str, card: Card, hardware: Hardware, engines: tuple[EngineFinding, ...]
) -> Engine | str:
    """Load the engine that a scan would use; or the reason why there is none."""
    works = {finding.name for finding in engines if finding.works}
    try:
        if name != "auto":
            return build(parse_name(name), card, hardware, "asked for")
        for choice, reason in candidates(hardware, card):
            if choice.name in works:
                return build(choice, card, hardware, reason, allow_build=False)
    except EngineError as error:
        return str(error)
    return "no engine runs here"


def _selftest(engine: Engine, card: Card) -> SelfTest:
    try:
        return check_selftest(card.values.get("selftest"), selftest_scores(engine))
    except EngineError as error:
        return SelfTest(False, str(error))


def _mark(works: bool) -> str:
    return "yes" if works else "no "


def _parity_text(engine: EngineFinding) -> str:
    if engine.parity is None:
        return engine.detail
    return (
        f"{engine.detail}: largest score difference {engine.parity.max_score_difference:.1e}, "
        f"mean mask IoU {engine.parity.mean_mask_iou:.4f}"
    )
