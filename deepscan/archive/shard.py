"""Shards: parts of an archive that machines can compute without talking to each other.

The content alone decides the shard, so copies of a file are in the same shard, and a renamed file
stays in its shard.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from deepscan.errors import UsageError

MAX_SHARDS = 10_000  # more is most likely a typing error

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`; the first is 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse a text such as "2/5".

        Raises:
            UsageError: the text is no shard.
        """
        found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count <= MAX_SHARDS:
            raise UsageError(
                f"--shard {text}: give i/n, such as 2/5, with i from 1 to n, n up to {MAX_SHARDS}"
            )
        return cls(number, count)

    def contains(self, content_or_name: str) -> bool:
        """True if a content belongs to this part; each content belongs to exactly one.

        Args:
            content_or_name: the SHA-256 of the content (64 hexadecimal digits), or the name of a
                file that cannot be read, which is hashed instead.
        """
        digest = content_or_name
        if not _SHA256.fullmatch(digest):
            digest = hashlib.sha256(digest.encode("utf-8", "surrogatepass")).hexdigest()
        # 64 bits over at most 10,000 parts: uneven by less than one in 10^15.
        return int(digest[:16], 16) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
