"""DQN on Pong by one contestant, timed in this process: `python -m benchmarks.peers NAME SETTING STEPS`.

It prints one line of JSON. All have the Nature CNN, four stacked 84x84 frames of four emulated ones each, no sticky
actions, Adam, the same replay capacity, batch, target period and updates a step, and two threads on two cores. The
clock runs after a warm-up that fills part of the replay and compiles or touches all that a step and an update need.
jaxql's emulators have one of the threads, for they work while the update does.
"""

import collections
import json
import os
import sys
import time
from typing import NamedTuple

import numpy as np

ENV, ACTIONS, THREADS = "PongNoFrameskip-v4", 6, 2
BATCH, CAPACITY, LEARNING_RATE, DISCOUNT, EPSILON = 32, 10_000, 1e-4, 0.99, 0.1
TARGET_PERIOD = 1_000  # env steps
WARMUP = 1_000  # env steps without an update, before the clock
FIRST_TICKS = 8  # with updates, before the clock
CHUNK = 1_000  # env steps between the books that `jaxql train` keeps


class Setting(NamedTuple):
    """Envs that step together, and updates at each such tick."""

    num_envs: int
    updates: int


SETTINGS = {"cleanrl": Setting(8, 2), "notebook": Setting(1, 1)}


def jaxql(setting: Setting, bfloat16: bool = False):
    """As `jaxql train` runs it, without its files."""
    import jax

    from jaxql import envs, loop
    from jaxql.agents import dqn
    from jaxql.agents.state import hyper_of
    from jaxql.lab.machine import keep_freed_memory

    keep_freed_memory()
    config = dqn.Config(
        network="nature-cnn",
        bfloat16=bfloat16,
        loss="squared",
        max_gradient_norm=0.0,
        gradient_steps=setting.updates,
        batch_size=BATCH,
        capacity=CAPACITY,
        learning_rate=LEARNING_RATE,
        target_period_updates=TARGET_PERIOD * setting.updates // setting.num_envs,
        discount=DISCOUNT,
        epsilon=EPSILON,
        exploration_steps=1,
    )
    env = envs.make(ENV, setting.num_envs, num_threads=1)
    agent, obs = loop.jit_agent(dqn.make(config, env.spec)), env.reset()
    carry, warmup = (agent.init(jax.random.key(0), obs, hyper_of(config)), (), obs), WARMUP // setting.num_envs

    def play(ticks):
        nonlocal carry, warmup
        while ticks:
            rounds = min(ticks, CHUNK // setting.num_envs)
            counts = dict(warmup=warmup, rounds=rounds, rollout_length=1)
            carry, metrics = loop.train(agent, env.step, carry, **counts, scan=loop.host_scan)
            assert np.isfinite(metrics["loss"]).all()
            env.take_episodes()
            ticks, warmup = ticks - rounds, 0
        jax.block_until_ready(carry)
        return int(carry[0].env_steps), int(carry[0].updates)

    return play


def pytorch(setting: Setting, channels_last: bool, bfloat16: bool = False):
    """The notebook's learner as one would write it today: bytes in one tensor, a vector env, Adam in one kernel."""
    import torch
    from ale_py.vector_env import AtariVectorEnv

    torch.set_num_threads(THREADS)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    envs, rng = setting.num_envs, np.random.default_rng(0)
    env = AtariVectorEnv("pong", envs, num_threads=THREADS)
    online, target = (_nature_cnn().to(memory_format=memory_format) for _ in range(2))
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), LEARNING_RATE, fused=True)
    frames = torch.zeros(CAPACITY, 2, 4, 84, 84, dtype=torch.uint8)  # an observation and the next one
    actions, rewards, ends = np.zeros(CAPACITY, np.int64), np.zeros(CAPACITY, np.float32), np.zeros(CAPACITY, bool)
    obs, over = env.reset(seed=0)[0], np.zeros(envs, bool)
    ticks_played = stored = updates = 0

    def scaled(images):
        return images.contiguous(memory_format=memory_format).float() / 255.0

    def precision():
        return torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)

    def act():
        explore, action = rng.random(envs) < EPSILON, rng.integers(ACTIONS, size=envs)
        if explore.all():
            return action
        with torch.inference_mode(), precision():
            return np.where(explore, action, online(scaled(torch.from_numpy(obs))).argmax(1).numpy())

    def tick():
        nonlocal obs, over, stored, ticks_played
        action, valid = act(), ~over  # an env that was over only resets itself
        next_obs, reward, terminated, truncated, _ = env.step(action)
        slots = (stored + np.arange(valid.sum())) % CAPACITY
        frames[slots] = torch.from_numpy(np.stack([obs[valid], next_obs[valid]], 1))
        actions[slots], rewards[slots], ends[slots] = action[valid], reward[valid], terminated[valid]
        obs, over, stored, ticks_played = (
            next_obs,
            (terminated | truncated) & valid,
            stored + len(slots),
            ticks_played + 1,
        )
        if ticks_played % (TARGET_PERIOD // envs) == 0:
            target.load_state_dict(online.state_dict())

    def update():
        nonlocal updates
        rows = rng.integers(min(stored, CAPACITY), size=BATCH)
        images = frames[rows]
        action, reward, end = (torch.from_numpy(x[rows]) for x in (actions, rewards, ends))
        with precision():
            with torch.no_grad():
                goal = reward + DISCOUNT * ~end * target(scaled(images[:, 1])).max(1).values.float()
            q = online(scaled(images[:, 0])).gather(1, action[:, None])[:, 0].float()
        loss = torch.nn.functional.mse_loss(q, goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        updates += 1

    def play(ticks):
        for _ in range(ticks):
            tick()
            for _ in range(setting.updates):
                update()
        return stored, updates

    for _ in range(WARMUP // envs):
        tick()
    return play


def notebook(setting: Setting):
    """The notebook's own way: one env in wrappers, float32 frames on the host in a deque, torch's defaults."""
    import ale_py
    import gymnasium
    import torch
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

    torch.set_num_threads(THREADS)
    gymnasium.register_envs(ale_py)
    env = FrameStackObservation(AtariPreprocessing(gymnasium.make(ENV), frame_skip=4, scale_obs=True), 4)
    net, target = _nature_cnn(), _nature_cnn()
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    buffer, state = collections.deque(maxlen=CAPACITY), env.reset(seed=0)[0]
    env_steps = updates = 0

    @torch.no_grad()
    def play_step():
        nonlocal state, env_steps
        if np.random.random() < EPSILON:
            action = env.action_space.sample()
        else:
            action = int(torch.max(net(torch.tensor(state[None])), dim=1)[1].item())
        new_state, reward, terminated, truncated, _ = env.step(action)
        buffer.append((state, action, reward, terminated, new_state))
        state, env_steps = env.reset()[0] if terminated or truncated else new_state, env_steps + 1
        if env_steps % TARGET_PERIOD == 0:
            target.load_state_dict(net.state_dict())

    def update():
        nonlocal updates
        chosen = np.random.choice(len(buffer), BATCH, replace=False)
        states, actions, rewards, dones, new_states = zip(*[buffer[i] for i in chosen], strict=True)
        q = net(torch.tensor(np.array(states))).gather(1, torch.tensor(np.array(actions)).unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            next_values = target(torch.tensor(np.array(new_states))).max(1)[0]
            next_values[torch.tensor(np.array(dones))] = 0.0
        goal = next_values * DISCOUNT + torch.tensor(np.array(rewards, np.float32))
        optimizer.zero_grad()
        torch.nn.MSELoss()(q, goal).backward()
        optimizer.step()
        updates += 1

    def play(ticks):
        for _ in range(ticks):
            play_step()
            update()
        return env_steps, updates

    for _ in range(WARMUP):
        play_step()
    return play


def baselines(setting: Setting, library: str):
    """The DQN of Stable-Baselines3 or of SBX, on Stable-Baselines3's own Atari envs."""
    import importlib

    import ale_py
    import gymnasium
    import torch
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    torch.set_num_threads(THREADS)
    gymnasium.register_envs(ale_py)
    model = importlib.import_module(library).DQN(
        "CnnPolicy",
        VecFrameStack(make_atari_env(ENV, setting.num_envs, seed=0), 4),
        learning_rate=LEARNING_RATE,
        buffer_size=CAPACITY,
        learning_starts=WARMUP,
        batch_size=BATCH,
        gamma=DISCOUNT,
        train_freq=1,
        gradient_steps=setting.updates,
        target_update_interval=TARGET_PERIOD,
        exploration_initial_eps=EPSILON,
        exploration_final_eps=EPSILON,
        optimize_memory_usage=True,
        replay_buffer_kwargs={"handle_timeout_termination": False},
        policy_kwargs={"net_arch": [512]} if library == "sbx" else None,  # its hidden layer would have 256 units
        device="cpu",
    )
    ahead = WARMUP

    def play(ticks):
        nonlocal ahead
        model.learn(ahead + ticks * setting.num_envs, reset_num_timesteps=False)
        ahead = 0
        return model.num_timesteps, model._n_updates

    return play


def _nature_cnn():
    from torch import nn

    layers = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, ACTIONS))


CONTESTANTS = {  # all return play(ticks) -> (env steps, updates) since the start
    "jaxql": jaxql,
    "jaxql, bfloat16": lambda setting: jaxql(setting, bfloat16=True),
    "PyTorch port, NCHW": lambda setting: pytorch(setting, channels_last=False),
    "PyTorch port, channels_last": lambda setting: pytorch(setting, channels_last=True),
    "PyTorch port, channels_last, bfloat16": lambda setting: pytorch(setting, channels_last=True, bfloat16=True),
    "notebook code path": notebook,
    "Stable-Baselines3 DQN": lambda setting: baselines(setting, "stable_baselines3"),
    "SBX DQN": lambda setting: baselines(setting, "sbx"),
}


def measure(name: str, setting: str, env_steps: int) -> dict:
    """One run of a contestant, the warm-up apart."""
    play = CONTESTANTS[name](SETTINGS[setting])
    before = play(FIRST_TICKS)
    start = time.perf_counter()
    after = play(env_steps // SETTINGS[setting].num_envs)
    seconds = time.perf_counter() - start
    steps, updates = (int(y - x) for x, y in zip(before, after, strict=True))
    return {
        "name": name,
        "setting": setting,
        "env_steps_per_second": steps / seconds,
        "env_steps": steps,
        "updates": updates,
        "seconds": seconds,
    }


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):  # before any library counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))), flush=True)
