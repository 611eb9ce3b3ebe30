"""Several devices, and several processes, for one run."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxql.errors import UserError
from jaxql.types import Episode

Devices = int | Literal["all"]
AUTO = "auto"  # in place of an address


def join_processes(address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins this process to the others of a run; does nothing where no address is given.

    Args:
      address: HOST:PORT of process 0, at which all meet; "auto" in a cluster that JAX knows, such as Slurm's.
      num_processes, process_id: how many there are, and which one this is, from 0; None with "auto".

    Raises:
      UserError: one of the three is missing or wrong, or the others were not found.
    """
    if address is None:
        if num_processes is not None or process_id is not None:
            raise UserError("num_processes and process_id need coordinator_address: HOST:PORT of process 0, or auto")
        return
    given: dict[str, Any] = {}
    if address != AUTO:
        if num_processes is None or process_id is None:
            raise UserError("coordinator_address needs num_processes and process_id, or is auto in a cluster")
        if not 0 <= process_id < num_processes:
            raise UserError(f"process_id is {process_id}; it must be in 0..{num_processes - 1}")
        if not address.rpartition(":")[2].isdigit():
            raise UserError(f'coordinator_address is "{address}"; it must be HOST:PORT')
        given = dict(coordinator_address=address, num_processes=num_processes, process_id=process_id)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # for CPUs; others have their own
    try:
        jax.distributed.initialize(**given)
    except Exception as error:  # by kind of cluster
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the processes did not find each other at {address}: {line}") from error


def mesh_of(devices: Devices, num_envs: int) -> Mesh | None:
    """Returns the mesh of the devices that a run uses; None for one device of one process.

    Args:
      devices: how many, or "all"; with several processes all devices of all of them.
      num_envs: of the run, which the devices share.

    Raises:
      UserError: there are not so many, or they cannot share the envs equally.
    """
    found = jax.devices()
    count = len(found) if devices == "all" else devices
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f'devices={devices!r}: it must be a whole number, 1 or greater, or "all"')
    if count > len(found):
        advice = "; JAX_NUM_CPU_DEVICES=N splits the CPU into N" if found[0].platform == "cpu" else ""
        raise UserError(f"devices={count}, and JAX has {len(found)} ({found[0].platform}){advice}")
    if jax.process_count() > 1 and count != len(found):
        raise UserError(f"devices={count}, and {jax.process_count()} processes have {len(found)}: give all")
    if count == 1:
        return None
    if num_envs % count:
        raise UserError(f"{count} devices cannot share num_envs={num_envs} equally: give a multiple of {count}")
    return Mesh(found[:count], ("envs",))


def check_resumable() -> None:
    """Raises UserError where several processes train: their run keeps no state to go on from."""
    if jax.process_count() > 1:
        raise UserError(f"a run of {jax.process_count()} processes cannot be resumed; start a new one with --init-from")


def is_first() -> bool:
    """Returns whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def any_process(flag: int) -> int:
    """Returns the greatest of the processes' flags; every process must call it at the same point of the run."""
    return int(np.max(multihost_utils.process_allgather(np.int32(flag))))


def gather_episodes(episodes: Sequence[Episode]) -> list[Episode]:
    """Returns the episodes of all processes, one process after the other, the index of an env being its process's own.

    Every process must call it at the same point of the run.
    """
    counts = multihost_utils.process_allgather(np.int32(len(episodes)))
    if not np.any(counts):
        return []
    rows = np.zeros((int(np.max(counts)), len(Episode._fields)))
    rows[: len(episodes)] = np.array(episodes, float).reshape(-1, len(Episode._fields))
    parts = np.ascontiguousarray(multihost_utils.process_allgather(rows.view(np.int32))).view(float)  # bit for bit
    return [
        Episode(int(i), return_, int(length))
        for part, count in zip(parts, counts, strict=True)
        for i, return_, length in part[:count].tolist()
    ]


def local_copy(tree: Any) -> Any:
    """Returns arrays that are the same on all devices of a mesh, from this process's first device alone."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)
