"""Cutting a square round a face, and pasting a mask back where the square was cut."""
