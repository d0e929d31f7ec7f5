from __future__ import annotations

from tests.benchmarks.measure import markdown


def test_a_table_of_markdown_has_a_rule_that_aligns_its_numbers() -> None:
    assert markdown(["who", "recall"], [["we", "1.00"], ["they", "0.50"]]).split("\n") == [
        "| who | recall |",
        "| --- | ---: |",
        "| we | 1.00 |",
        "| they | 0.50 |",
    ]
