"""The packages whose versions a result may depend on, and the versions installed here."""

from __future__ import annotations

import functools
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from deepscan import __version__

# What touches pixels or scores, whatever the engine. Which of them decide a settings hash is said
# in deepscan/archive/settings_hash.py: that list must not grow.
ALWAYS = ("torch", "torchvision", "av", "decord", "facenet-pytorch", "timm", "numpy", "pillow")
PACKAGES = (*ALWAYS, "safetensors", "openvino", "onnxruntime", "tensorrt")


@functools.cache  # every file of an archive names them: 20 ms each time
def installed_versions() -> tuple[tuple[str, str], ...]:
    """(name, version) of deepscan, Python and those of `PACKAGES` that are installed.

    Reads package metadata only and imports none of them.
    """
    found = [("deepscan", __version__), ("python", platform.python_version())]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append((package, version(package)))
    return tuple(found)
