"""The stocked store for tests of the reading side."""

from tests.support.reading import empty_store, stocked, stocked_file

__all__ = ["empty_store", "stocked", "stocked_file"]
