"""What the client lets through the server takes, and what nobody chose for the wire is made to fit it."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seismograd.errors import OptionError
from seismograd.names import MOST_BYTES, MOST_OPTIMIZERS, MOST_PARAMETERS, MOST_TAGS, fitting
from seismograd.options import Options
from seismograd.outbox.encode import encode_catalog, encode_open
from seismograd.record import Catalog, OptimizerInfo, Parameter, RunIdentity
from seismograd_server.errors import InvalidBatchError
from seismograd_server.ingest.identities import decode_catalog, decode_identity
from seismograd_server.ingest.limits import IngestLimits, check_name, check_path_name, check_tag

LIMITS = IngestLimits()
AWKWARD = ["a\nb", "a\x00b", "a\x85b", "caf\udce9", "x" * 300, "ü" * 200, "ü" * 128, "block." * 60 + "weight"]
NAMES = [*AWKWARD, "", ".", "..", "...", " ", "\u3000", "lstm-7", " lstm ", "ü", "x" * 256, "x" * 257]


def test_both_sides_have_the_same_limits() -> None:
    assert LIMITS.max_name_bytes == MOST_BYTES
    assert LIMITS.max_tags == MOST_TAGS
    assert LIMITS.max_optimizers == MOST_OPTIMIZERS
    assert LIMITS.max_parameters == MOST_PARAMETERS


@pytest.mark.parametrize("option", ["project", "run"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_the_server_refuses_is_refused_by_the_client_and_no_other(option: str, name: str) -> None:
    choices: dict[str, Any] = {option: name}
    if server_takes_name(name):
        assert getattr(Options(**choices), option) == name
    else:
        with pytest.raises(OptionError, match=f"^{option}: ") as caught:
            Options(**choices)
        assert "\n" not in str(caught.value)


def server_takes_name(name: str) -> bool:
    try:
        check_path_name("run", name, LIMITS)
    except (InvalidBatchError, UnicodeEncodeError):
        return False
    return True


@pytest.mark.parametrize("value", [*NAMES, "4e1f\n", "\tteam nlp \r\n", "a" * 250 + " " * 50], ids=ascii)
def test_a_tag_that_the_server_refuses_is_refused_by_the_client_and_no_other(value: str) -> None:
    if not value.strip() or server_takes(value.strip()):
        check_tag("commit", Options(tags={"commit": value}).tags["commit"], LIMITS)
    else:
        with pytest.raises(OptionError, match=r"^tags\['commit'\]: "):
            Options(tags={"commit": value})


def test_white_space_around_a_tag_is_taken_off_because_commands_print_a_line_feed() -> None:
    assert Options(tags={"commit": "4e1f\n", "team": " nlp "}).tags == {"commit": "4e1f", "team": "nlp"}


def test_a_control_character_in_a_tag_is_named_with_the_fix() -> None:
    with pytest.raises(OptionError, match=r"^tags\['note'\]: 'one\\ntwo' has control characters; give one line"):
        Options(tags={"note": "one\ntwo"})


@given(st.text(st.characters(), min_size=1, max_size=400))
def test_whatever_a_layer_is_called_the_server_takes_its_name(name: str) -> None:
    short = fitting(name)
    assert check_name("name", short, LIMITS) == short
    assert fitting(short) == short
    assert (short == name) == server_takes(name)


def server_takes(name: str) -> bool:
    try:
        check_name("name", name, LIMITS)
    except (InvalidBatchError, UnicodeEncodeError):
        return False
    return True


def test_a_name_that_is_cut_keeps_both_ends_and_stays_the_only_one() -> None:
    names = [f"backbone.{'block.' * 60}{letter}{'.inner' * 60}.weight" for letter in string.ascii_lowercase]
    short = {fitting(name) for name in names}
    assert len(short) == len(names)
    assert all(each.startswith("backbone.block.") and each.endswith(".inner.weight") for each in short)


def test_names_that_differ_in_a_control_character_only_stay_two() -> None:
    assert len({fitting("a\nb"), fitting("a\tb"), fitting("a_b")}) == 3


@pytest.mark.parametrize("text", AWKWARD, ids=ascii)
def test_the_server_takes_a_run_whose_host_layers_and_classes_have_awkward_names(text: str) -> None:
    known: dict[str, Any] = dict.fromkeys(("launch_id", "hostname", "framework", "strategy", "device_name"), text)
    identity = RunIdentity(
        project="mt",
        run="lstm-7",
        rank=0,
        world_size=1,
        session_id="session",
        optimizers=(OptimizerInfo(0, text, "{}"),),
        tags={"written_by_an_older_client": text},
        host_facts={"cpu": text},
        **known,
    )
    shape = (2,) * 20
    catalog = Catalog(0, 0, (Parameter(text, shape, 2**20, 2**20, "float32", text, 0),))

    decode_identity(encode_open(identity, (), 0.0), LIMITS, 0.0)
    found = decode_catalog(encode_catalog(catalog), LIMITS).parameters[0]

    assert found.numel == 2**20
    assert found.shape == (*shape[:15], 32)
