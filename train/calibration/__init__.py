"""Calibrate scores, measure and certify weights, and write their cards."""
