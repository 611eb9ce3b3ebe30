"""Gymnasium vector envs for the training loop: NEXT_STEP autoreset, device arrays, a seed for every episode."""

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from jaxql.envs.adapter import AdaptedEnv, Fault
from jaxql.envs.seeding import EpisodeActions, check_purpose, episode_seed, split_among_seeds
from jaxql.envs.watchdog import Watchdog
from jaxql.errors import EnvError, UserError
from jaxql.mesh import global_spec, global_to_local, local_to_global
from jaxql.types import MDP, Array, EnvSpec, Episode, StepResult

T = TypeVar("T")
UNCHANGING = (  # wrappers under which the model of an env stays true
    AdaptedEnv,
    gymnasium.wrappers.OrderEnforcing,
    gymnasium.wrappers.PassiveEnvChecker,
    gymnasium.wrappers.RecordEpisodeStatistics,
    gymnasium.wrappers.TimeLimit,
)


class EnvCheckpoint(NamedTuple):
    """The current episodes of B envs: enough to play them again."""

    episode: np.ndarray  # [B] index of each env's episode
    length: np.ndarray  # [B] its steps so far
    actions: np.ndarray  # [T, B], T the greatest length; column b ends with the actions of env b's episode


class HostEnv:
    """B envs of a `gymnasium.vector.VectorEnv` in NEXT_STEP mode.

    Each episode has the seed `episode_seed(seed, purpose, env, episode)`, given at the step on which the env resets
    itself. A row is thus a function of that seed and of the episode's actions. Actions are checked before the env gets
    them, rewards and observations before the agent gets them. Arrays are copies, which share no memory with the env.

    Args:
      env: the vector env, its spaces adapted; make it with `jaxql.envs.make`.
      id: its name in messages.
      seed: of the run. A sequence of S seeds gives each, in order, B / S envs, as they would be alone with that seed.
        `reset` and `step` then use arrays [S, B / S, ...], and `spec` describes the envs of one seed.
      purpose: see `episode_seed`.
      first_env: index of the first env, if several processes hold parts of one batch of envs.
      mesh: its devices share the envs of all processes; these are the envs of this process. Arrays are then global,
        `step` reads the actions of its own envs, `spec` describes all envs, and `first_env` follows from the mesh.
      notes: lines for the person who runs this, such as a version that was replaced.
      watchdog_seconds: the process ends if a reset or a step of all envs takes longer.

    Attributes:
      spec: `jaxql.types.EnvSpec`. Actions are 0..A-1 int32, whatever the start of the env's Discrete space.

    Raises:
      UserError: one line, if the action space, the observation space or the autoreset mode is not supported, or if the
        seeds or this process's devices of the mesh cannot share the envs evenly.
    """

    stack = 1
    state = ()  # an emulator keeps its own state

    def __init__(
        self,
        env: VectorEnv,
        id: str,
        *,
        seed: int | Sequence[int] = 0,
        purpose: str = "train",
        first_env: int = 0,
        mesh: jax.sharding.Mesh | None = None,
        notes: Sequence[str] = (),
        watchdog_seconds: float = 300.0,
    ) -> None:
        self.id, self.notes, self._mesh = id, list(notes), mesh
        self._purpose, self._first_env, self._num_envs = purpose, first_env, env.num_envs
        self._seeds, self._batch_shape = split_among_seeds(seed, env.num_envs, id)
        if mesh is not None and len(self._batch_shape) == 2:
            raise UserError(f"{id}: many seeds cannot share a mesh; give one seed, or no mesh")
        check_purpose(purpose)
        check_autoreset_mode(env, id)
        self._env, self._space = env, env.single_observation_space
        actions = env.single_action_space
        if not isinstance(actions, spaces.Discrete) or actions.start:
            raise UserError(f"{id}: its action space is {actions}; make it with jaxql.envs.make, which adapts it")
        per_seed = self._batch_shape[-1]
        obs, num_states = _obs_spec(self._space, per_seed)
        self.spec = EnvSpec(obs, int(actions.n), per_seed, num_states=num_states, stack=self.stack)
        if mesh is not None:
            if env.num_envs % len(mesh.local_devices):
                raise UserError(f"{id}: {len(mesh.local_devices)} devices cannot share {env.num_envs} envs equally")
            self.spec, self._first_env = global_spec(self.spec, mesh)
        self._reward_dtype = jnp.result_type(float)
        self._episode = np.full(env.num_envs, -1)  # index of each env's current episode
        self._needs_reset = np.zeros(env.num_envs, bool)  # envs that reset themselves at the next step
        self._returns, self._lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        self._actions = EpisodeActions(env.num_envs)
        self._finished: list[Episode] = []
        self._ticks = 0
        self._watchdog = Watchdog(watchdog_seconds, id)
        weakref.finalize(self, self._watchdog.close)

    # ------------------------------------------------------------------------------------------- for the training loop
    def reset(self) -> Any:
        """Starts the next episode of every env and returns the observations [B, ...]."""
        return self._to_agent(self._start_episodes(np.ones(self._num_envs, bool)))

    def step(self, env_state: tuple[()], action: Any, /) -> tuple[tuple[()], StepResult[Array]]:
        """Steps every env: see `jaxql.types.Env.step`. `env_state` is always ()."""
        if self._mesh is not None:
            return (), local_to_global(self.tick(global_to_local(action)), self._mesh)
        if len(self._batch_shape) == 1:
            obs, reward, *flags = self.tick(action)
            return (), _to_device(obs, reward, np.stack(flags))
        obs, reward, *flags = self.tick(np.asarray(action).reshape(-1))
        obs, reward = jax.tree.map(self._split_by_seed, (obs, reward))
        return (), _to_device(obs, reward, np.stack([self._split_by_seed(flag) for flag in flags]))

    def tick(self, action: Any, idle: np.ndarray | None = None) -> StepResult[np.ndarray]:
        """Steps every env and returns NumPy arrays.

        Args:
          action: [B] integers.
          idle: [B] bool, envs whose results are ignored. Their next episode gets no seed, which saves a second reset.
        """
        if self._episode[0] < 0:
            raise UserError(f"{self.id}: call reset() before step()")
        action, resets = self._checked_action(action), self._needs_reset
        self._ticks += 1
        obs, reward, terminated, truncated, life_lost = self._guarded(self._step_env, action)
        self._actions.append(action)
        to_seed = resets if idle is None else resets & ~idle
        if to_seed.any():  # these envs have just reset themselves without our seed: reset them again, with it
            obs = self._start_episodes(to_seed)
        ends = (terminated | truncated) & ~resets
        reward = np.where(resets, 0, reward)
        self._add_to_episodes(reward, ~resets, ends)
        return StepResult(
            next_obs=self._checked_obs(obs),
            reward=self._checked_reward(reward),
            terminated=ends & terminated | life_lost & ~resets,
            truncated=ends & truncated,
            valid=~resets,
        )

    def take_episodes(self) -> list[Episode]:
        """Returns the episodes that finished since the last call, in order."""
        finished, self._finished = self._finished, []
        return finished

    @property
    def mdp(self) -> MDP | None:
        """The env as a `jaxql.types.MDP` if it is a table (`env.unwrapped.P`), else None.

        It is None too where a wrapper may have changed the rewards, or where P is no model of these states and actions.
        """
        if type(self._env) is not SyncVectorEnv or not hasattr(self._env.envs[0].unwrapped, "P"):
            return None
        env = self._env.envs[0]
        while isinstance(env, gymnasium.Wrapper):
            if type(env) not in UNCHANGING:
                return None
            env = env.env
        from jaxql.planning import from_gymnasium

        try:
            mdp = from_gymnasium(self._env.envs[0])
            if isinstance(self.spec.obs, dict):  # the agent is shown which actions are legal
                show: Any = env.unwrapped
                legal = [show.action_mask(state) for state in range(len(mdp.start))]
                mdp = mdp._replace(legal=jnp.asarray(np.array(legal, bool)))
        except Exception:  # P may be anything
            return None
        return mdp if mdp.next_state.shape[:2] == (self.spec.num_states, self.spec.num_actions) else None

    @property
    def single_envs(self) -> list[gymnasium.Env]:
        """The single envs without their wrappers, where they live in this process."""
        return [env.unwrapped for env in getattr(self._env.unwrapped, "envs", None) or () if hasattr(env, "unwrapped")]

    @property
    def render_fps(self) -> float | None:
        """Frames a second at which the env is meant to be shown, or None if it does not say."""
        fps = self._env.metadata.get("render_fps")
        return fps if isinstance(fps, int | float) and fps > 0 else None

    @property
    def step_limit(self) -> int | None:
        """Steps after which the env ends an episode, or None if it has no limit that is known."""
        envs = getattr(self._env.unwrapped, "envs", None)
        spec = envs[0].spec if envs else None
        return spec.max_episode_steps if spec else None

    def render(self) -> list[np.ndarray]:
        """Returns one RGB frame [H, W, 3] uint8 an env. Raises UserError unless the env was made with render=True."""
        if getattr(self._env, "render_mode", None) != "rgb_array":
            raise UserError(f"{self.id}: there are no frames to show; make it with render=True")
        try:
            frames: Any = self._env.render()
        except (Exception, SystemExit) as error:
            raise env_error(self.id, self._ticks, _failed("render()", error)) from error
        return [rgb_frame(frame, self.id) for frame in frames or ()]

    def close(self) -> None:
        """Releases the env. Closing twice is harmless, and an env that fails to close ends nothing."""
        self._watchdog.close()
        if not getattr(self._env, "closed", False):
            with contextlib.suppress(Exception, SystemExit):
                self._env.close()

    # ----------------------------------------------------------------------------------------------- for exact resume
    def checkpoint(self) -> EnvCheckpoint:
        """Returns the current episodes, for `restore`. They cannot be restored after a `tick` with `idle` envs."""
        length, actions = self._actions.current()
        return EnvCheckpoint(self._episode.copy(), length, actions)

    def restore(self, checkpoint: EnvCheckpoint) -> Any:
        """Plays the episodes of a checkpoint again, from their seeds, and returns the observations [B, ...].

        The envs must have the seed and purpose of those that were saved. They then go on exactly as those would have,
        for an env's row is a function of its seed and its actions. Episodes that had finished are not reported again.
        """
        episode, length, actions = map(np.asarray, checkpoint)
        self._episode = episode - 1
        obs = self.reset()
        for t, action in enumerate(actions):
            # Shorter episodes start later. Until then their envs take steps whose results are thrown away.
            self._restart_episodes(episode, length == len(actions) - t)
            _, (obs, *_) = self.step((), action)
        at_start = self._restart_episodes(episode, length == 0)
        self._finished = []
        return obs if at_start is None else self._to_agent(at_start)

    def skip_resets(self, count: int) -> None:
        """Leaves out the next `count` episodes of every env, as that many calls of `reset` would."""
        self._episode += count

    def _restart_episodes(self, episode: np.ndarray, mask: np.ndarray) -> Any:
        if not mask.any():
            return None
        self._episode[mask] = episode[mask] - 1
        return self._start_episodes(mask)

    def _split_by_seed(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*self._batch_shape, *x.shape[1:])

    def _to_agent(self, raw_obs: Any) -> Any:
        """Observations as the agent sees them: on the device, split by seed, or global on a mesh."""
        obs = self._checked_obs(raw_obs)
        if self._mesh is not None:
            return local_to_global(obs, self._mesh)
        return jax.tree.map(lambda x: jnp.asarray(self._split_by_seed(x)), obs)

    # -------------------------------------------------------------------------------------- the vector env's own calls
    def _guarded(self, call: Callable[..., T], *arguments: Any) -> T:
        """Returns `call(*arguments)` of the env, under the watchdog. Raises EnvError for whatever it raises."""
        try:
            with self._watchdog:
                return call(*arguments)
        except Fault as fault:
            raise env_error(self.id, self._ticks, fault) from fault.__cause__
        except (Exception, SystemExit) as error:
            raise env_error(self.id, self._ticks, _failed("step or reset", error)) from error

    def _step_env(self, action: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Steps the vector env: (raw obs, reward, terminated, truncated, life_lost), NumPy arrays [B]."""
        obs, reward, terminated, truncated, _ = self._env.step(action)
        return obs, reward, terminated, truncated, np.zeros_like(terminated)

    def _reset_env(self, mask: np.ndarray, seeds: list[int]) -> Any:
        """Resets the envs in mask [B] with seeds [sum(mask)]; returns the raw observations of all envs."""
        remaining = iter(seeds)
        seed: Any = [next(remaining) if each else None for each in mask]  # Gymnasium's annotation is of one seed only
        options = None if mask.all() else {"reset_mask": mask.copy()}
        return self._env.reset(seed=seed, options=options)[0]

    def _start_episodes(self, mask: np.ndarray) -> Any:
        """Starts the next episode of the envs in mask [B]; returns the raw observations of all envs."""
        self._episode[mask] += 1
        self._needs_reset = self._needs_reset & ~mask
        self._returns[mask], self._lengths[mask] = 0, 0
        self._actions.start_episodes(mask)
        return self._guarded(self._reset_env, mask, [self._seed_of(int(i)) for i in np.flatnonzero(mask)])

    def _seed_of(self, env_index: int) -> int:
        """The seed of an env's current episode."""
        seed_index, place = divmod(env_index, self._batch_shape[-1])
        episode = int(self._episode[env_index])
        return episode_seed(self._seeds[seed_index], self._purpose, self._first_env + place, episode)

    def _add_to_episodes(self, reward: np.ndarray, valid: np.ndarray, ends: np.ndarray) -> None:
        self._returns += reward
        self._lengths += valid
        self._needs_reset = ends
        for i in np.flatnonzero(ends):
            self._finished.append(Episode(int(i), float(self._returns[i]), int(self._lengths[i])))

    # ---------------------------------------------------------------------------------------------------------- checks
    def _checked_action(self, action: Any) -> np.ndarray:
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

    def _checked_reward(self, reward: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # an overflow gives infinity, which is refused
            cast = reward.astype(self._reward_dtype)
        if not np.isfinite(cast).all():
            self._raise_not_finite("reward", reward, cast)
        return cast

    def _checked_obs(self, raw_obs: Any) -> Any:
        obs = _copied(self._space, raw_obs)
        for name, x in obs.items() if isinstance(obs, dict) else [("observation", obs)]:
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                self._raise_not_finite(name, x, x)
            if name == "action_mask" and not x.any(axis=1).all():
                env_index = int(np.argmin(x.any(axis=1)))
                raise UserError(f"{self.id}: at tick {self._ticks} the action_mask of env {env_index} allows no action")
        return obs

    def _raise_not_finite(self, name: str, x: np.ndarray, cast: np.ndarray) -> NoReturn:
        bad = ~np.isfinite(cast.reshape(len(cast), -1)).all(axis=1)
        env_index = int(np.argmax(bad))
        shown = np.array2string(np.asarray(x[env_index]), threshold=8, separator=" ").replace("\n", "")
        why = "is not finite" if not np.isfinite(x[env_index]).all() else f"is not finite as {cast.dtype}"
        raise EnvError(f"{self.id}: at tick {self._ticks} the {name} of env {env_index} is {shown}, which {why}")


@jax.jit
def _to_device(obs: Any, reward: Array, flags: Array) -> StepResult[Array]:
    """One transfer for all three flags [3, B]: terminated, truncated, valid."""
    return StepResult(obs, reward, flags[0], flags[1], flags[2])


def _obs_spec(space: Any, num_envs: int) -> tuple[Any, int | None]:
    """Returns (shapes [B, ...], number of states or None) of an adapted observation space."""
    if isinstance(space, spaces.Dict):
        obs, num_states = _obs_spec(space["observation"], num_envs)
        mask = jax.ShapeDtypeStruct((num_envs, space["action_mask"].n), bool)  # type: ignore[attr-defined]
        return {"observation": obs, "action_mask": mask}, num_states
    if isinstance(space, spaces.Discrete):
        return jax.ShapeDtypeStruct((num_envs,), jnp.int32), int(space.n)
    return jax.ShapeDtypeStruct((num_envs, *space.shape), space.dtype), None


def _copied(space: Any, raw: Any) -> Any:
    """Returns a batch of observations of an adapted space as arrays that share no memory with the env's."""
    if isinstance(space, spaces.Dict):
        mask = np.array(raw["action_mask"], dtype=bool)
        return {"observation": _copied(space["observation"], raw["observation"]), "action_mask": mask}
    return np.array(raw, dtype=np.int32 if isinstance(space, spaces.Discrete) else space.dtype)


def _failed(field: str, error: BaseException) -> Fault:
    """Returns the fault of a vector env that raised."""
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return Fault(None, field, f"raised {type(error).__name__}: {first_line}")


def env_error(id: str, tick: int, fault: Fault) -> EnvError:
    """Returns the error of one line that names the env, the tick, the field and the env's index."""
    whose = "the envs" if fault.env_index is None else f"env {fault.env_index}"
    return EnvError(f"{id}: at tick {tick} the {fault.field} of {whose} {fault.text}")


def rgb_frame(frame: Any, id: str) -> np.ndarray:
    """Returns a frame as uint8 [H, W, 3]: greys are repeated, alpha is dropped, floats up to 1 are scaled.

    Args:
      frame: [H, W], or [H, W, C] with C = 1, 3 or 4; a sequence of such frames gives the last.
      id: the env's name in messages.

    Raises:
      UserError: one line, for what is no frame.

    >>> rgb_frame(np.ones((2, 3, 4), np.float32), "env").tolist()[0][0]
    [255, 255, 255]
    """
    if isinstance(frame, list) and frame and isinstance(frame[-1], np.ndarray):
        frame = frame[-1]
    x = np.asarray(frame)
    if (
        x.dtype.kind not in "biuf"
        or x.ndim not in (2, 3)
        or x.ndim == 3
        and x.shape[2] not in (1, 3, 4)
        or 0 in x.shape
    ):
        what = "None" if frame is None else f"{type(frame).__name__} of {x.dtype}{list(x.shape)}"
        raise UserError(f"{id}: render() returned {what}; a frame is an array [height, width, 3], numbers")
    x = x[..., None] if x.ndim == 2 else x
    if x.dtype.kind in "bf":
        x = np.nan_to_num(x.astype(np.float64))
        x = np.rint(x * 255 if x.max() <= 1 else x)
    x = np.clip(x, 0, 255).astype(np.uint8)
    return np.array(np.repeat(x, 3, axis=2) if x.shape[2] == 1 else x[..., :3])


def check_autoreset_mode(env: VectorEnv, id: str) -> None:
    """Raises UserError unless the vector env resets each env at the step after its episode's end (NEXT_STEP)."""
    mode = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value):
        raise UserError(
            f"{id}: its autoreset mode is {getattr(mode, 'name', mode)}; "
            "make it with autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP"
        )
