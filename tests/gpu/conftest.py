"""What these tests share with those of the engines on a CPU."""

from tests.engines.conftest import cache, machine, models, warm_cache

__all__ = ["cache", "machine", "models", "warm_cache"]
