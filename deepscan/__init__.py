"""deepscan finds manipulated faces in video: masks, intervals, a verdict that can be checked."""

import os

# Two OpenMP teams that spin on the same cores make face detection up to nine times slower; has to
# be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
