"""Speed, memory and published tables: `python -m train.benchmarks --help`."""
