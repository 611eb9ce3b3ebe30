"""Env steps a second of DQN on Pong: jaxql, a PyTorch port, the notebook's way, Stable-Baselines3 and SBX.

Contestants are in `peers.py`, each in a process of its own, and are taken in turns. On an accelerator jaxql runs alone.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import jax

from benchmarks.peers import CAPACITY

PACKAGES = {"torch": "torch", "stable_baselines3": "stable-baselines3", "sbx": "sbx-rl", "cv2": "opencv-python"}
TORCH_NOTE = "AtariVectorEnv, observations and next observations as bytes in one tensor, fused Adam"
BASELINES_NOTE = "its own Atari wrappers, envs one after another, Huber loss"
CONTESTANTS = [  # name, setting, env steps of a run (about 15 s on two cores), modules needed, note
    ("jaxql", "cleanrl", 2_000, (), "AtariVectorEnv, the update runs while the emulators do"),
    ("jaxql, bfloat16", "cleanrl", 2_000, (), "the same, its convolutions in bfloat16"),
    ("PyTorch port, NCHW", "cleanrl", 2_000, ("torch",), TORCH_NOTE),
    ("PyTorch port, channels_last", "cleanrl", 2_000, ("torch",), TORCH_NOTE),
    ("PyTorch port, channels_last, bfloat16", "cleanrl", 2_000, ("torch",), f"{TORCH_NOTE}, autocast"),
    ("Stable-Baselines3 DQN", "cleanrl", 2_000, ("stable_baselines3", "cv2"), f"{BASELINES_NOTE}, gradients clipped"),
    ("SBX DQN", "cleanrl", 240, ("sbx", "stable_baselines3", "cv2"), f"{BASELINES_NOTE}, net_arch [512]"),
    ("jaxql", "notebook", 500, (), "AtariVectorEnv of one env, the update runs while the emulator does"),
    ("jaxql, bfloat16", "notebook", 500, (), "the same, its convolutions in bfloat16"),
    ("PyTorch port, NCHW", "notebook", 500, ("torch",), TORCH_NOTE),
    ("PyTorch port, channels_last", "notebook", 500, ("torch",), TORCH_NOTE),
    ("notebook code path", "notebook", 500, ("torch", "cv2"), "Gymnasium's wrappers, a deque of float32 arrays"),
]


def rows(quick: bool = False):
    """A row for each contestant and setting: the median of three runs, or of one shorter run."""
    runs, failed = {}, {}
    contestants = [row for row in CONTESTANTS if jax.default_backend() == "cpu" or row[0].startswith("jaxql")]
    for _ in range(1 if quick else 3):
        for name, setting, env_steps, needs, _ in contestants:
            if (name, setting) in failed:
                continue
            missing = [PACKAGES[module] for module in needs if importlib.util.find_spec(module) is None]
            if missing:
                failed[name, setting] = f"{name} is not installed: pip install {' '.join(missing)}"
                continue
            try:
                run = _run(name, setting, env_steps // 5 if quick else env_steps)
                runs.setdefault((name, setting), []).append(run)
            except subprocess.CalledProcessError as error:
                failed[name, setting] = f"failed: {(error.stderr.strip() or str(error)).splitlines()[-1]}"
    for name, setting, _, _, note in contestants:
        row = {"part": "end_to_end", "name": name, "setting": setting}
        if (name, setting) in failed:
            yield row | {"note": failed[name, setting]}
            continue
        speeds = [run["env_steps_per_second"] for run in runs[name, setting]]
        env_steps, updates = (sum(run[key] for run in runs[name, setting]) for key in ("env_steps", "updates"))
        yield row | {
            "env_steps_per_second": statistics.median(speeds),
            "spread": [min(speeds), max(speeds)],
            "updates_per_env_step": updates / env_steps,
            "env_steps": env_steps,
            "runs": len(speeds),
            "replay_capacity": CAPACITY,
            "note": note,
        }


def _run(name: str, setting: str, env_steps: int) -> dict:
    """One run in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", name, setting, str(env_steps)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])
