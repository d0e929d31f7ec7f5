"""Who this process is in its launch, agreed among the ranks without the training thread taking part.

The launcher's own id is best. Without one, rank 0 puts a random id into torch.distributed's store and the others look
for it: by `check`, which never blocks, because a waiting `get` would hold the store's lock against the training thread.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import socket
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from seismograd.capture.configuration import configuration_json
from seismograd.capture.host import device_facts, host_facts
from seismograd.capture.placement import is_distributed
from seismograd.options import LaunchEnvironment, Options
from seismograd.record import OptimizerInfo, RunIdentity

# How long one call looks for rank 0's id. The sender asks again, so this bounds only how long it is away from its work.
_LOOK_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.05

_log = logging.getLogger("seismograd")


@dataclass(frozen=True, slots=True)
class Place:
    """This process among the ranks, as known when the run is opened."""

    rank: int
    world_size: int
    local_rank: int

    @classmethod
    def find(cls, environment: LaunchEnvironment) -> Place:
        """From the process group if there is one, else from the launcher, else alone."""
        local = environment.local_rank
        if is_distributed():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            rank, world = environment.rank or 0, environment.world_size or 1
        return cls(rank, world, rank if local is None else local)


class Identity:
    """Called by the sender until it gives an identity. `cancel()` ends a look that is under way."""

    def __init__(
        self,
        options: Options,
        *,
        config: object,
        optimizers: Sequence[OptimizerInfo],
        strategy: str,
        device: torch.device,
        ordinal: int,
    ) -> None:
        self._options = options
        self._environment = options.launch_environment()
        self._place = Place.find(self._environment)
        self._ordinal = ordinal
        self._session = uuid.uuid4().hex
        self._config_json = configuration_json(config)
        if config is not None and not self._config_json:
            _log.warning(
                "config: a %s has no named entries, so the run has no configuration; give a mapping, a dataclass or a"
                " namespace",
                type(config).__name__,
            )
        self._optimizers = tuple(optimizers)
        self._strategy = strategy
        self._device = device
        self._cancelled = threading.Event()
        self._warned = False
        self._launch_id = self._known_at_once()

    @property
    def run(self) -> str | None:
        """The run's name; None while it is to be made of a launch on which the ranks have not agreed."""
        return self._options.run or (None if self._launch_id is None else default_run_name(self._launch_id))

    @property
    def place(self) -> Place:
        """This process among the ranks."""
        return self._place

    def cancel(self) -> None:
        """The process is ending: nobody waits for the other ranks any more."""
        self._cancelled.set()

    def __call__(self) -> RunIdentity | None:
        """The identity, or None while the ranks have not agreed on the launch. At most 5 s, off the training thread."""
        if self._launch_id is None:
            self._launch_id = self._agree()
        return None if self._launch_id is None else self._identity(self._launch_id)

    def provisional(self) -> RunIdentity | None:
        """What is known before the ranks agree; its launch id tells only which processes of a host belong together.

        None when they need not agree.
        """
        if self._launch_id is not None:
            return None
        return self._identity(f"{socket.gethostname()}/{os.getppid()}/{self._ordinal}")

    def _identity(self, launch_id: str) -> RunIdentity:
        name, uuid_, driver = device_facts(self._device)
        return RunIdentity(
            project=self._options.project,
            run=self._options.run or default_run_name(launch_id),
            launch_id=launch_id,
            rank=self._place.rank,
            world_size=self._place.world_size,
            session_id=self._session,
            client_version=client_version(),
            python_version=platform.python_version(),
            framework=f"torch {torch.__version__}",
            strategy=self._strategy,
            hostname=socket.gethostname(),
            process_id=os.getpid(),
            local_rank=self._place.local_rank,
            device_type=self._device.type,
            device_name=name,
            device_uuid=uuid_,
            driver_version=driver,
            host_facts=host_facts(self._environment),
            config_json=self._config_json,
            tags=dict(self._options.tags),
            optimizers=self._optimizers,
        )

    def _known_at_once(self) -> str | None:
        if self._place.world_size == 1:
            return uuid.uuid4().hex
        launched = self._environment
        if launched.launch_id is not None and launched.world_size == self._place.world_size:
            # A second watch() of one launch is a launch of its own; ranks run the same program, so they count alike.
            return launched.launch_id if self._ordinal == 0 else f"{launched.launch_id}#{self._ordinal}"
        return None

    def _agree(self) -> str | None:
        if not is_distributed():
            self._warn_once()
            return None
        return self._agree_through_store()

    def _agree_through_store(self) -> str | None:
        store: Any = torch.distributed.distributed_c10d._get_default_store()  # noqa: SLF001 - torch has no public way
        key = f"seismograd/launch/{self._ordinal}"
        if self._place.rank == 0:
            launch_id = uuid.uuid4().hex
            store.set(key, launch_id)
            return launch_id
        until = time.monotonic() + _LOOK_SECONDS
        while not store.check([key]):
            if time.monotonic() >= until or self._cancelled.wait(_LOOK_AGAIN_SECONDS):
                return None
        found: bytes = store.get(key)
        return found.decode()

    def _warn_once(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "the launcher speaks of %d ranks, but they share neither a launch id nor a torch.distributed process"
                " group; give torchrun --standalone or --rdzv-id, or call init_process_group()",
                self._place.world_size,
            )


def default_run_name(launch_id: str) -> str:
    """A name when the user gave none: the script and a few digits that all ranks of the launch derive alike."""
    script = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "run"
    name = "".join(c if c.isprintable() else "_" for c in script)[:64] or "run"
    return f"{name}-{hashlib.sha256(launch_id.encode()).hexdigest()[:8]}"


def client_version() -> str:
    """Version of the installed client; empty when it runs from a bare source tree."""
    try:
        return metadata.version("seismograd")
    except metadata.PackageNotFoundError:
        return ""


def optimizer_info(index: int, optimizer: torch.optim.Optimizer) -> OptimizerInfo:
    """Class and hyper-parameters of the first group."""
    kind = type(optimizer)
    first = optimizer.param_groups[0] if optimizer.param_groups else {}
    settings = {key: _plain(value) for key, value in first.items() if key != "params"}
    return OptimizerInfo(index, f"{kind.__module__}.{kind.__qualname__}", configuration_json(settings))


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        # Reading a device tensor would wait for the device; the learning rate travels with every record anyway.
        return float(value) if value.device.type == "cpu" and value.numel() == 1 else "tensor"
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
