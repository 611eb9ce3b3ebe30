"""What every part of the suite shares: interleaved timing, and rows that say where they come from."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "gymnasium",
    "gymnax",
    "box2d",
    "ale-py",
    "torch",
    "stable-baselines3",
    "sb3-contrib",
    "sbx-rl",
)


def interleaved(contestants: dict[str, Callable[[], object]], repeats: int = 5, least: float = 0.3) -> dict[str, dict]:
    """Median seconds of one call of each, taken in turns; the first call, which compiles, apart.

    A contestant that returns JAX arrays is waited for. Calls are repeated within a turn until it lasts `least` seconds.
    """
    import jax

    first, times, calls = {}, {name: [] for name in contestants}, {}
    for name, call in contestants.items():
        first[name] = _clock(lambda call=call: jax.block_until_ready(call()), 1)
        calls[name] = max(1, round(least / _clock(lambda call=call: jax.block_until_ready(call()), 1)))
    for _ in range(repeats):
        for name, call in contestants.items():
            times[name].append(_clock(lambda call=call: jax.block_until_ready(call()), calls[name]))
    return {
        name: {
            "seconds": statistics.median(times[name]),
            "least": min(times[name]),
            "most": max(times[name]),
            "first_call": first[name],
        }
        for name in contestants
    }


def _clock(call, number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def about() -> dict:
    """Commit, machine, device and versions."""
    import jax

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "commit": commit(),
        "device": f"{device.device_kind} x{jax.device_count()}",
        "platform": device.platform,
        "cores": len(os.sched_getaffinity(0)),
        "machine": _processor(),
        "versions": versions,
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
    }


def commit() -> str:
    """Commit of this tree, with a "+" where its code was changed since."""
    changed = _git("status", "--porcelain", "jaxql", "benchmarks/*.py")
    return _git("rev-parse", "HEAD") + ("+" if changed else "")


def _git(*words: str) -> str:
    result = subprocess.run(["git", *words], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    return result.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()
