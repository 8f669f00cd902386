"""Measures of a network, and its evaluation on data of others."""
