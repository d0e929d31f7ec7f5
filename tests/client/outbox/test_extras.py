"""What travels beside the records: here, which catalogs a reconnect still needs."""

from __future__ import annotations

from seismograd.outbox.extras import Extras
from seismograd.record import Catalog


def extras_with(*versions: int) -> Extras:
    extras = Extras()
    for version in versions:
        extras.add(Catalog(optimizer=0, version=version, parameters=()))
    return extras


def versions_to_open(extras: Extras, held: set[tuple[int, int]]) -> list[int]:
    return [catalog.version for catalog in extras.catalogs_to_open(held)]


def test_a_catalog_whose_records_are_still_on_their_way_to_the_queue_is_kept() -> None:
    extras = extras_with(0, 1, 2)

    assert versions_to_open(extras, held={(0, 0)}) == [0, 1, 2]
    assert versions_to_open(extras, held={(0, 1), (0, 2)}) == [1, 2]


def test_a_catalog_is_forgotten_once_later_records_have_passed_it() -> None:
    extras = extras_with(0, 1)

    assert versions_to_open(extras, held={(0, 1)}) == [1]
    assert versions_to_open(extras, held=set()) == [1]


def test_the_newest_catalog_is_told_even_before_any_record_uses_it() -> None:
    assert versions_to_open(extras_with(0), held=set()) == [0]
