"""MSCCNet's official weights as a weights file: `python -m train.convert CHECKPOINT --out FILE`.

The rules are the program's (deepscan/models/official.py). The result has no card:
`deepscan model import` makes a model of either file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from deepscan.models.official import convert, read_checkpoint
from deepscan.models.weights import save_weights
from train.command import exit_on_error

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    checkpoint: Annotated[Path, typer.Argument(help="Official checkpoint (epoch_N.pth).")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
) -> None:
    """Convert weights of MSCCNet's official code. Exit code 2: they do not fit."""
    with exit_on_error("convert"):
        config, state = convert(read_checkpoint(checkpoint))
    origin = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    out.parent.mkdir(parents=True, exist_ok=True)
    digest = save_weights(out, config, state, {"converted_from_sha256": origin})
    typer.echo(
        f"{out}: {config.backbone}, {config.input_size} px, dct_k {config.dct_k}, "
        f"band_k {config.band_k}, SHA-256 {digest}"
    )


if __name__ == "__main__":
    app()
