"""The configuration that others may see: complete, bounded, and without secrets."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

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
    config: dict[str, object] = {"list": []}
    config["self"] = config
    config["list"].append(config["list"])  # type: ignore[attr-defined]  # it is a list

    assert json.loads(configuration_json({"c": config})) == {
        "c": {"list": ["[refers to itself]"], "self": "[refers to itself]"}
    }


def test_what_holds_the_same_part_ten_times_at_every_depth_ends() -> None:
    part: object = "x"
    for _ in range(12):
        part = [part] * 10

    assert len(configuration_json({"part": part, "lr": 0.1})) < 64 * 1024


@pytest.mark.parametrize(
    "config",
    [
        {"api_keys": ["hunter2", "hunter2"]},
        {"tokens": {"hub": "hunter2"}},
        {"aws_secret_access_key": "hunter2"},
        {"AWS_ACCESS_KEY_ID": "hunter2"},
        {"openaiApiKey": "hunter2"},
        {"accesskey": "hunter2"},
        {"auth": ("ada", "hunter2")},
        {"key": b"hunter2"},
        {"argv": ["train.py", "--hf-token", "hunter2", "--lr", "0.1"]},
        {"argv": ["train.py", "--password=hunter2"]},
        {"dsn": "postgres://u:hunter2@h"},
        {"dsn": "postgres://u:hunt/hunter2@h/db"},
        {"dsn": "host=h user=u password=hunter2"},
        {"url": "https://hooks/x?a=1&token=hunter2"},
        {"header": "Authorization: Bearer hunter2hunter2"},
        {"pem": "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----"},
        {"note": "eyJhbGciOiJI.eyJodW50ZXIy.hunter2"},
        {"postgres://u:hunter2@h": 1},
    ],
    ids=str,
)
def test_secrets_are_found_wherever_they_are_written(config: object) -> None:
    assert "hunter2" not in configuration_json(config)
    assert "hunter2" not in configuration_json({"outer": [config]})


@pytest.mark.parametrize(
    "config",
    [
        {"argv": ["train.py", "--lr", "0.1", "--max-tokens", "512"]},
        {"server": "http://host:8080/path@v1"},
        {"pad_token": "auto", "tokens": "1.5B", "monitor_key": "none"},
        {"data": "s3://bucket/key=value/part"},
        {"rates": [0.1, 1e-9], "nested": {"a": {"b": [1, [2]]}}},
    ],
    ids=str,
)
def test_what_only_looks_like_a_secret_is_shown(config: object) -> None:
    assert json.loads(configuration_json(config)) == config


class Missing(collections.UserDict[str, object]):
    """As OmegaConf has it: some values raise when they are asked for."""

    def __getitem__(self, key: str) -> object:
        if key == "missing":
            raise LookupError("mandatory value")
        return super().__getitem__(key)


class Unwritable:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Settings:
    def model_dump(self) -> dict[str, object]:
        return {"lr": 0.1, "hf_token": "hunter2"}


def test_values_that_cannot_be_read_or_written_do_no_harm() -> None:
    config = Missing({"lr": 0.1, "missing": 1, "odd": Unwritable(), "callback": Settings})
    found = json.loads(configuration_json(config))

    assert found["lr"] == 0.1
    assert found["missing"] == "[cannot be read: LookupError]"
    assert found["odd"].startswith("[Unwritable that cannot be written")


def test_objects_that_can_say_what_is_in_them_are_shown() -> None:
    assert json.loads(configuration_json(Settings())) == {"lr": 0.1, "hf_token": REDACTED}
    assert json.loads(configuration_json(types.SimpleNamespace(lr=0.1))) == {"lr": 0.1}
    assert json.loads(configuration_json({"inner": collections.deque([1])})) == {"inner": [1]}


def test_numbers_of_every_kind_become_numbers_and_tensors_only_their_shape() -> None:
    config = {"a": np.float32(0.5), "b": np.int64(3), "c": 10**5000, "d": -math.inf, "e": torch.ones(2, 3)}

    assert json.loads(configuration_json(config)) == {
        "a": 0.5,
        "b": 3,
        "c": "[an integer of 16610 bits]",
        "d": "-Infinity",
        "e": "[Tensor of shape (2, 3)]",
    }


def test_long_texts_are_cut_but_no_secret_in_half() -> None:
    text = "x" * 4090 + " hf_" + "s" * 40

    found = json.loads(configuration_json({"text": text}))["text"]

    assert len(found) < 4200
    assert "sss" not in found


CONFIGURATIONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.frozensets(st.text()),
    max_leaves=30,
)


@given(st.dictionaries(st.text(), CONFIGURATIONS))
def test_any_configuration_becomes_a_bounded_json_object(config: dict[str, object]) -> None:
    text = configuration_json(config)

    assert isinstance(json.loads(text, parse_constant=pytest.fail), dict)
    assert len(text.encode()) <= 64 * 1024


def test_no_configuration_is_an_empty_text() -> None:
    assert configuration_json(None) == ""
    assert configuration_json(3) == ""
