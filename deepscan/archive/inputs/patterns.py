"""Patterns over paths, for `--include`, `--exclude` and inputs with wildcards."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from deepscan.errors import UsageError


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern over the parts of a path; `literal` if its last part ends in a literal suffix."""

    parts: tuple[str, ...]
    literal: bool

    @classmethod
    def of(cls, text: str) -> Pattern:
        """A pattern of a filter; without "/" it matches at any depth."""
        parts = parts_of(text)
        if not parts:
            raise UsageError(f"the pattern {text!r} matches nothing")
        return cls.over(parts if "/" in text.rstrip("/") else ("**", *parts))

    @classmethod
    def over(cls, parts: tuple[str, ...]) -> Pattern:
        _, _, suffix = parts[-1].rpartition(".")
        return cls(
            parts, not has_wildcard(parts[-1]) or ("." in parts[-1] and not has_wildcard(suffix))
        )

    def step(self, places: frozenset[int], part: str) -> frozenset[int]:
        """Positions in the pattern after one more part of a path."""
        after: set[int] = set()
        for place in places:
            if place == len(self.parts):
                continue
            if self.parts[place] == "**":
                after.add(place)
            elif fnmatchcase(part, self.parts[place]):
                after.add(place + 1)
        return self._closed(after)

    def start(self) -> frozenset[int]:
        return self._closed({0})

    def ends(self, places: frozenset[int]) -> bool:
        return len(self.parts) in places

    def matches(self, path: str) -> bool:
        """True if it matches the path or a folder on it."""
        places = self.start()
        for part in path.split("/"):
            places = self.step(places, part)
            if self.ends(places):
                return True
        return False

    def _closed(self, places: set[int]) -> frozenset[int]:
        for place in sorted(places):
            while place < len(self.parts) and self.parts[place] == "**":  # it may match nothing
                place += 1
                places.add(place)
        return frozenset(places)


def has_wildcard(text: str) -> bool:
    return any(char in text for char in "*?[")


def parts_of(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split("/") if part not in ("", "."))
