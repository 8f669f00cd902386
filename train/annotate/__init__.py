"""Pixel masks for manipulated faces from pairs of a real and a fake video (P-FF++).

Public data sets label videos; MSCCNet learns from pixels. If the real video of a fake is known, the
two differ exactly where the fake is manipulated. `procedure` turns one pair of crops into a mask,
`pairs` finds the pairs, `work` reads, cuts and writes one real video with its fakes, `sheet` draws
the result for people. Run: `python -m train.annotate --help`.
"""

from train.annotate.procedure import Annotation, annotate

__all__ = ["Annotation", "annotate"]
