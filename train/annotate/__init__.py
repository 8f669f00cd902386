"""Pixel masks for manipulated faces from pairs of a real and a fake video (P-FF++).

Public data sets label videos; MSCCNet learns from pixels. Where the real video that a fake was made
from is known, the two differ exactly where somebody manipulated. `procedure` turns one pair of
crops into a mask, `pairs` finds what belongs together, `work` reads, cuts and writes one real video
with its fakes, `sheet` shows the result to people. Run: `python -m train.annotate --help`.
"""

from train.annotate.procedure import Annotation, annotate

__all__ = ["Annotation", "annotate"]
