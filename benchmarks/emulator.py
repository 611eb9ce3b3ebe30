"""Env steps a second of ALE's vector env alone, random actions, 84x84x4."""

import time

import numpy as np


def rows(quick: bool = False):
    from jaxql import envs

    for num_envs in (8,) if quick else (1, 8, 16, 32):
        env = envs.make("PongNoFrameskip-v4", num_envs, seed=0, purpose="train")
        env.reset()
        actions = np.random.default_rng(0).integers(6, size=(1_000, num_envs))
        ticks, began = 0, None
        while began is None or time.perf_counter() - began < (1 if quick else 4):
            env.tick(actions[ticks % 1_000])
            ticks += 1
            if ticks == 20:
                began, counted = time.perf_counter(), ticks
        yield {
            "part": "emulator",
            "name": "AtariVectorEnv",
            "envs": num_envs,
            "env_steps_per_second": (ticks - counted) * num_envs / (time.perf_counter() - began),
        }
        env.close()
