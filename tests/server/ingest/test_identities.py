"""Who may open a run: every field is checked, and named when it is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from seismograd_proto.v1 import telemetry
from seismograd_server.errors import InvalidBatchError
from seismograd_server.ingest.identities import decode_catalog, decode_identity
from seismograd_server.ingest.limits import IngestLimits, shortened
from seismograd_server.model import Composition, OptimizerInfo, RunKey

LIMITS = IngestLimits()


def request(**changes: Any) -> telemetry.OpenRunRequest:
    values: dict[str, Any] = {
        "project": "mt",
        "run": "lstm-7",
        "launch_id": "launch",
        "rank": 1,
        "world_size": 2,
        "session_id": "session",
    }
    return telemetry.OpenRunRequest(**(values | changes))


def test_an_identity_arrives_with_every_field() -> None:
    identity = decode_identity(
        request(
            client=telemetry.ClientInfo(version="0.1", framework="torch 2.13.0", strategy="ddp"),
            host=telemetry.HostInfo(
                hostname="node-1", process_id=42, local_rank=1, device_type="cuda", facts={"cpu": "EPYC"}
            ),
            config_json='{"lr": 0.1}',
            tags={"team": "speech"},
            optimizers=[telemetry.OptimizerInfo(class_name="AdamW", hyperparameters_json='{"lr": 0.1}')],
            client_time_unix_seconds=1003.0,
        ),
        LIMITS,
        now=1000.0,
    )
    assert identity.key == RunKey("mt", "lstm-7")
    assert (identity.rank, identity.world_size, identity.hostname, identity.process_id) == (1, 2, "node-1", 42)
    assert identity.host_facts == {"cpu": "EPYC"}
    assert identity.optimizers == (OptimizerInfo(0, "AdamW", '{"lr": 0.1}'),)
    assert dict(identity.tags) == {"team": "speech"}
    assert identity.clock_skew_seconds == 3.0


def test_a_client_that_does_not_tell_its_time_has_no_skew() -> None:
    assert decode_identity(request(), LIMITS, now=1000.0).clock_skew_seconds == 0.0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"project": ""}, "project"),
        ({"run": "x" * 257}, "run"),
        ({"run": "ü" * 200}, "run"),
        ({"run": "two\nlines"}, "run"),
        ({"run": "\x9bcolour"}, "run"),
        ({"launch_id": ""}, "launch_id"),
        ({"session_id": ""}, "session_id"),
        ({"world_size": 0}, "world_size"),
        ({"world_size": 70_000}, "world_size"),
        ({"rank": 2}, "rank"),
        ({"tags": {"a b": "c"}}, "tags"),
        ({"tags": {"a": "x" * 300}}, "tags[a]"),
        ({"tags": {f"tag{index}": "x" for index in range(33)}}, "tags"),
        ({"config_json": "{"}, "config_json"),
        ({"config_json": "[1]"}, "config_json"),
        ({"config_json": '{"a": "' + "x" * 70_000 + '"}'}, "config_json"),
        ({"config_json": "[" * 60_000}, "config_json"),
        ({"config_json": '{"a": ' + "[" * 64 + "]" * 64 + "}"}, "config_json"),
        ({"run": "."}, "run"),
        ({"run": ".."}, "run"),
        ({"project": ".."}, "project"),
        ({"run": " \u3000"}, "run"),
        ({"optimizers": [telemetry.OptimizerInfo(optimizer=64)]}, "optimizers.optimizer"),
        ({"optimizers": [telemetry.OptimizerInfo()] * 65}, "optimizers"),
        ({"optimizers": [telemetry.OptimizerInfo()] * 2}, "optimizers.optimizer"),
        ({"host": telemetry.HostInfo(hostname="a\x00b")}, "host.hostname"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidBatchError) as caught:
        decode_identity(request(**changes), LIMITS, now=0.0)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_zero_shards_and_replicas_are_read_as_one() -> None:
    catalog = decode_catalog(telemetry.Catalog(parameters=[telemetry.Parameter(name="a", depth=-1)]), LIMITS)
    (parameter,) = catalog.parameters
    assert (parameter.shard_count, parameter.replication, parameter.depth) == (1, 1, -1)
    assert parameter.composition is Composition.SUM_OF_SQUARES


def test_a_composition_that_only_a_newer_client_knows_is_not_added_silently() -> None:
    wire = telemetry.Parameter(name="a").SerializeToString() + bytes([12 << 3, 9])
    catalog = decode_catalog(telemetry.Catalog(parameters=[telemetry.Parameter.FromString(wire)]), LIMITS)
    assert catalog.parameters[0].composition is Composition.PARTIAL


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "catalogs.parameters.name"),
        ({"name": "a", "shape": [1] * 17}, "catalogs.parameters.shape"),
        ({"name": "a", "numel": 2**63}, "catalogs.parameters.numel"),
        ({"name": "a", "shard_id": 1}, "catalogs.parameters.shard_id"),
        ({"name": "a", "dtype": "\t"}, "catalogs.parameters.dtype"),
    ],
)
def test_a_bad_parameter_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidBatchError) as caught:
        decode_catalog(telemetry.Catalog(parameters=[telemetry.Parameter(**changes)]), LIMITS)
    assert caught.value.field == field


def test_two_parameters_of_one_name_are_refused_unless_they_are_shards() -> None:
    twice = [telemetry.Parameter(name="a"), telemetry.Parameter(name="a")]
    with pytest.raises(InvalidBatchError, match="unique"):
        decode_catalog(telemetry.Catalog(parameters=twice), LIMITS)
    shards = [telemetry.Parameter(name="a", shard_id=index, shard_count=2) for index in range(2)]
    assert len(decode_catalog(telemetry.Catalog(parameters=shards), LIMITS).parameters) == 2


def test_a_text_is_cut_at_a_characters_boundary() -> None:
    assert shortened("short", 100) == "short"
    cut = shortened("ü" * 100, 20)
    assert len(cut.encode()) <= 20
    assert cut.endswith("...")


def test_a_configuration_of_64_levels_is_taken() -> None:
    text = '{"a": ' + "[" * 63 + "]" * 63 + "}"
    assert decode_identity(request(config_json=text), LIMITS, now=0.0).config_json == text
