"""What the page of one file and the page over all files share: how a template is filled."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from deepscan.sinks import wording

if TYPE_CHECKING:
    from jinja2 import Template


def load_template(package: str, name: str) -> Template:
    """A page's template with the filters of both pages; all that is put into it is escaped."""
    from jinja2 import Environment, StrictUndefined

    # `autoescape` for every template whatever its name: all that comes from the input is text.
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
    """The source expression that allows exactly this script or style: "'sha256-...'"."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def plain(value: str | int | float | bool | None) -> str:
    """The value of a setting for people, with what hides or moves text written out."""
    if value is None:
        return "none"
    return wording.visible(str(value).lower() if isinstance(value, bool) else str(value))
