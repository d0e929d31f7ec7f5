from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seismograd_server.display.tree import layer_rows

PARTS = st.sampled_from(["h", "0", "1", "2", "11", "attn", "mlp", "weight", "bias", ""])
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=5).map(".".join), unique=True, max_size=80)


@given(NAMES, st.integers(1, 40))
def test_every_layer_is_in_one_row_and_the_rows_keep_the_order_of_the_model(names: list[str], most: int) -> None:
    rows = layer_rows(names, most=most)
    assert [layer for row in rows for layer in row.layers] == list(range(len(names)))
    assert len(rows) <= most


@given(NAMES.filter(len), st.data(), st.integers(2, 8))
def test_a_row_can_be_opened_until_it_is_a_single_layer(names: list[str], data: st.DataObject, most: int) -> None:
    rows, opened = layer_rows(names, most=most), set(range(len(names)))
    while len(opened) > 1:
        row = data.draw(st.sampled_from(rows))
        assert set(row.layers) < opened, "opening shows less, and never the same again"
        opened = set(row.layers)
        rows = layer_rows(names, names[row.layers[0]], names[row.layers[-1]], most=most)
        assert {layer for each in rows for layer in each.layers} == opened


def test_blocks_stand_for_their_layers_as_deep_as_there_is_room() -> None:
    names = [f"block.{block}.{part}.weight" for block in range(6) for part in ("attention", "mlp")]
    assert [row.label for row in layer_rows(names, most=12)] == names
    assert [row.label for row in layer_rows(names, most=11)] == [f"block.{block} (2)" for block in range(6)]


def test_a_module_alone_is_no_picture_of_its_layers() -> None:
    assert [row.layers for row in layer_rows(["h", "h.h", "h.0"], most=2)] == [(0, 1), (2,)]


def test_a_hundred_blocks_are_put_together_with_their_neighbours() -> None:
    names = [f"h.{block}.{part}" for block in range(100) for part in ("a", "b")]
    rows = layer_rows(names)
    assert len(rows) == 25
    assert rows[0].label == "h.0 – 3 (8)"
    assert [row.label for row in layer_rows(names, "h.0.a", "h.3.b")][:2] == ["h.0.a", "h.0.b"]


def test_layers_that_are_not_there_open_nothing() -> None:
    assert [row.label for row in layer_rows(["a", "b"], "nowhere", "b")] == ["a", "b"]
