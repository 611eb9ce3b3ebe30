"""The machine that a run uses: its memory, and the cache of compiled programs."""

import ctypes
import hashlib
import math
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxql.errors import UserError
from jaxql.types import Env

FEW_ENVS = 1_000  # that fit on any machine
JAX_ENV_BYTES = 64  # of the state of a JAX env and its statistics, at least
HOST_ENV_BYTES = 10_000  # of a Gymnasium env and its wrappers, at least
M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD = -8, -4, -1  # of glibc's malloc.h
WORTH_SAYING = 0.25  # of the free memory
CACHE_SWITCH = "JAXQL_COMPILATION_CACHE"  # environment variable: a folder, or "off"


def keep_freed_memory() -> bool:
    """Lets this process keep the memory it frees, for good; returns whether the C library can (glibc can).

    XLA allocates its temporary arrays at every call on a CPU. glibc gives blocks of that size back to the system each
    time, and the kernel clears every page before it hands it out anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(mallopt(*option) for option in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)))


def check_device() -> None:
    """Raises UserError, one line, if JAX cannot start on the device that it was told to use."""
    try:
        jax.devices()
    except Exception as error:  # RuntimeError or AssertionError, by version and device
        wanted = os.environ.get("JAX_PLATFORMS", "")
        raise UserError(f'JAX cannot start on JAX_PLATFORMS="{wanted}": install jax for it, or unset it') from error


def cache_compilations() -> Path | None:
    """Lets JAX keep compiled programs on disk for the next process; returns the folder, None where it is switched off.

    The folder is that of the environment variable JAXQL_COMPILATION_CACHE ("off": none), of JAX's own setting, or
    `jaxql` in the user's cache folder. Machine code fits one kind of CPU, so every kind has a folder of its own. JAX
    cannot store programs with oneDNN's convolutions; they are compiled anew in every process.
    """
    choice = os.environ.get(CACHE_SWITCH, "")
    if choice.lower() in ("off", "0", "no", "false"):
        return None
    if not choice and (chosen := jax.config.values["jax_compilation_cache_dir"]):
        return Path(chosen)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (Path(choice) if choice else home / "jaxql") / f"cpu-{_kind_of_cpu()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
    return folder


def _kind_of_cpu() -> str:
    """Returns a short name for this model of CPU and its instructions."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    said = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    text = "\n".join(sorted(said)) or platform.processor()
    return hashlib.sha256(f"{platform.system()} {platform.machine()} {text}".encode()).hexdigest()[:12]


def memory_report(shapes: Any, seeds: int) -> str:
    """Returns a line on the memory that the states of the agents take, or "" where it is a small part of what is free.

    Args:
      shapes: the state of one agent, leaves with `shape` and `dtype`.
      seeds: the number of agents.

    Raises:
      UserError: the states cannot fit; raised before any of them is allocated.
    """
    needed, stored = (seeds * _bytes(x) / 1e9 for x in (shapes, shapes.data))
    free = _free_memory()
    if free is not None and needed > free / 1e9:
        lower = "capacity" if seeds == 1 else "capacity or seeds"
        raise UserError(f"this needs {needed:.1f} GB and {free / 1e9:.1f} GB are free; lower {lower}")
    if free is not None and needed < WORTH_SAYING * free / 1e9:
        return ""
    whose = "the agent's state" if seeds == 1 else f"the states of {seeds} agents"
    line = f"memory: {needed:.2f} GB for {whose}, {stored:.2f} GB of it for stored rows"
    return line if free is None else f"{line}; {free / 1e9:.1f} GB are free"


def check_env_memory(make_env: Callable[..., Env], count: int, name: str) -> None:
    """Raises UserError if `count` envs cannot fit, before they are made; `name` is the setting that asks for them.

    One env is made to see its observations. Fewer than 1,000 envs are not looked at.
    """
    if not isinstance(count, int) or count < FEW_ENVS:
        return
    from jaxql.lab.environments import is_compiled

    one = make_env(1, seed=0, purpose="evaluate")
    each = _bytes(one.spec.obs) + (JAX_ENV_BYTES if is_compiled(one) else HOST_ENV_BYTES)
    free = _free_memory() if is_compiled(one) else free_ram()
    one.close()
    if free is not None and count * each > free:
        raise UserError(
            f"{name} is {count}: so many envs need at least {count * each / 1e9:,.1f} GB and {free / 1e9:.1f} GB are "
            f"free; lower {name}"
        )


def _bytes(shapes: Any) -> int:
    arrays = [x for x in jax.tree.leaves(shapes) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def _free_memory() -> int | None:
    """Returns the bytes free on the device, or None where the device does not say."""
    if jax.default_backend() == "cpu":
        return free_ram()
    return device_memory(jax.local_devices()[0])


def device_memory(device: Any) -> int | None:
    """Returns the bytes free on a device that is no CPU, or None where it does not say."""
    statistics = device.memory_stats() or {}
    if "bytes_limit" not in statistics:
        return None
    return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)


def free_ram() -> int | None:
    """Returns the bytes free for this process, or None where the system does not say."""
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return 1024 * int(found[1]) if found else None
