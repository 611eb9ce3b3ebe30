"""What a person, or a maintainer who reads a report, must know of this machine and what is installed on it."""

import contextlib
import importlib
import os
import platform
import re
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql import kernels
from jaxql.lab.machine import cache_compilations, device_memory, free_ram

Section = dict[str, str]
PACKAGES = "jaxql jax jaxlib flax optax numpy scipy gymnasium ale-py safetensors tensorboardX tyro rich imageio".split()
FOR_DEVELOPERS = ("test", "lint")  # extras that no command needs


def examine() -> dict[str, Section]:
    """Returns what is found, by section. A part that fails says how; nothing is raised."""
    sections: dict[str, Callable[[], Section]] = {
        "versions": _versions,
        "machine": _machine,
        "devices": _devices,
        "games and video": _media,
        "kernels": _kernels,
        "compilation cache": _cache,
        "extras": _extras,
    }
    return {name: _tried(name, section) for name, section in sections.items()}


def problems(found: dict[str, Section]) -> list[str]:
    """Returns a line for every part that does not work.

    >>> problems({"devices": {"JAX": "FAILS: no device"}, "versions": {"jax": "0.10"}})
    ['JAX: no device']
    """
    return [
        f"{key}: {value.removeprefix('FAILS: ')}"
        for section in found.values()
        for key, value in section.items()
        if value.startswith("FAILS: ")
    ]


def _tried(name: str, section: Callable[[], Section]) -> Section:
    try:
        return section()
    except Exception as error:  # a broken installation may raise anything
        return {name: _failure(error)}


def _failure(error: Exception) -> str:
    return f"FAILS: {type(error).__name__}: {' '.join(str(error).split()):.200}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _versions() -> Section:
    return {"Python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _machine() -> Section:
    free = free_ram()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "CPU": f"{_cpu_model()}, {cores} cores for this process",
        "memory": "not known" if free is None else f"{free / 1e9:.1f} GB free",
    }


def _cpu_model() -> str:
    about = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", about.read_text()) if about.exists() else None
    return found[1] if found else platform.processor() or "not known"


def _devices() -> Section:
    wanted = os.environ.get("JAX_PLATFORMS")
    section = {"JAX_PLATFORMS": wanted} if wanted else {}
    try:
        for device in jax.devices():
            section[str(device)] = f"{device.device_kind}{_memory(device)}"
    except Exception as error:  # RuntimeError or AssertionError, by version and device
        return section | {"JAX": _failure(error) + "; install jax for this device, or unset JAX_PLATFORMS"}
    section["float64"] = "on" if jax.config.values["jax_enable_x64"] else "off"
    if jax.default_backend() == "cpu":
        section["GPU or TPU"] = 'not in use; pip install "jaxql[cuda13]" or "jaxql[tpu]" where there is one'
    return section


def _memory(device: Any) -> str:
    """Returns the memory of a device, as words behind its kind."""
    free = None if device.platform == "cpu" else device_memory(device)
    return "" if free is None else f", {free / 1e9:.1f} GB free"


def _media() -> Section:
    return {
        "ALE": _worded(_ale, "Atari games cannot be played: pip install -U 'ale-py[vector]'"),
        "ffmpeg": _worded(_ffmpeg, "no videos in .mp4, only .gif: pip install -U 'imageio[ffmpeg]'"),
    }


def _worded(part: Callable[[], str], otherwise: str) -> str:
    try:
        return part()
    except Exception as error:  # a broken installation may raise anything
        return f"{_failure(error)}; {otherwise}"


def _ale() -> str:
    from jaxql.envs import atari

    with contextlib.closing(atari.AtariVectorEnv("pong", 1)) as env:
        env.reset()
    return f"{len({game for game in atari.games().values()})} games; Pong starts"


def _ffmpeg() -> str:
    from jaxql.lab.video import write_video

    tool = importlib.import_module("imageio_ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        write_video(Path(folder) / "test.mp4", [np.zeros((16, 16, 3), np.uint8)] * 2)
    return f"{tool.get_ffmpeg_version()}; writes .mp4"


def _kernels() -> Section:
    """Traces what wants a fast path, and returns the notes on those that are not in use."""
    section = {}
    try:
        jax.devices()
    except Exception:  # RuntimeError or AssertionError; `_devices` says which
        return {"kernels": "not known without a device"}
    kernels.forget_notes()
    for dtype in (jnp.float32, jnp.bfloat16):
        x, w = jnp.zeros((1, 4, 4, 1), dtype), jnp.zeros((2, 2, 1, 1), dtype)
        jax.eval_shape(lambda x, w: kernels.convolve(x, w, 2), x, w)
        reason = next((line for line in kernels.notes() if line.startswith("convolutions on CPUs: ")), None)
        section[f"convolution on CPUs, {jnp.dtype(dtype).name}"] = (
            reason.removeprefix("convolutions on CPUs: ") if reason else "oneDNN, the fastest here"
        )
    section["convolution on other devices"] = "XLA"
    kernels.derive_key(jax.random.key(0), 1)
    reason = next((line for line in kernels.notes() if line.startswith("random numbers on CPUs: ")), None)
    section["random numbers on CPUs"] = reason.split(": ", 1)[1] if reason else "unrolled Threefry, the fastest here"
    return section


def _cache() -> Section:
    folder = cache_compilations()
    if folder is None:
        return {"folder": "none: switched off by JAXQL_COMPILATION_CACHE, or its folder cannot be written"}
    files = [path.stat().st_size for path in folder.glob("*") if path.is_file()]
    return {"folder": str(folder), "size": f"{len(files)} files, {sum(files) / 1e6:.1f} MB"}


def _extras() -> Section:
    """Returns what is installed of each extra, and how to install what is missing."""
    section = {}
    for extra, packages in _packages_of_extras(metadata.requires("jaxql") or []).items():
        missing = [name for name in packages if _version(name) == "not installed"]
        present = [f"{name} {_version(name)}" for name in packages if name not in missing]
        section[extra] = (
            f'without {", ".join(missing)}: pip install "jaxql[{extra}]"' if missing else ", ".join(present)
        )
    return section


def _packages_of_extras(requirements: list[str]) -> dict[str, list[str]]:
    """Returns the packages that each extra adds; an extra of jax, as in jax[cuda13], stands for its plugin.

    >>> _packages_of_extras(['jax>=0.10', 'six; extra == "gymnax"', 'gymnax>=1.0; extra == "gymnax"'])
    {'gymnax': ['six', 'gymnax']}
    """
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        words = re.match(r"""([\w.-]+)(?:\[([\w,-]+)\])?[^;]*;.*extra == ["']([\w-]+)["']""", requirement)
        if words and words[3] not in FOR_DEVELOPERS:
            plugin = {"cuda13": "jax-cuda13-plugin", "tpu": "libtpu"}.get(words[2] or "")
            found.setdefault(words[3], []).append(plugin or words[1])
    return found
