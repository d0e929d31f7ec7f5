"""Who opens a run, and with which parameters: OpenRunRequest and Catalog to the domain, validated."""

from __future__ import annotations

import json
from collections.abc import Mapping

from seismograd_proto.v1 import telemetry
from seismograd_server.errors import InvalidBatchError
from seismograd_server.ingest.limits import IngestLimits, check_name, check_path_name, check_tag, shortened
from seismograd_server.model import Catalog, Composition, DirectiveKind, OptimizerInfo, Parameter, RankIdentity, RunKey

_INT63 = 2**63


def decode_identity(request: telemetry.OpenRunRequest, limits: IngestLimits, now: float) -> RankIdentity:
    """Check and translate what a process says about itself; `now` is the server's clock, Unix seconds.

    Raises:
        InvalidBatchError: names the field, and what to do about it.
    """
    if not 1 <= request.world_size <= limits.max_world_size:
        raise InvalidBatchError("world_size", f"is {request.world_size}: 1 to {limits.max_world_size} ranks")
    if request.rank >= request.world_size:
        raise InvalidBatchError("rank", f"is {request.rank} in a world of {request.world_size}: ranks begin at 0")
    if len(request.tags) > limits.max_tags:
        raise InvalidBatchError("tags", f"are {len(request.tags)}: at most {limits.max_tags}")
    if len(request.optimizers) > limits.max_optimizers:
        raise InvalidBatchError("optimizers", f"are {len(request.optimizers)}: at most {limits.max_optimizers}")
    if len({each.optimizer for each in request.optimizers}) != len(request.optimizers):
        raise InvalidBatchError("optimizers.optimizer", "stands twice: each optimizer has an index of its own")
    for key, value in request.tags.items():
        check_tag(key, value, limits)

    def text(field: str, value: str) -> str:
        return check_name(field, value, limits, required=False)

    client, host = request.client, request.host
    client_time = request.client_time_unix_seconds
    return RankIdentity(
        key=RunKey(
            check_path_name("project", request.project, limits),
            check_path_name("run", request.run, limits),
        ),
        launch_id=check_name("launch_id", request.launch_id, limits),
        rank=request.rank,
        world_size=request.world_size,
        session_id=check_name("session_id", request.session_id, limits),
        client_version=text("client.version", client.version),
        python_version=text("client.python_version", client.python_version),
        framework=text("client.framework", client.framework),
        strategy=text("client.strategy", client.strategy),
        hostname=text("host.hostname", host.hostname),
        process_id=host.process_id,
        local_rank=host.local_rank,
        device_type=text("host.device_type", host.device_type),
        device_name=text("host.device_name", host.device_name),
        device_uuid=text("host.device_uuid", host.device_uuid),
        driver_version=text("host.driver_version", host.driver_version),
        host_facts=_facts(host.facts, limits),
        config_json=_json("config_json", request.config_json, limits),
        tags=dict(request.tags),
        optimizers=tuple(_optimizer(each, limits) for each in request.optimizers),
        clock_skew_seconds=client_time - now if 0.0 < client_time < _INT63 else 0.0,
        # Only what this server can ask for.
        capabilities=tuple(kind.capability for kind in DirectiveKind if kind.capability in client.capabilities),
    )


def _facts(facts: Mapping[str, str], limits: IngestLimits) -> dict[str, str]:
    if len(facts) > limits.max_tags:
        raise InvalidBatchError("host.facts", f"has {len(facts)} entries: at most {limits.max_tags} are taken")
    for name, value in facts.items():
        check_tag(name, value, limits, field="host.facts")
    return dict(facts)


def decode_catalog(wire: telemetry.Catalog, limits: IngestLimits) -> Catalog:
    """Check and translate a catalog.

    Raises:
        InvalidBatchError: names the field, and what to do about it.
    """
    if wire.optimizer >= limits.max_optimizers:
        raise InvalidBatchError(
            "catalogs.optimizer", f"is {wire.optimizer}: at most {limits.max_optimizers} are watched"
        )
    if len(wire.parameters) > limits.max_parameters:
        raise InvalidBatchError(
            "catalogs.parameters", f"are {len(wire.parameters)}: at most {limits.max_parameters}; group some of them"
        )
    parameters = tuple(_parameter(each, limits) for each in wire.parameters)
    if len({(each.name, each.shard_id) for each in parameters}) != len(parameters):
        raise InvalidBatchError("catalogs.parameters.name", "stands twice for the same shard: names must be unique")
    return Catalog(wire.optimizer, wire.version, parameters)


def _parameter(wire: telemetry.Parameter, limits: IngestLimits) -> Parameter:
    name = check_name("catalogs.parameters.name", wire.name, limits)
    shape = tuple(wire.shape)
    if len(shape) > limits.max_dimensions:
        raise InvalidBatchError(
            "catalogs.parameters.shape", f"of {name} has more than {limits.max_dimensions} dimensions"
        )
    if max(wire.numel, wire.local_numel, *shape, 0) >= _INT63:
        raise InvalidBatchError("catalogs.parameters.numel", f"of {name} is beyond int64")
    if wire.shard_id >= max(wire.shard_count, 1):
        raise InvalidBatchError(
            "catalogs.parameters.shard_id", f"of {name} is {wire.shard_id}, of {max(wire.shard_count, 1)} shards"
        )
    # A composition that only a newer client knows must not be added up silently.
    known = {0: Composition.SUM_OF_SQUARES, 1: Composition.SUM_OF_SQUARES}
    return Parameter(
        name=name,
        shape=shape,
        numel=wire.numel,
        local_numel=wire.local_numel,
        dtype=check_name("catalogs.parameters.dtype", wire.dtype, limits, required=False),
        module_type=check_name("catalogs.parameters.module_type", wire.module_type, limits, required=False),
        depth=wire.depth,
        shard_id=wire.shard_id,
        shard_count=max(wire.shard_count, 1),
        replica_index=wire.replica_index,
        replication=max(wire.replication, 1),
        composition=known.get(wire.composition, Composition.PARTIAL),
        tied_group=check_name("catalogs.parameters.tied_group", wire.tied_group, limits, required=False),
    )


def _optimizer(wire: telemetry.OptimizerInfo, limits: IngestLimits) -> OptimizerInfo:
    if wire.optimizer >= limits.max_optimizers:
        raise InvalidBatchError(
            "optimizers.optimizer", f"is {wire.optimizer}: at most {limits.max_optimizers} are watched"
        )
    return OptimizerInfo(
        wire.optimizer,
        check_name("optimizers.class_name", wire.class_name, limits, required=False),
        _json("optimizers.hyperparameters_json", wire.hyperparameters_json, limits),
    )


def _json(field: str, text: str, limits: IngestLimits) -> str:
    """The text, if it is a JSON object that is not too large (or nothing)."""
    if not text:
        return ""
    if len(text) > limits.max_config_bytes or len(text.encode()) > limits.max_config_bytes:
        raise InvalidBatchError(field, f"is longer than {limits.max_config_bytes} bytes: leave large values out")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidBatchError(field, f"is not JSON: {shortened(str(error), 200)}") from error
    if not isinstance(value, dict):
        raise InvalidBatchError(field, "is not a JSON object")
    if _is_deeper(value, limits.max_config_depth):
        raise InvalidBatchError(field, f"is nested deeper than {limits.max_config_depth} levels: flatten it")
    return text


def _is_deeper(value: object, levels: int) -> bool:
    """Whether a JSON value has more levels; walks level by level, because recursion is what this protects."""
    inside = [value]
    for _ in range(levels):
        inside = [
            inner
            for each in inside
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, (dict, list)) for each in inside)
