"""The scan of one file: from its frames to a verdict and its outputs."""
