"""Decoding in a separate process, with limits and without rights."""
