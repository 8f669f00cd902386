"""Forges: each manipulates a real face and returns a mask of the manipulated pixels.

To add one, write a file with one function of the shape of `Forge` (contract.py) and add a line to
`FORGES`; the conformance suite in tests/train/forge/ runs over the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deepscan.errors import UsageError

if TYPE_CHECKING:  # the modules of this package are commands, too
    from train.forge.contract import Forge


@dataclass(frozen=True, slots=True)
class ForgeEntry:
    """A forge: its function as "module:function", and the inputs that it needs.

    With `needs_pack` it works on faces of an autoencoder pack alone. `other` is the second face
    that it takes, of another person: none, any, or one alike in pose, light and skin.
    """

    function: str
    needs_pack: bool = False
    other: Literal["none", "any", "alike"] = "none"


FORGES: dict[str, ForgeEntry] = {
    "self-blend": ForgeEntry("train.forge.selfblend:self_blend"),
    "swap": ForgeEntry("train.forge.swap:swap", other="any"),
    "redraw": ForgeEntry("train.forge.redraw:redraw"),
    "reenact": ForgeEntry("train.forge.reenact:reenact"),
    "inpaint": ForgeEntry("train.forge.inpaint:inpaint"),
    "copy-move": ForgeEntry("train.forge.copymove:copy_move", other="any"),
    "whole-face": ForgeEntry("train.forge.wholeface:whole_face"),
    "reconstruct": ForgeEntry("train.forge.reconstruct:reconstruct", needs_pack=True),
    "deepswap": ForgeEntry("train.forge.deepswap:deepswap", needs_pack=True, other="alike"),
    "mesh-swap": ForgeEntry("train.forge.meshswap:mesh_swap", other="alike"),
    "mouth": ForgeEntry("train.forge.mouth:mouth", other="alike"),
    "expression": ForgeEntry("train.forge.expression:expression", other="alike"),
}


def load_forge(name: str) -> Forge:
    """Import the forge of that name.

    Raises:
        KeyError: no forge has that name.
    """
    module, function = FORGES[name].function.split(":")
    forge: Forge = getattr(import_module(module), function)
    return forge


def check_pack(shares: Mapping[str, float], pack: Path | None) -> None:
    """
    Raises:
        UsageError: a forge with a share above 0 needs a pack of redrawn faces, and there is none.
    """
    needing = sorted(n for n, share in shares.items() if share > 0 and FORGES[n].needs_pack)
    if needing and pack is None:
        raise UsageError(
            f"the forges {', '.join(needing)} need a pack of redrawn faces: make one with "
            "train.forge.build_pack and give it as --pack"
        )


def without_pack() -> list[str]:
    """The forges that need no pack, by name."""
    return sorted(name for name, entry in FORGES.items() if not entry.needs_pack)
