"""What a launcher (torchelastic, Slurm, Kubernetes) says about a process through its environment variables.

Pure: reads the mapping that it is given. `options.launch_environment()` gives it the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Slurm numbers the batch script and external steps from here on; they are no `srun` step that could be one launch.
_FIRST_SPECIAL_SLURM_STEP = 0xFFFFFFF0


@dataclass(frozen=True, slots=True)
class LaunchEnvironment:
    """Launch id, rank and world size as the launcher gave them; None = it said nothing.

    `launch_id` is the same on all ranks of the launch and different for every other launch. It is None when the
    environment names nothing that is both, and for a single process, where a random id is always right.
    """

    launcher: str  # "torchelastic", "slurm", "kubernetes", or "" when started by hand
    launch_id: str | None
    rank: int | None
    world_size: int | None
    local_rank: int | None
    job: str = ""  # as people look it up: Slurm job id, pod name

    @classmethod
    def from_variables(cls, variables: Mapping[str, str]) -> LaunchEnvironment:
        """Reads the variables of one process; a malformed number counts as absent."""
        in_slurm_step = _slurm_step(variables) is not None
        rank = _number(variables, "RANK")
        world_size = _number(variables, "WORLD_SIZE")
        local_rank = _number(variables, "LOCAL_RANK")
        if in_slurm_step and rank is None and world_size is None:
            # Outside an `srun` step SLURM_NTASKS describes the allocation, not the processes that run.
            rank, world_size = _number(variables, "SLURM_PROCID"), _number(variables, "SLURM_NTASKS")
            local_rank = _number(variables, "SLURM_LOCALID") if local_rank is None else local_rank
        if world_size is not None and (world_size < 1 or (rank is not None and rank >= world_size)):
            rank = world_size = local_rank = None
        launcher, launch_id, job = _identify(variables)
        if world_size is None or world_size <= 1:
            launch_id = None
        return cls(launcher, launch_id, rank, world_size, local_rank, job)


def _identify(variables: Mapping[str, str]) -> tuple[str, str | None, str]:
    job = variables.get("SLURM_JOB_ID", "") or variables.get("POD_NAME", "")
    if "TORCHELASTIC_RUN_ID" in variables:
        return "torchelastic", _elastic_launch(variables), job
    if variables.get("SLURM_JOB_ID"):
        return "slurm", _slurm_launch(variables), job
    if variables.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes", _pod_launch(variables), job
    return "", None, job


def _elastic_launch(variables: Mapping[str, str]) -> str | None:
    run_id = variables["TORCHELASTIC_RUN_ID"].strip()
    if run_id.lower() in ("", "none"):
        # torchrun without --standalone or --rdzv-id: every job on earth has this id.
        return None
    restart = variables.get("TORCHELASTIC_RESTART_COUNT", "0")
    # A change of the membership keeps id and restart count, but meets at a new port.
    address, port = variables.get("MASTER_ADDR", ""), variables.get("MASTER_PORT", "")
    return f"torchelastic:{run_id}:{restart}:{address}:{port}"


def _slurm_step(variables: Mapping[str, str]) -> int | None:
    step = _number(variables, "SLURM_STEP_ID")
    return step if step is not None and step < _FIRST_SPECIAL_SLURM_STEP else None


def _slurm_launch(variables: Mapping[str, str]) -> str | None:
    step = _slurm_step(variables)
    if step is None:
        return None
    restart = variables.get("SLURM_RESTART_COUNT", "0") or "0"
    return f"slurm:{variables['SLURM_JOB_ID']}.{step}.{restart}"


def _pod_launch(variables: Mapping[str, str]) -> str | None:
    # Each pod has a UID of its own, so it names the launch only when all ranks live in this pod.
    uid = variables.get("POD_UID", "")
    local = _number(variables, "LOCAL_WORLD_SIZE")
    if not uid or local is None or local != _number(variables, "WORLD_SIZE"):
        return None
    # A restarted container keeps the pod's UID; the port of the rendezvous usually differs, as it is chosen at random.
    return f"pod:{uid}:{variables.get('MASTER_PORT', '')}"


def _number(variables: Mapping[str, str], name: str) -> int | None:
    text = variables.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None
