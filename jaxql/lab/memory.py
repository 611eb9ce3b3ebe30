"""What a run takes of the machine's memory."""

import ctypes
import math
import re
import sys
from pathlib import Path

import jax

from jaxql.errors import UserError

M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Lets this process keep the memory it frees, for good; returns whether the C library knows how (glibc's does).

    XLA allocates its temporary arrays at every call on a CPU. glibc gives blocks of that size back to the system each
    time, and the kernel clears every page before it hands it out anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(mallopt(*option) for option in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)))


def line(shapes, seeds: int) -> str:
    """What the agents' states will take; what cannot fit is refused before any of it is allocated."""
    needed, stored = (seeds * _bytes(x) / 1e9 for x in (shapes, shapes.data))
    free = _free_memory()
    if free is not None and needed > free / 1e9:
        lower = "capacity" if seeds == 1 else "capacity or seeds"
        raise UserError(f"this needs {needed:.1f} GB and {free / 1e9:.1f} GB are free; lower {lower}")
    whose = "the agent's state" if seeds == 1 else f"the states of {seeds} agents"
    said = f"memory: {needed:.2f} GB for {whose}, {stored:.2f} GB of it for stored rows"
    return said if free is None else f"{said}; {free / 1e9:.1f} GB are free"


def _bytes(shapes) -> int:
    arrays = [x for x in jax.tree.leaves(shapes) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def _free_memory() -> int | None:
    """Bytes free on the device, or None where nobody says."""
    if jax.default_backend() == "cpu":
        meminfo = Path("/proc/meminfo")
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
        return 1024 * int(found[1]) if found else None
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in statistics:
        return None
    return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
