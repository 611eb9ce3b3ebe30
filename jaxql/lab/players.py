"""Players: they play the rounds of a run in short parts, so that progress is shown and a signal is seen soon."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxql import loop
from jaxql.envs.jax import DeviceEnv
from jaxql.lab.environments import Env
from jaxql.mesh import shard_agent
from jaxql.types import Agent

Carry = tuple[Any, Any, Any]  # (state of the agent, state of the envs, observations)
Watch = Callable[[int], bool]  # told of so many vector steps, answers whether to stop
PART_SECONDS = 1.0  # that a part takes, about
LARGEST_PART = 2**22  # env steps of a compiled part at most: its memory is reserved


class Part(NamedTuple):
    """The result of one call of a player. The carry is whole at every vector step."""

    carry: Carry
    metrics: Any  # leaves [rounds, ...]; None without a round
    warmup: int  # vector steps without learning
    rounds: int  # finished ones


class Player(Protocol):
    """Plays up to `warmup` vector steps without learning and then up to `rounds` rounds: at least one step of them."""

    unfinished: int  # vector steps that were played of a round that was left; the next part plays the rest of it

    def __call__(self, carry: Carry, warmup: int, rounds: int) -> Part: ...


def make_player(
    env: Env,
    agent: Agent,
    *,
    rollout_length: int,
    most_warmup: int,
    most_rounds: int,
    batch: int,
    watch: Watch,
    mesh: Mesh | None = None,
    whole: bool = False,
) -> Player:
    """Returns the player of these envs: rounds with JAX envs are compiled whole, others are played step by step.

    Args:
      rollout_length: vector steps of a round.
      most_warmup, most_rounds: more are never asked for at once.
      batch: env steps of a vector step, of all seeds together.
      watch: called with the number of vector steps since the last call; a true answer ends the part. A round may be
        left unfinished then.
      mesh: that of the envs.
      whole: play all that is asked for, however long it takes and whatever `watch` answers.
    """
    if not isinstance(env, DeviceEnv):
        compiled = loop.jit_agent(agent) if mesh is None else shard_agent(agent, mesh)
        return HostPlayer(env, compiled, rollout_length, watch, whole)
    largest = max(1, LARGEST_PART // (batch * rollout_length))
    return CompiledPlayer(env, agent, rollout_length, most_warmup, min(most_rounds, largest), watch, whole)


class HostPlayer:
    """Plays step by step, with an agent whose functions are compiled."""

    def __init__(self, env: Env, agent: Agent, rollout_length: int, watch: Watch, whole: bool = False):
        self._train, self._length = functools.partial(loop.train, agent, env.step), rollout_length
        self._watch, self._seconds, self.unfinished = watch, math.inf if whole else PART_SECONDS, 0
        if whole:
            self._watch = functools.partial(_unheeded, watch)

    def __call__(self, carry: Carry, warmup: int, rounds: int) -> Part:
        scan = _PartialScan(self._watch, time.monotonic() + self._seconds)
        rest = self._length - self.unfinished
        rounds = 1 if self.unfinished else rounds
        carry, metrics = self._train(carry, warmup=warmup, rounds=rounds, rollout_length=rest, scan=scan)
        *warmed, played = scan.turns
        self.unfinished = scan.unfinished + (0 if played else self.unfinished)
        return Part(carry, metrics, sum(warmed), played)


class _Stopped(Exception):
    """Ends a round in its middle."""

    def __init__(self, carry: Carry):
        self.carry = carry


class _PartialScan:
    """`loop.host_scan` that may end early: when `watch` says so, and, between rounds, after a deadline.

    Attributes:
      turns: finished turns of every outermost call.
      unfinished: finished turns of the call within, in the turn that was left.
    """

    def __init__(self, watch: Watch, deadline: float):
        self._watch, self._deadline, self._depth = watch, deadline, 0
        self.turns: list[int] = []
        self.unfinished = 0

    def __call__(self, f: Callable, carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
        if self._depth:
            return self._nested(f, carry, xs, length)
        self.turns.append(0)
        ys = []
        for _ in range(length):
            if (any(self.turns) and time.monotonic() >= self._deadline) or self._watch(1):
                break
            self._depth += 1
            try:
                carry, y = f(carry, xs)
            except _Stopped as stopped:
                carry = stopped.carry
                break
            finally:
                self._depth -= 1
            ys.append(y)
            self.turns[-1] += 1
        return carry, jax.tree.map(lambda *y: np.stack(y), *jax.device_get(ys)) if ys else None

    def _nested(self, f: Callable, carry: Any, xs: Any, length: int) -> tuple[Any, None]:
        for done in range(length):
            if self._watch(1):
                self.unfinished = done
                raise _Stopped(carry)
            carry, _ = f(carry, xs)
        return carry, None


def _unheeded(watch: Watch, vector_steps: int) -> bool:
    """Calls `watch` and goes on, whatever it answers."""
    watch(vector_steps)
    return False


class CompiledPlayer:
    """Plays rounds with JAX envs as one compiled program; its parts grow and shrink with the time that they take."""

    def __init__(
        self,
        env: DeviceEnv,
        agent: Agent,
        rollout_length: int,
        most_warmup: int,
        most_rounds: int,
        watch: Watch,
        whole: bool = False,
    ):
        self._length, self._most_rounds, self._watch = rollout_length, most_rounds, watch
        self._most_warmup = min(most_warmup, most_rounds * rollout_length)
        counts = dict(max_warmup=self._most_warmup, max_rounds=most_rounds, rollout_length=rollout_length)
        self._play = env.compile_rounds(agent, **counts)
        self._largest = 2 * max(1, self._most_rounds * self._length)  # vector steps of a part
        self._whole, self._limit = whole, self._largest if whole else 16  # the limit is that of the next part
        self.unfinished = 0  # always: its rounds are whole

    def __call__(self, carry: Carry, warmup: int, rounds: int) -> Part:
        warmup = min(warmup, self._limit, self._most_warmup)
        rounds = 0 if warmup else max(1, min(rounds, self._limit // self._length, self._most_rounds))
        began = time.monotonic()
        carry, metrics = self._play(carry, warmup, rounds)
        seconds = time.monotonic() - began
        if seconds < PART_SECONDS / 2:
            self._limit = min(2 * self._limit, self._largest)
        elif seconds > 2 * PART_SECONDS and not self._whole:
            self._limit = max(1, self._limit // 2)
        self._watch(warmup + rounds * self._length)
        return Part(carry, metrics if rounds else None, warmup, rounds)
