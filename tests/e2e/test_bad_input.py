"""Bad input from people: one line that names the thing and the fix, exit code 1, and nothing stored is lost."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import grpc
import numpy as np
import pytest

import seismograd
from seismograd_proto.v1 import TELEMETRY_SERVICE, method_path, telemetry
from tests.support.processes import eventually
from tests.support.seismograd import SeismogradServer
from tests.support.seismograd import seismograd as program


def one_line_error(result: CompletedProcess[str], *words: str) -> None:
    """Holds a result to the promise: exit code 1, one line on stderr, every word in it."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 1, (result.returncode, result.stdout, result.stderr)
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], (word, lines[0])


def test_an_unknown_key_of_the_configuration_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    config = tmp_path / "seismograd.toml"
    config.write_text('grpc_lisen = "127.0.0.1:0"\n')
    result = program("serve", "--config", config, "--data-dir", tmp_path / "data")
    one_line_error(result, "grpc_lisen", "grpc_listen", str(config))


@pytest.mark.parametrize("option", ["--grpc-listen", "--http-listen"])
def test_a_port_in_use_is_named(option: str, tmp_path: Path) -> None:
    other = {"--grpc-listen": "--http-listen", "--http-listen": "--grpc-listen"}[option]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = program("serve", "--data-dir", tmp_path / "data", option, address, other, "127.0.0.1:0")
    one_line_error(result, address)


def test_a_data_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    occupied = tmp_path / "a-file"
    occupied.write_text("this is no directory")
    result = program("serve", "--data-dir", occupied, "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    one_line_error(result, str(occupied))
    assert occupied.read_text() == "this is no directory"


def test_a_second_server_on_the_same_database_is_refused_and_the_first_goes_on(
    start_seismograd: Callable[..., SeismogradServer],
) -> None:
    server = start_seismograd()
    arguments = ("--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
    result = program("serve", "--data-dir", server.data_dir, *arguments)
    one_line_error(result, str(server.process.pid))
    assert server.get("/api/v1/runs")["runs"] == []


def test_an_unknown_run_is_named_with_the_nearest_one(start_seismograd: Callable[..., SeismogradServer]) -> None:
    server = start_seismograd()
    open_rank(server, "lstm-7")
    for command in (["runs", "show"], ["postmortem"]):
        result = program(*command, "e2e/lstm-8", "--server-url", server.http)
        one_line_error(result, "lstm-8", "lstm-7")
    with seismograd.connect(server.grpc) as client, pytest.raises(Exception, match="lstm-7"):
        client.run("e2e", "lstm-8").info()


def test_a_server_that_is_not_there_is_named_and_how_to_start_one() -> None:
    result = program("runs", "list", "--server-url", "http://127.0.0.1:1")
    one_line_error(result, "http://127.0.0.1:1", "seismograd serve")


def open_rank(server: SeismogradServer, run: str) -> int:
    """Opens a run of one rank and one parameter of four elements; gives the handle."""
    parameter = telemetry.Parameter(name="weight", shape=[4], numel=4, local_numel=4, dtype="float32")
    request = telemetry.OpenRunRequest(
        project="e2e",
        run=run,
        launch_id=f"launch of {run}",
        world_size=1,
        session_id="session",
        optimizers=[telemetry.OptimizerInfo(class_name="torch.optim.sgd.SGD")],
        catalogs=[telemetry.Catalog(parameters=[parameter])],
    )
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary(
            method_path(TELEMETRY_SERVICE, "OpenRun"),
            request_serializer=telemetry.OpenRunRequest.SerializeToString,
            response_deserializer=telemetry.OpenRunResponse.FromString,
        )
        return int(call(request, timeout=10).rank_handle)


def batch(handle: int, sequence: int, norms: np.ndarray) -> telemetry.StepBatch:
    """A batch of one record."""
    return telemetry.StepBatch(
        rank_handle=handle,
        kind=telemetry.RECORD_KIND_STEP,
        first_sequence=sequence,
        count=1,
        first_step=sequence,
        times_unix_seconds=np.array([1.7e9], "<f8").tobytes(),
        sources=bytes([telemetry.NORM_SOURCE_CLIP]),
        flags=bytes(2),
        gradient_norms=norms.astype("<f4").tobytes(),
    )


def test_a_batch_with_wrong_lengths_is_rejected_by_name_and_its_neighbours_are_stored(
    start_seismograd: Callable[..., SeismogradServer],
) -> None:
    server = start_seismograd()
    handle = open_rank(server, "mixed")
    frame = telemetry.StreamStepsRequest(
        batches=[batch(handle, 0, np.ones(1)), batch(handle, 1, np.ones(3)), batch(handle, 2, np.ones(1))]
    )
    rejections: list[telemetry.Rejection] = []
    durable = 0
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream(
            method_path(TELEMETRY_SERVICE, "StreamSteps"),
            request_serializer=telemetry.StreamStepsRequest.SerializeToString,
            response_deserializer=telemetry.StreamStepsResponse.FromString,
        )
        for response in call(iter([frame]), timeout=30):
            rejections += response.rejections
            durable = max([durable, *(mark.durable_sequence for mark in response.watermarks)])
    assert durable == 3, "a rejected record advances the watermark: a hole never stalls the stream"
    assert [(each.first_sequence, each.count, each.field) for each in rejections] == [(1, 1, "gradient_norms")]
    assert "12" in rejections[0].message
    assert "4" in rejections[0].message
    with seismograd.connect(server.grpc) as client:

        def closed() -> list[int]:  # an ack says durable; that steps are closed follows a moment later
            return list(client.run("e2e", "mixed").grad_norms().steps)

        steps = eventually(closed, 30.0, "no step was closed")
    assert steps == [0, 2]
