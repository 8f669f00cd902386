"""`deepscan engine`: builds, lists, checks, measures and removes engines.

Answers go to stdout, as a table on a terminal and as plain columns elsewhere.
"""

from __future__ import annotations

import re
import signal
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deepscan.cli import arguments
from deepscan.cli.console import (
    errors,
    print_answer,
    print_json,
    print_line,
    print_table,
    show_steps,
)
from deepscan.errors import UsageError
from deepscan.exit_codes import ERROR
from deepscan.options import DEFAULT_MODEL
from deepscan.wording import visible

if TYPE_CHECKING:
    from deepscan.engines.maintenance import Entry, Proof

app = arguments.group("Build, list, check, measure and remove engines.")


@app.command()
def build(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="One of `deepscan engine list`.")],
    device: Annotated[
        str | None,
        typer.Option(help="cuda, or cuda:N for another than the first GPU.", show_default=False),
    ] = None,
    time_limit: Annotated[
        int | None,
        typer.Option(help="Kill the build after this many seconds.", min=1, show_default=False),
    ] = None,
    format_: arguments.Format = "text",
    debug: arguments.Debug = False,
) -> None:
    """Build the engine of a recipe, cache it, and compare it with torch.

    Also converts the networks of the face detector into the cache.
    """
    with errors(debug=debug):
        if device is not None and not re.fullmatch(r"cuda(:\d{1,3})?", device):
            raise UsageError(f"--device {device}: give cuda or cuda:N")
        if time_limit is not None and hasattr(signal, "setitimer"):
            # The default action of the signal ends the process, also inside native code.
            signal.setitimer(signal.ITIMER_REAL, time_limit)
        show_steps()
        from deepscan.engines.maintenance import build_recipe
        from deepscan.faces.mtcnn import SMALLEST, load_cascade

        proof = build_recipe(recipe, device=device)
        load_cascade(SMALLEST).close()  # a scan needs the face detector's networks too
        _show_proof(proof, format_)


@app.command("list")
def list_(format_: arguments.Format = "text", debug: arguments.Debug = False) -> None:
    """List the recipes and the entries of the cache."""
    with errors(debug=debug):
        from deepscan.engines.cache import cache_folder
        from deepscan.engines.maintenance import entries
        from deepscan.engines.recipe import list_recipes

        recipes, cached, folder = list_recipes(), entries(), cache_folder()
        if format_ == "json":
            print_json(
                {
                    "cache": str(folder) if folder else None,
                    "recipes": [asdict(recipe) for recipe in recipes],
                    "entries": [asdict(entry) for entry in cached],
                }
            )
            return
        print_table(
            "Recipes",
            ("recipe", "model", "runtime", "precision", "batch", "proof kept"),
            [
                (
                    one.name,
                    one.model,
                    one.runtime,
                    one.precision,
                    f"{one.batches.min}/{one.batches.opt}/{one.batches.max}"
                    if one.batches
                    else "any",
                    _has_proof(cached, one.model, one.runtime, one.precision),
                )
                for one in recipes
            ],
        )
        print_table(
            f"Cache {folder or '(none)'}",
            ("kind", "what", "fingerprint", "size", "score diff.", "mask IoU"),
            [_entry_row(entry) for entry in cached],
        )


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe or an engine.")],
    model: arguments.Model = DEFAULT_MODEL,
    format_: arguments.Format = "text",
    debug: arguments.Debug = False,
) -> None:
    """Compare an engine with the reference. Exit code 2 if it is out of tolerance."""
    with errors(debug=debug):
        from deepscan.engines.maintenance import check_parity

        proof = check_parity(name, model)
        _show_proof(proof, format_)
    if proof.violations:
        raise typer.Exit(ERROR)


@app.command("bench")
def bench_(
    model: arguments.Model = DEFAULT_MODEL,
    batch: Annotated[str, typer.Option(help="Batches, separated by commas.")] = "1,8",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; default: each engine's choice.", min=1)
    ] = None,
    format_: arguments.Format = "text",
    debug: arguments.Debug = False,
) -> None:
    """Measure every engine that runs here. Prints a table, then one line of JSON."""
    with errors(debug=debug):
        batches = _batches(batch)
        from deepscan.engines.bench import bench

        found = bench(model, batches, threads=threads)
        if format_ == "text":
            print_table(
                f"{model}, {found.input_size} px, on {visible(found.machine.cpu)}",
                (
                    "engine", "batch", "crops/s", "slowest..fastest", "CPU ms/crop",
                    "x eager torch", "x by CPU time",
                ),
                [
                    (
                        pace.engine,
                        str(pace.batch),
                        f"{pace.crops_per_second:.1f}",
                        f"{pace.lowest:.0f}..{pace.highest:.0f}",
                        f"{pace.cpu_ms_per_crop:.2f}",
                        f"{pace.speedup:.2f}",
                        f"{pace.cpu_speedup:.2f}",
                    )
                    for pace in found.paces
                ],
            )  # fmt: skip
            for engine, why in found.absent.items():
                print_line(visible(f"not here: {engine}: {why}"))
        print_json(found.values())


@app.command()
def clean(format_: arguments.Format = "text", debug: arguments.Debug = False) -> None:
    """Remove all entries of the cache; they are made again when needed."""
    with errors(debug=debug):
        from deepscan.engines.cache import cache_folder
        from deepscan.engines.maintenance import clean as remove

        folder, gone = cache_folder(), remove()
        cache = str(folder) if folder else None
        rows = [_entry_row(entry) for entry in gone]
        total = _size(sum(entry.size for entry in gone))
        lines = [f"removed {kind} {what} ({size})" for kind, what, _, size, *_ in rows]
        lines.append(f"{len(gone)} entries, {total}, from {cache or 'no cache'}")
        values = {"cache": cache, "removed": [asdict(entry) for entry in gone]}
        print_answer(format_, values, map(visible, lines))


def _batches(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1 or max(found) > 1024:
        raise UsageError(f"--batch {text}: give numbers from 1 to 1024, separated by commas")
    return found


def _show_proof(proof: Proof, format_: str) -> None:
    if format_ == "json":
        values = asdict(proof)
        print_json({**values, "complaints": values.pop("violations")})
        return
    parity, limit = proof.parity, proof.tolerance
    print_table(
        f"{proof.engine} with {proof.model}, {proof.fingerprint}",
        ("figure over the probe", "measured", "may be"),
        [
            ("largest score difference", f"{parity.max_score_difference:.2e}",
             f"{limit.max_score_difference:g}"),
            ("mean score difference", f"{parity.mean_score_difference:.2e}",
             f"{limit.mean_score_difference:g}"),
            ("mean mask IoU", f"{parity.mean_mask_iou:.4f}", f"{limit.mean_mask_iou:g}"),
            ("largest mask difference", f"{parity.max_mask_difference:.2e}",
             f"{limit.max_mask_difference:g}"),
            ("share of equal verdicts", f"{parity.verdict_equality:.4f}",
             f"{limit.verdict_equality:g}"),
        ],
    )  # fmt: skip
    for violation in proof.violations:
        print_line(f"out of tolerance: {violation}")
    if not proof.violations:
        print_line(f"agrees with {proof.reference}")


def _has_proof(cached: tuple[Entry, ...], model: str, runtime: str, precision: str) -> str:
    count = sum(
        entry.model == model
        and entry.engine.split("-")[0] == runtime
        and entry.engine.endswith(f"-{precision}")
        for entry in cached
        if entry.kind == "parity"
    )
    return "yes" if count else "no"


def _entry_row(entry: Entry) -> tuple[str, ...]:
    facts, parity = entry.facts, entry.parity
    what = {
        "openvino": f"weights {facts.get('weights', '')[:12]}, OpenVINO {facts.get('openvino')}",
        "tensorrt": f"{entry.model} {facts.get('precision')}, TensorRT {facts.get('tensorrt')}, "
        f"{facts.get('gpu')} (sm {facts.get('sm')}), driver {facts.get('driver')}",
        "timings": f"TensorRT {facts.get('tensorrt')}, {facts.get('gpu')}",
        "parity": f"{entry.engine or 'an engine'} {entry.model}".strip(),
    }.get(entry.kind, entry.key)
    return (
        entry.kind,
        what,
        (entry.fingerprint or entry.key)[:12],
        _size(entry.size),
        "" if parity is None else f"{parity.max_score_difference:.1e}",
        "" if parity is None else f"{parity.mean_mask_iou:.4f}",
    )


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count / 2**10:.1f} kB"
