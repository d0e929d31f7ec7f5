"""The stocked store for every test of the pages and the API."""

from tests.support.reading import connect, empty_store, stocked, stocked_file

__all__ = ["connect", "empty_store", "stocked", "stocked_file"]
