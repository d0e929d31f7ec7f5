"""The configuration that others may see: complete, bounded, and without secrets."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import pytest

from seismograd.capture.configuration import REDACTED, configuration_json


@pytest.mark.parametrize(
    "key",
    ["password", "DB_PASSWORD", "apiKey", "api_key", "APIKEY", "wandb-api-key", "hf_token", "accessToken",
     "client_secret", "credentials", "ssh_key", "Authorization"],
)  # fmt: skip
def test_values_of_secret_keys_are_redacted_at_any_depth(key: str) -> None:
    text = configuration_json({"outer": [{key: "hunter2-value"}]})

    assert "hunter2" not in text
    assert json.loads(text) == {"outer": [{key: REDACTED}]}


@pytest.mark.parametrize(
    ("key", "value"),
    [("tokenizer", "gpt2"), ("num_tokens", 4096), ("max_tokens", "512"), ("key_size", 64), ("monkey", "x"),
     ("lr", 1e-3), ("use_auth_token", True), ("author", "Ada")],
)  # fmt: skip
def test_innocent_keys_are_shown(key: str, value: object) -> None:
    assert json.loads(configuration_json({key: value})) == {key: value}


def test_secrets_inside_values_are_redacted() -> None:
    config = {"database": "postgresql://ada:hunter2@db/runs", "note": "uses hf_abcdefghijklmnopqrst for the hub"}

    text = configuration_json(config)

    assert "hunter2" not in text
    assert "abcdefghijklmnop" not in text
    assert "@db/runs" in text


def test_dataclasses_namespaces_and_odd_values_become_json() -> None:
    @dataclasses.dataclass
    class Model:
        width: int = 3
        path: Path = Path("a/b")

    namespace = argparse.Namespace(model=Model(), rate=math.nan, most=math.inf, kinds={"x"}, none=None, text="\ud800")

    assert json.loads(configuration_json(namespace)) == {
        "model": {"width": 3, "path": "a/b"},
        "rate": "NaN",
        "most": "Infinity",
        "kinds": ["x"],
        "none": None,
        "text": "?",
    }


def test_a_huge_configuration_loses_its_largest_entries_only() -> None:
    found = json.loads(configuration_json({"lr": 0.1, "index": ["file"] * 900 + [list(range(900))] * 90}))

    assert found["lr"] == 0.1
    assert found["index"].startswith("[left out")


def test_what_refers_to_itself_ends() -> None:
    config: dict[str, object] = {}
    config["self"] = config

    assert "[too deep]" in configuration_json(config)


def test_no_configuration_is_an_empty_text() -> None:
    assert configuration_json(None) == ""
    assert configuration_json(3) == ""
