"""Two engines on the same crops."""

from __future__ import annotations

from deepscan.engines.parity import difference, predict_all, probe


def compare(engine, reference, *, thresholds=(0.5,), crops=None):
    """The `Parity` of an engine with another, over the probe or other crops."""
    crops = probe(engine.input_size) if crops is None else crops
    ours, theirs = predict_all(engine, crops), predict_all(reference, crops)
    return difference(ours, theirs, engine.name, thresholds)
