"""One file: from its frames to a verdict and its outputs."""
