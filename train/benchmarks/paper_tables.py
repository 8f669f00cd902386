"""The tables of MSCCNet's paper and of the field, filled from evaluation files.

The numbers of the paper are not known to us: its line stays empty until somebody takes them from
the paper. Of the field's tables the published figures stand in published.toml with their sources;
ours stand below them, empty where there is no evaluation. The shapes A1 to A10 follow what is known
of the paper and of its code; which compressions and protocols it prints is not.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from deepscan.errors import ModelError, UsageError
from deepscan.models import MODELS
from deepscan.models.config import MSCCNetConfig
from deepscan.models.msccnet import MSCCNet
from train.evaluation.evaluate import FORMAT
from train.evaluation.markdown import count, markdown

PIXEL_FF = ("pixel-faceforensics", "faceforensics")
COMPRESSIONS = ("c40", "c23", "c0")
MANIPULATIONS = ("Deepfakes", "Face2Face", "FaceShifter", "FaceSwap", "NeuralTextures")
PAPER = "MSCCNet (paper)"
# Title and place in an evaluation's figures of the eight measures.
EIGHT = {
    "ACC": "image.accuracy",
    "AUC": "image.auc",
    "F1": "image.macro_f1",
    "EER": "image.eer",
    "pixel ACC": "pixel.accuracy",
    "pixel F1": "pixel.macro_f1",
    "mIoU": "pixel.miou",
    "MCC": "pixel.mcc",
}
PUBLISHED = Path(__file__).with_name("published.toml")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One file of `train.evaluation.evaluate`: a network on one data set."""

    path: Path
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    joint: Mapping[str, Any]
    manipulations: Mapping[str, Mapping[str, Any]]
    robustness: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The network: its name and the start of its hash."""
        return f"{self.model['name']} ({str(self.model['sha256'])[:8]})"

    @property
    def dataset(self) -> str:
        return str(self.data["dataset"])

    @property
    def compression(self) -> str:
        return str(self.data.get("compression") or "")

    @property
    def config(self) -> MSCCNetConfig:
        """
        Raises:
            UsageError: the file does not say of which network it is.
        """
        try:
            return MSCCNetConfig(**self.model["config"])
        except (KeyError, TypeError, ModelError) as error:
            raise UsageError(f"{self.path}: model.config is of no MSCCNet: {error}") from error

    @property
    def trained(self) -> Mapping[str, Any]:
        """The recipe's [dataset], empty where it learned from made fakes or nothing is known."""
        text = (self.model.get("training") or {}).get("recipe")
        recipe = json.loads(text) if text else {}
        return recipe.get("dataset") or {}


def read_evaluations(paths: Iterable[Path]) -> list[Evaluation]:
    """Evaluation files, and all of them in folders.

    Raises:
        UsageError: a file is no evaluation, or two are of one network on the same data.
    """
    found = [_read(path) for path in _files(paths)]
    seen: dict[tuple[object, ...], Path] = {}
    for one in found:
        key = one.model["sha256"], json.dumps(one.data, sort_keys=True)
        if key in seen:
            raise UsageError(
                f"{one.path} and {seen[key]} are of the same network on the same data: give one"
            )
        seen[key] = one.path
    return found


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("*.json"))
            if not inside:
                raise UsageError(f"{path}: expected evaluation files (*.json); found none")
            yield from inside
        else:
            yield path


def _read(path: Path) -> Evaluation:
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"evaluation {path} cannot be read: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        given = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise UsageError(f"{path}: expected a file of format {FORMAT!r}; found {given!r}")
    names = [part.name for part in fields(Evaluation) if part.name != "path"]
    missing = [name for name in names if name not in values]
    missing += [f"model.{key}" for key in ("name", "sha256") if key not in values.get("model", {})]
    missing += ["data.dataset"] if "dataset" not in values.get("data", {}) else []
    if missing:
        raise UsageError(f"{path}: this evaluation lacks {', '.join(missing)}")
    return Evaluation(path, *(values[name] for name in names))


def figure_of(values: Mapping[str, Any], place: str) -> str:
    """The figure at a dotted place, empty where the evaluation does not define it."""
    found: Any = values
    for key in place.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return f"{found:.3f}" if isinstance(found, (int, float)) else ""


def eight(values: Mapping[str, Any] | None) -> list[str]:
    """The eight measures; eight empty cells of None."""
    return [figure_of(values or {}, place) for place in EIGHT.values()]


# Tables of the paper


def intra(evaluations: Sequence[Evaluation]) -> str:
    """A1: trained and tested on P-FF++, by compression."""
    rows = [
        [one.name, one.compression, *eight(one.joint)]
        for compression in COMPRESSIONS
        for one in _on(evaluations, PIXEL_FF)
        if one.compression == compression
    ]
    return markdown(["network", "compression", *EIGHT], [_paper("") + eight(None), *rows])


def per_manipulation(evaluations: Sequence[Evaluation]) -> str:
    """A2: each manipulation of P-FF++ against all real crops."""
    rows = [
        [one.name, one.compression, kind, *eight(one.manipulations[kind])]
        for one in _on(evaluations, PIXEL_FF)
        for kind in MANIPULATIONS
        if kind in one.manipulations
    ]
    paper = [[PAPER, "", kind, *eight(None)] for kind in MANIPULATIONS]
    return markdown(["network", "compression", "manipulation", *EIGHT], [*paper, *rows])


def cross_manipulation(evaluations: Sequence[Evaluation]) -> str:
    """A3: trained on some manipulations, tested on one of the others."""
    rows = []
    for one in _on(evaluations, PIXEL_FF):
        learned = list(one.trained.get("manipulations") or ())
        if not learned or one.trained.get("name") not in PIXEL_FF:
            continue
        rows += [
            [one.name, ", ".join(learned), kind, *eight(one.manipulations[kind])]
            for kind in MANIPULATIONS
            if kind in one.manipulations and kind not in learned
        ]
    header = ["network", "trained on", "tested on", *EIGHT]
    return markdown(header, [_paper("", "") + eight(None), *rows])


def cross_dataset(evaluations: Sequence[Evaluation]) -> str:
    """A4: trained on P-FF++, tested elsewhere."""
    rows = [
        [one.name, one.dataset, *eight(one.joint)]
        for one in evaluations
        if one.trained.get("name") in PIXEL_FF and one.dataset not in PIXEL_FF
    ]
    return markdown(["network", "tested on", *EIGHT], [_paper("") + eight(None), *rows])


def dolos(evaluations: Sequence[Evaluation]) -> str:
    """A5: Dolos, joint and by generator."""
    rows = []
    for one in _on(evaluations, ("dolos",)):
        rows.append([one.name, "all", *eight(one.joint)])
        rows += [[one.name, kind, *eight(values)] for kind, values in one.manipulations.items()]
    return markdown(["network", "generator", *EIGHT], [_paper("") + eight(None), *rows])


Variant = Callable[[MSCCNetConfig], str]


def _modules(config: MSCCNetConfig) -> str:
    parts = [name for name, there in (("MFA", config.mfa), ("MSCC", config.mscc)) if there]
    return " + ".join(parts) or "baseline"


def _filters(config: MSCCNetConfig) -> str:
    return config.filters if config.mscc else ""


def _bands(config: MSCCNetConfig) -> str:
    if not config.mscc:
        return ""
    return f"k = {config.band_k} (N = {config.band_k**2}), filters of k = {config.dct_k}"


def _fusion(config: MSCCNetConfig) -> str:
    if not config.mscc:
        return ""
    return " and ".join(
        f"{'with' if there else 'without'} {name}"
        for name, there in (("fused coarse map", config.coarse), ("graph step", config.graph))
    )


def ablation(evaluations: Sequence[Evaluation], variant: Variant, expected: Sequence[str]) -> str:
    """A6 to A9: networks by one property of their configuration. `expected` rows the paper has."""
    rows = [
        [one.name, variant(one.config), one.compression, *eight(one.joint)]
        for one in _on(evaluations, PIXEL_FF)
        if variant(one.config)
    ]
    paper = [[PAPER, name, "", *eight(None)] for name in expected]
    return markdown(["network", "variant", "compression", *EIGHT], [*paper, *rows])


def robustness(evaluations: Sequence[Evaluation]) -> str:
    """A10, first half: disturbed crops."""
    rows = [
        [
            one.name,
            _where(one),
            str(row.get("disturbance", "")),
            f"{row['level']:g}" if row.get("disturbance") != "none" and "level" in row else "",
            figure_of(row, "auc"),
            figure_of(row, "iou_fake"),
        ]
        for one in evaluations
        for row in one.robustness
    ]
    header = ["network", "data", "disturbance", "level", "AUC", "IoU manipulated"]
    return markdown(header, [_paper("", "", "", "", ""), *rows])


def complexity(evaluations: Sequence[Evaluation]) -> str:
    """A10, second half: size and cost of our networks, and of the paper's as its code builds it."""
    configs = {f"{name} (as built here)": config for name, config in MODELS.items()}
    for one in evaluations:
        configs.setdefault(one.name, one.config)
    rows = [[PAPER, "", "", ""]]
    for name, config in configs.items():
        size, cost = cost_of(config)
        rows.append([name, str(config.input_size), count(size), count(cost)])
    return markdown(["network", "input", "parameters", "MACs"], rows)


def cost_of(config: MSCCNetConfig) -> tuple[int, int]:
    """Parameters, and MACs of one crop; counted without computing anything."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from train.experiments.networks import macs, parameters

    with FakeTensorMode():
        network = MSCCNet(config)
        return parameters(network), macs(network, config.input_size)


def _on(evaluations: Sequence[Evaluation], datasets: Sequence[str]) -> list[Evaluation]:
    return [one for one in evaluations if one.dataset in datasets]


def _paper(*cells: str) -> list[str]:
    """The paper's line: figures unknown to us."""
    return [PAPER, *cells]


def _where(one: Evaluation) -> str:
    return f"{one.dataset} {one.compression}".strip()


# The field's tables


def read_published(path: Path = PUBLISHED) -> list[dict[str, Any]]:
    """The published tables, in the order of the file."""
    tables: list[dict[str, Any]] = tomllib.loads(path.read_text("utf-8"))["tables"]
    return tables


def field_table(table: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> str:
    """A published table with a row for each of our networks that has a figure in its columns."""
    columns = table["columns"]
    sourced = any("source" in row for row in table["rows"])
    backbones = any("backbone" in row for row in table["rows"])
    header = ["method", *(["backbone"] if backbones else [])]
    header += [column["title"] for column in columns]
    rows = []
    for row in table["rows"]:
        line = [row["method"], *([row.get("backbone", "")] if backbones else [])]
        line += [_printed(row, column["title"]) for column in columns]
        rows.append(line + ([row.get("source", "")] if sourced else []))
    place = "image.auc" if table["level"] == "frame" else "video_auc.mean"
    for name in dict.fromkeys(one.name for one in evaluations):
        own = [one for one in evaluations if one.name == name]
        cells = [_our_figure(own, column, place) for column in columns]
        if any(cells):
            kind = [_trained_on(own[0])] if sourced else []
            extra = [own[0].config.backbone] if backbones else []
            rows.append([f"**{name}, ours**", *extra, *cells, *kind])
    note = f"{table['note']}\n\n" if table.get("note") else ""
    return note + markdown([*header, *(["source"] if sourced else [])], rows)


def _printed(row: Mapping[str, Any], column: str) -> str:
    value = row["values"].get(column)
    if value is None:
        return ""
    figure = f"{value:.3f}" if round(value, 3) == value else f"{value:.4f}"
    mark = row.get("marks", {}).get(column)
    return f"{figure} ({mark})" if mark else figure


def _our_figure(own: Sequence[Evaluation], column: Mapping[str, Any], place: str) -> str:
    """The first evaluation that fits the column's data set, compression and manipulation."""
    for dataset in column.get("datasets", ()):
        for one in own:
            if one.dataset != dataset or one.compression != column.get("compression", ""):
                continue
            kind = column.get("manipulation")
            values = one.joint if kind is None else one.manipulations.get(kind, {})
            return figure_of(values, place)
    return ""


def _trained_on(one: Evaluation) -> str:
    name = one.trained.get("name")
    return f"ours, trained on {name}" if name else "ours, trained on made fakes"


# All together


Table = tuple[str, Callable[[Sequence[Evaluation]], str]]  # title, and what writes it


def all_tables() -> dict[str, Table]:
    """Every table by its short name."""
    modules = ("baseline", "MFA", "MSCC", "MFA + MSCC")
    filters = ("fixed-dct", "fixed-random", "learnable-dct", "learnable-random", "none")
    bands = ("k = 2 (N = 4)", "k = 4 (N = 16)", "k = 8 (N = 64)")
    fusions = ("without fused coarse map", "without graph step", "with both")
    tables: dict[str, Table] = {
        "A1": ("Within P-FF++, by compression", intra),
        "A2": ("Within P-FF++, by manipulation", per_manipulation),
        "A3": ("Across manipulations", cross_manipulation),
        "A4": ("Across data sets, trained on P-FF++", cross_dataset),
        "A5": ("Dolos", dolos),
        "A6": ("Ablation: modules", partial(ablation, variant=_modules, expected=modules)),
        "A7": ("Ablation: filters", partial(ablation, variant=_filters, expected=filters)),
        "A8": ("Ablation: number of bands", partial(ablation, variant=_bands, expected=bands)),
        "A9": (
            "Ablation: spectral fusion and graph",
            partial(ablation, variant=_fusion, expected=fusions),
        ),
        "A10": (
            "Robustness and complexity",
            lambda some: robustness(some) + "\n\n" + complexity(some),
        ),
    }
    for table in read_published():
        source = f", {table['source']}" if "source" in table else ""
        tables[table["name"]] = (f"{table['title']}{source}", partial(field_table, table))
    return tables


def document(evaluations: Sequence[Evaluation], names: Sequence[str]) -> str:
    """The named tables, all of them without names, as one Markdown document.

    Raises:
        UsageError: there is no table of that name.
    """
    tables = all_tables()
    unknown = [name for name in names if name not in tables]
    if unknown:
        raise UsageError(f"no table {unknown[0]!r}; there are {', '.join(tables)}")
    parts = [
        "# Benchmark",
        "A1 to A10 have the shape of MSCCNet's tables. What the paper prints is not known to us, "
        f"hence the empty line {PAPER!r}. Published figures of the field are those of the "
        "sources named; protocols differ, so no rows of two tables may be ranked, and ours follow "
        "the protocol of `train.evaluation.evaluate`. An empty cell: no figure.",
        "Evaluations: " + (", ".join(f"`{one.path.name}`" for one in evaluations) or "none") + ".",
    ]
    parts += [
        f"## {name}: {title}\n\n{write(evaluations)}"
        for name, (title, write) in tables.items()
        if not names or name in names
    ]
    return "\n\n".join(parts) + "\n"
