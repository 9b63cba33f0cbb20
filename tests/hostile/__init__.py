"""Files that try to run code, take memory or time, or lie: made here, for the tests only, each with its refusal."""

from hostile import pickles, spoiled
from hostile.base import GOOD_FILES, Case

CORPUS: dict[str, Case] = pickles.cases() | spoiled.cases()

__all__ = ["CORPUS", "GOOD_FILES", "Case"]
