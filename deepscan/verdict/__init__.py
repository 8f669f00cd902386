"""The verdict: calibrated evidence over time, the rule over it, and notes on its coverage."""
