"""Models that others made, made ours: weights of MSCCNet, detectors in ONNX.

What comes in is not believed: it is read in a sandboxed process, has to score known crops, and
becomes a folder of the user's own only when all is well.
"""
