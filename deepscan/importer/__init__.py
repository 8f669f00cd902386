"""Import models of others: weights of MSCCNet, detectors in ONNX.

An ONNX file is not trusted: it is read in a sandboxed process, must score known crops, and only
then becomes a folder among the user's own models.
"""
