"""What is said of the host: read where it is known, left out where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seismograd.capture.host import device_facts, host_facts
from seismograd.launch import LaunchEnvironment
from tests.client.capture.conftest import Watched

BY_HAND = LaunchEnvironment.from_variables({})


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_host_that_says_nothing_is_described_by_what_python_knows(tmp_path: Path) -> None:
    facts = host_facts(BY_HAND, tmp_path)

    assert {"platform", "cpu_count", "memory_bytes"} <= facts.keys()
    assert not {"cpu", "cpu_limit", "memory_limit_bytes", "container", "job"} & facts.keys()


def test_processor_limits_container_and_job_are_read(tmp_path: Path) -> None:
    write(tmp_path / "proc/cpuinfo", "processor : 0\nmodel name\t: AMD  EPYC 9654\n")
    write(tmp_path / "sys/fs/cgroup/cpu.max", "250000 100000\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", "1073741824\n")
    write(tmp_path / "var/run/secrets/kubernetes.io/token", "not read")
    environment = LaunchEnvironment.from_variables({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "POD_NAME": "train-0"})

    facts = host_facts(environment, tmp_path)

    assert facts["cpu"] == "AMD EPYC 9654"
    assert facts["cpu_limit"] == "2.5"
    assert facts["memory_limit_bytes"] == "1073741824"
    assert (facts["container"], facts["launcher"], facts["job"]) == ("kubernetes", "kubernetes", "train-0")
    assert "not read" not in facts.values()


def test_no_limit_is_no_fact_and_nonsense_does_no_harm(tmp_path: Path) -> None:
    write(tmp_path / "sys/fs/cgroup/cpu.max", "max 100000\n")
    write(tmp_path / "sys/fs/cgroup/memory.max", "max\n")
    assert not {"cpu_limit", "memory_limit_bytes"} & host_facts(BY_HAND, tmp_path).keys()
    write(tmp_path / "sys/fs/cgroup/cpu.max", "nonsense")
    write(tmp_path / "proc/cpuinfo", "model name : \x00\ud7ffß" + "x" * 999)
    facts = host_facts(BY_HAND, tmp_path)

    assert "cpu_limit" not in facts
    assert facts["cpu"].isascii()
    assert facts["cpu"].isprintable()
    assert len(facts["cpu"]) <= 200


def test_a_gpu_is_named_as_nvidia_smi_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name = "NVIDIA H100"
        uuid = "6f2c1f5e-0000-4000-8000-000000000001"

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: Properties())
    write(
        tmp_path / "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n",
    )

    found = device_facts(torch.device("cuda", 0), tmp_path)

    assert found == ("NVIDIA H100", "GPU-6f2c1f5e-0000-4000-8000-000000000001", "550.54.15")


def test_the_facts_reach_the_server_once(watch: Callable[..., Watched]) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watched = watch(model, optimizer)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    watched.records()

    (identity,) = watched.ledger.identities.values()
    assert int(identity.host_facts["cpu_count"]) >= 1
    assert int(identity.host_facts["memory_bytes"]) > 0
    assert identity.hostname
