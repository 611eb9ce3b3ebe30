"""Gymnasium vector envs as the loop sees them: NEXT_STEP autoreset, device arrays, a seed for every episode."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from jaxql.envs.observations import adapt_observations
from jaxql.envs.seeding import ActionLog, check_seed, episode_seed
from jaxql.errors import UserError
from jaxql.mesh import from_mesh, global_spec, to_mesh
from jaxql.types import EnvSpec


class Episode(NamedTuple):
    """A finished game: life losses do not end it, and its score is raw."""

    env_index: int
    return_: float  # undiscounted sum of raw rewards
    length: int  # steps of the agent


@jax.jit
def _on_device(obs, reward, flags):
    return obs, reward, flags[0], flags[1], flags[2]


class HostEnv:
    """B envs of a `gymnasium.vector.VectorEnv` in NEXT_STEP mode.

    At the tick on which an env resets itself it is seeded anew by `episode_seed(seed, purpose, env, episode)`, so
    that what it shows is a function of that seed and of the actions. Actions are checked before they are sent, rewards
    and observations before they are handed on. Arrays are copies on the device: nothing aliases an emulator's memory.

    Args:
      env: the vector env; make it with `jaxql.envs.make`.
      id: its name in messages.
      seed, purpose: see `episode_seed`. A sequence of S seeds splits the envs into S groups in order, each as it
        would be alone with its seed: `reset` and `step` then deal in arrays [S, B / S, ...], and `spec` is that of one
        group; all else still numbers the envs 0..B-1.
      first_env: number of the first env, where several processes hold parts of one batch of envs.
      mesh: its devices share the envs of all processes, of which these are this one's part: arrays are global, `step`
        reads the actions of its own envs, `spec` is of all of them, and `first_env` follows from the mesh.
      notes: lines for the person who runs this, such as a version that was replaced.

    Attributes:
      spec: `jaxql.types.EnvSpec`; actions are 0..A-1 int32, whatever the start of the env's Discrete space.

    Raises:
      UserError: one line, if the env's action or observation space or its autoreset mode is not supported, or the
        envs cannot be split evenly among the seeds or among this process's devices of the mesh.
    """

    stack = 1
    state = ()  # what `step` takes first: the envs are elsewhere

    def __init__(
        self,
        env: VectorEnv,
        id: str,
        *,
        seed: int | Sequence[int] = 0,
        purpose: str = "train",
        first_env: int = 0,
        mesh: jax.sharding.Mesh | None = None,
        notes=(),
    ):
        self.id, self.notes, self._mesh = id, list(notes), mesh
        groups = isinstance(seed, Sequence) and not isinstance(seed, str)
        self._seeds = [check_seed(each) for each in (seed if groups else [seed])]
        if groups and mesh is not None:
            raise UserError(f"{id}: many seeds cannot share a mesh; give one seed, or no mesh")
        if not self._seeds or env.num_envs % len(self._seeds):
            raise UserError(f"{id}: {env.num_envs} envs cannot be split evenly among {len(self._seeds)} seeds")
        self._num_envs, a_group = env.num_envs, env.num_envs // len(self._seeds)
        self._shape = (len(self._seeds), a_group) if groups else (a_group,)  # of the envs, as the agent sees them
        self._purpose, self._first_env = purpose, first_env
        episode_seed(self._seeds[0], purpose, 0, 0)  # refuses an unknown purpose
        check_mode(env, id)
        self._env, self._convert, obs, num_states = adapt_observations(env, id)
        actions = env.single_action_space
        if not isinstance(actions, spaces.Discrete):
            raise UserError(f"{id}: its action space is {actions}, and Q-learning needs a Discrete one")
        obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((a_group, *x.shape[1:]), x.dtype), obs)
        self.spec = EnvSpec(
            obs=obs, num_actions=int(actions.n), num_envs=a_group, num_states=num_states, stack=self.stack
        )
        if mesh is not None:
            if env.num_envs % len(mesh.local_devices):
                raise UserError(f"{id}: {len(mesh.local_devices)} devices cannot share {env.num_envs} envs equally")
            self.spec, self._first_env = global_spec(self.spec, mesh)
        self._action_start, self._action_dtype = actions.start, actions.dtype
        self._reward_dtype = jnp.result_type(float)
        self._episode = np.full(env.num_envs, -1)  # the number of each env's current episode
        self._over = np.zeros(env.num_envs, bool)  # envs that reset themselves at the next tick
        self._returns, self._lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        self._log, self._finished, self._ticks = ActionLog(env.num_envs), [], 0

    # ------------------------------------------------------------------------------------------------ the loop's side
    def reset(self):
        """Begins every env's next episode and returns the observations [B, ...]."""
        return self._hand_over(self._begin(np.ones(self._num_envs, bool)))

    def step(self, env, action):
        """One tick: `env` is a token, always (); action [B]; see `jaxql.types.Step` for what comes back."""
        if self._mesh is not None:
            return (), to_mesh(self.tick(from_mesh(action)), self._mesh)
        if len(self._shape) == 1:
            obs, reward, *flags = self.tick(action)
            return (), _on_device(obs, reward, np.stack(flags))
        obs, reward, *flags = self.tick(np.asarray(action).reshape(-1))
        return (), _on_device(*jax.tree.map(self._grouped, (obs, reward)), np.stack([self._grouped(x) for x in flags]))

    def tick(self, action, idle=None):
        """One tick in NumPy: (next_obs, reward, terminated, truncated, valid).

        Envs in `idle` [B] play on unwatched: their next episode needs no seed of ours, which is what resetting costs.
        """
        if self._episode[0] < 0:
            raise UserError(f"{self.id}: call reset() before step()")
        action, resets = self._checked_action(action), self._over
        obs, reward, terminated, truncated, life_lost = self._play(action)
        self._ticks += 1
        self._log.append(action)
        due = resets if idle is None else resets & ~idle
        if due.any():  # they have just reset themselves, from a seed of their own: once more, from ours
            obs = self._begin(due)
        over = (terminated | truncated) & ~resets
        reward = np.where(resets, 0, reward)
        self._count(reward, ~resets, over)
        flags = over & terminated | life_lost & ~resets, over & truncated, ~resets
        return self._checked_obs(obs), self._checked_reward(reward), *flags

    def take_episodes(self) -> list[Episode]:
        """The episodes that finished since the last call, in order."""
        finished, self._finished = self._finished, []
        return finished

    @property
    def mdp(self):
        """The env as a `jaxql.types.MDP` if it is a table (`env.unwrapped.P`), else None."""
        envs = getattr(self._env.unwrapped, "envs", None)
        if not envs or not hasattr(envs[0].unwrapped, "P"):
            return None
        from jaxql.planning import from_gymnasium

        return from_gymnasium(envs[0])

    def render(self) -> list[np.ndarray]:
        """One RGB frame [H, W, 3] uint8 an env; the env must have been made with render=True."""
        if getattr(self._env, "render_mode", None) != "rgb_array":
            raise UserError(f"{self.id}: there are no frames to show; make it with render=True")
        return [np.array(frame) for frame in self._env.render()]

    def close(self) -> None:
        """Releases the env; closing twice is harmless."""
        if not getattr(self._env, "closed", False):
            self._env.close()

    # --------------------------------------------------------------------------------------------------------- resume
    def position(self) -> dict[str, np.ndarray]:
        """Where every env is: {"episode": [B], "ticks": [B], "actions": [T, B]}, enough for `restore`."""
        ticks, actions = self._log.current()
        return {"episode": self._episode.copy(), "ticks": ticks, "actions": actions}

    def restore(self, position):
        """Plays the current episodes of `position` again, from their seeds, and returns the observations [B, ...].

        Exact at any tick, for an env's row is a function of its seed and its actions. Episodes that had finished are
        not reported again.
        """
        episode, ticks, actions = (np.asarray(position[name]) for name in ("episode", "ticks", "actions"))
        self._episode = episode - 1
        obs = self.reset()
        for t, action in enumerate(actions):
            self._begin_again(episode, ticks == len(actions) - t)  # the others wait, playing what nobody will see
            _, (obs, *_) = self.step((), action)
        waited = self._begin_again(episode, ticks == 0)
        self._finished = []
        return obs if waited is None else self._hand_over(waited)

    def _begin_again(self, episode, mask):
        if not mask.any():
            return None
        self._episode[mask] = episode[mask] - 1
        return self._begin(mask)

    def _grouped(self, x):
        return x.reshape(*self._shape, *x.shape[1:])

    def _hand_over(self, raw_obs):
        """Observations as the agent sees them: in groups of many seeds, of all envs if there is a mesh."""
        obs = self._checked_obs(raw_obs)
        if self._mesh is not None:
            return to_mesh(obs, self._mesh)
        return jax.tree.map(lambda x: jnp.asarray(self._grouped(x)), obs)

    # ------------------------------------------------------------------------------------------------ the env's side
    def _play(self, action):
        """Steps the env: (raw obs, reward, terminated, truncated, life_lost), NumPy arrays [B]."""
        obs, reward, terminated, truncated, _ = self._env.step(action.astype(self._action_dtype) + self._action_start)
        return obs, reward, terminated, truncated, np.zeros_like(terminated)

    def _reset_envs(self, mask, seeds):
        """Resets the envs in mask [B], seeds [sum(mask)], and returns the raw observations of all."""
        if mask.all():
            return self._env.reset(seed=seeds)[0]
        everyones = iter(seeds)
        return self._env.reset(
            seed=[next(everyones) if m else None for m in mask], options={"reset_mask": mask.copy()}
        )[0]

    def _begin(self, mask):
        """Begins the next episode of the envs in mask [B]; returns the raw observations of all."""
        self._episode[mask] += 1
        self._over = self._over & ~mask
        self._returns[mask], self._lengths[mask] = 0, 0
        self._log.begin(mask)
        return self._reset_envs(mask, [self._seed_of(int(env_index)) for env_index in np.flatnonzero(mask)])

    def _seed_of(self, env_index):
        """The seed of an env's current episode."""
        group, place = divmod(env_index, self._shape[-1])
        return episode_seed(self._seeds[group], self._purpose, self._first_env + place, int(self._episode[env_index]))

    def _count(self, reward, valid, over):
        self._returns += reward
        self._lengths += valid
        self._over = over
        for env_index in np.flatnonzero(over):
            self._finished.append(
                Episode(int(env_index), float(self._returns[env_index]), int(self._lengths[env_index]))
            )

    # ------------------------------------------------------------------------------------------------------ the checks
    def _checked_action(self, action):
        action, size, num_envs = np.asarray(action), self.spec.num_actions, self._num_envs
        if action.shape != (num_envs,) or action.dtype.kind not in "iu":
            raise UserError(
                f"{self.id}: actions are {num_envs} integers, one an env, not {action.dtype} of shape {action.shape}"
            )
        outside = (action < 0) | (action >= size)
        if outside.any():
            env_index = int(np.argmax(outside))
            raise UserError(f"{self.id}: action {action[env_index]} of env {env_index} is not one of 0..{size - 1}")
        return action.astype(np.int32)

    def _checked_reward(self, reward):
        if not np.isfinite(reward).all():
            self._refuse("reward", reward)
        return reward.astype(self._reward_dtype)

    def _checked_obs(self, obs):
        obs = self._convert(obs)
        for name, x in obs.items() if isinstance(obs, dict) else [("observation", obs)]:
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                self._refuse(name, x)
            if name == "action_mask" and not x.any(axis=1).all():
                env_index = int(np.argmin(x.any(axis=1)))
                raise UserError(f"{self.id}: at tick {self._ticks} the action_mask of env {env_index} allows no action")
        return obs

    def _refuse(self, name, x):
        bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
        env_index = int(np.argmax(bad))
        raise UserError(
            f"{self.id}: at tick {self._ticks} the {name} of env {env_index} is {x[env_index]}, which is not finite"
        )


def check_mode(env, id: str) -> None:
    """Refuses, in one line, a vector env that does not reset its envs at the step after their end."""
    mode = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
        raise UserError(
            f"{id}: its autoreset mode is {getattr(mode, 'name', mode)}; "
            "make it with autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP"
        )
