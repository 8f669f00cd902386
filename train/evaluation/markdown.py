"""Markdown of results: the same table, the same way to write a figure, in every file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from train.evaluation.metrics import Estimate


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def figure(estimate: Estimate | None, *, sign: bool = False) -> str:
    """`0.712 [0.650, 0.771]`; empty for None."""
    if estimate is None:
        return ""
    form = "+.3f" if sign else ".3f"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def by_sign(differences: Mapping[str, Estimate]) -> str:
    """Group names by their intervals: `better: a, b; worse: c; no clear difference: d`."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "no clear difference": []}
    for name, value in differences.items():
        word = "better" if value.low > 0 else "worse" if value.high < 0 else "no clear difference"
        groups[word].append(name)
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in groups.items() if names)


def count(number: float) -> str:
    """`23.5 M`, `1.26 G`, `410 k`: three figures and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"
