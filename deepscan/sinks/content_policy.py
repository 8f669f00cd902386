"""What a page's content security policy calls the scripts and styles that may be in it."""

from __future__ import annotations

import base64
import hashlib


def policy_hash(content: str) -> str:
    """The source expression that allows exactly this script or style: "'sha256-...'"."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
