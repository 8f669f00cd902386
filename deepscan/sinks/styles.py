"""The look of each kind of finding in verdict videos: its colour, line and sign.

The kinds differ in all three, so that none depends on colour alone; the palette is that of Okabe
and Ito, which is distinct in every common form of colour blindness.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from deepscan.types import Label

RGB = tuple[int, int, int]

WHITE: RGB = (245, 246, 248)
SOFT: RGB = (168, 174, 184)
NIGHT: RGB = (17, 19, 23)
LINE: RGB = (52, 57, 66)
BLACK: RGB = (0, 0, 0)

VERMILLION: RGB = (232, 86, 12)  # Okabe-Ito's, lighter, to stand on skin
YELLOW: RGB = (240, 228, 66)
SKY: RGB = (110, 190, 235)
GREY: RGB = (190, 194, 200)


@dataclass(frozen=True, slots=True)
class Style:
    """The look of one kind of finding: colour, sign, brackets at the corners of its box, dashes.

    `slope` is the direction of the lines in a marked area: 1 for /, -1 for \\, 0 for none.
    """

    colour: RGB
    sign: str
    corners: bool
    dashed: bool
    slope: int


class Mark(Enum):
    """The kinds of findings about a face in one frame."""

    MANIPULATED = Style(VERMILLION, "triangle", True, False, 1)
    SUSPICIOUS = Style(YELLOW, "diamond", True, False, -1)
    JUDGED = Style(SKY, "ring", False, False, 0)
    UNJUDGED = Style(GREY, "bar", False, True, 0)

    @classmethod
    def of(cls, label: Label) -> Mark:
        """The mark for the label of a verdict or an interval."""
        if label is Label.MANIPULATED:
            return cls.MANIPULATED
        if label is Label.SUSPICIOUS:
            return cls.SUSPICIOUS
        if label is Label.NO_EVIDENCE:
            return cls.JUDGED
        return cls.UNJUDGED


SIGNS = {
    Label.MANIPULATED: "triangle",
    Label.SUSPICIOUS: "diamond",
    Label.NO_EVIDENCE: "ring",
    Label.INCONCLUSIVE: "bar",
    Label.NOT_APPLICABLE: "bar",
    Label.ERROR: "cross",
}
"""The sign of a verdict; a face in a frame has that of its mark."""
