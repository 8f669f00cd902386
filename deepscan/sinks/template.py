"""Loads the templates of the pages, for one file and for an archive."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from deepscan import wording

if TYPE_CHECKING:
    from jinja2 import Template


def load_template(package: str, name: str) -> Template:
    """Load a page's template with its filters; all values are escaped."""
    from jinja2 import Environment, StrictUndefined

    # `autoescape` for every template: values from the input are text.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        timestamp=wording.timestamp,
        percent=wording.percent,
        probability=wording.probability,
        visible=wording.visible,
        thousands="{:,}".format,
        policy_hash=policy_hash,
        title_of=lambda label: wording.phrase(f"label.{label}"),
    )
    source = resources.files(package).joinpath(name)
    return environment.from_string(source.read_text(encoding="utf-8"))


def policy_hash(content: str) -> str:
    """The CSP source expression that allows exactly this script or style: "'sha256-...'"."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def plain(value: str | int | float | bool | None) -> str:
    """Format the value of a setting; control characters are spelled out."""
    if value is None:
        return "none"
    return wording.visible(str(value).lower() if isinstance(value, bool) else str(value))
