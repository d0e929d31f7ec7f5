"""The stocked store for tests of the commands."""

from tests.support.reading import empty_store, stocked, stocked_file

__all__ = ["empty_store", "stocked", "stocked_file"]
