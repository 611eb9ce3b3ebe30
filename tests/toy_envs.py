"""Small envs, and helpers to play them, that the tests of envs share."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from jaxql.envs.jax import autoreset
from jaxql.types import MDP


class Diary(gymnasium.Env):
    """Shows [draw of its seed, step, last action] in a buffer that it reuses; lengths are 1..6, ends of both sorts."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Discrete(3)

    def __init__(self):
        self.page = np.zeros(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.page[:] = self.np_random.random(), 0, 0
        self.length = self.np_random.integers(1, 7)
        return self.page, {}

    def step(self, action):
        self.page[1:] += 1, action
        over = self.page[1] >= self.length
        cut = bool(self.length % 2)
        return self.page, self.np_random.normal(), over and not cut, over and cut, {}


class Shows(gymnasium.Env):
    """Any observation space, shown by samples; any action space."""

    def __init__(self, observation_space, action_space=spaces.Discrete(2), show=None):  # noqa: B008
        self.observation_space, self.action_space, self.show = observation_space, action_space, show

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample() if self.show is None else self.show, {}

    def step(self, action):
        return self.observation_space.sample() if self.show is None else self.show, 0.0, False, False, {}


class Toy(gymnasium.Env):
    """Episodes of five steps whose results a test replaces: Toy(step=(obs, reward, ...)), Toy(reset=(obs, info))."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, at=3, **replaced):
        self.at, self.replaced, self.taken = at, replaced, []
        self.observation_space = replaced.get("space", self.observation_space)
        self.action_space = replaced.get("actions", self.action_space)
        self.obs = replaced.get("obs", np.zeros(2, np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.replaced.get("reset", (self.obs, self.replaced.get("info", {})))

    def step(self, action):
        self.time += 1
        self.taken.append(action)
        if self.time == self.at and "step" in self.replaced:
            result = self.replaced["step"]
            return result(self) if callable(result) else result
        return self.obs, 1.0, False, self.time == 5, self.replaced.get("info", {})


class Masked(Toy):
    """Its first action of three is illegal; a mask is shown in one of the ways that are in use."""

    def __init__(self, shown, obs_name="observation"):
        box, mask = spaces.Box(0, 1, (2,), np.float32), np.array([0, 1, 1], np.int8)
        numbers, info = np.ones(2, np.float32), {}
        if shown == "observation":
            box = spaces.Dict({obs_name: box, "action_mask": spaces.MultiBinary(3)})
            numbers = {obs_name: numbers, "action_mask": mask}
        elif shown == "info":
            info = {"action_mask": mask}
        elif shown == "method":
            self.action_masks = lambda: mask.astype(bool)
        super().__init__(space=box, actions=spaces.Discrete(3), obs=numbers, info=info)


class Mission(spaces.Space):
    """A space of text that Gymnasium does not know, as MiniGrid has one."""

    def __init__(self):
        super().__init__(dtype=str)

    def sample(self, mask=None, probability=None):
        return "go"

    def contains(self, x):
        return isinstance(x, str)


def play(envs, actions):
    """The rows of a run as NumPy: obs [T + 1, B, ...] and the rest [T, B]."""
    obs, rows = [np.asarray(envs.reset())], []
    for action in actions:
        _, (next_obs, *row) = envs.step((), jnp.asarray(action))
        obs.append(np.asarray(next_obs))
        rows.append([np.asarray(x) for x in row])
    return np.stack(obs), *(np.stack(x) for x in zip(*rows, strict=True))


def alone(env, seed, actions):
    """One episode of one plain env, the law's oracle: observations and rewards until it ends."""
    obs, rewards = [np.array(env.reset(seed=seed)[0])], []
    for action in actions:
        next_obs, reward, terminated, truncated, _ = env.step(action)
        obs.append(np.array(next_obs))
        rewards.append(reward)
        if terminated or truncated:
            return obs, rewards, terminated, truncated
    return obs, rewards, False, False


def rollout(jax_env, num_envs, ticks, *, key=0, action_seed=0, **limits):
    """(actions, rows): NumPy arrays; obs [T + 1, B], all else [T, B]."""
    begin, env_step = autoreset(jax_env, num_envs, **limits)
    env, first = jax.jit(begin)(jax.random.key(key))
    actions = np.random.default_rng(action_seed).integers(0, jax_env.num_actions, (ticks, num_envs), dtype=np.int32)
    _, (obs, *rows) = jax.lax.scan(env_step, env, jnp.asarray(actions))
    return actions, np.concatenate([first[None], obs]), *map(np.asarray, rows)


def random_mdp(seed=0, num_states=4, num_actions=2, successors=3):
    rng = np.random.default_rng(seed)
    shape = num_states, num_actions, successors
    probability = rng.dirichlet(np.ones(successors), shape[:2])
    probability[0, 0] = [0.5, 0, 0.5]  # the middle one pads
    probability[1, 1] = [1, 0, 0]
    return MDP(
        next_state=jnp.asarray(rng.integers(0, num_states, shape), jnp.int32),
        probability=jnp.asarray(probability, float),
        reward=jnp.asarray(np.arange(np.prod(shape)).reshape(shape), float),  # tells the successors apart
        ends=jnp.asarray(rng.random(shape) < 0.3),
        start=jnp.asarray([0.2, 0, 0.5, 0.3], float),
    )
