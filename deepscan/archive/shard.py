"""One part of an archive of n: which contents it holds, known without asking anybody.

The content alone decides, so copies of a file fall into one part, a renamed file stays in its own,
and machines that never hear of each other divide an archive between them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from deepscan.errors import UsageError

MAX_SHARDS = 10_000  # parts; more than that is a slip of the pen

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count`; the first is 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The part that a text such as "2/5" names.

        Raises:
            UsageError: it names none.
        """
        found = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", text)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count <= MAX_SHARDS:
            raise UsageError(
                f"--shard {text}: give i/n, such as 2/5, with i from 1 to n, n up to {MAX_SHARDS}"
            )
        return cls(number, count)

    def contains(self, content_or_name: str) -> bool:
        """Whether a content belongs to this part; exactly one of the parts says yes.

        Args:
            content_or_name: the SHA-256 of the content (64 hexadecimal digits), or the name of a
                file that cannot be read, which is hashed in its place.
        """
        digest = content_or_name
        if not _SHA256.fullmatch(digest):
            digest = hashlib.sha256(digest.encode("utf-8", "surrogatepass")).hexdigest()
        # 64 bits over at most 10,000 parts: they are even to one in 10^15.
        return int(digest[:16], 16) % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
