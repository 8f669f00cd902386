"""The readers, and the one that takes over where another fails."""
