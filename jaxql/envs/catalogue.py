"""The envs by name: those that can be made here, and what the others lack."""

import contextlib
import importlib
import importlib.util
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import gymnasium
import jax
from gymnasium.envs.registration import find_highest_version

from jaxql import envs
from jaxql.envs.jax.named import NAMES
from jaxql.errors import UserError

CONTINUOUS = re.compile(r".*\.mujoco\.|.*pendulum|.*continuous|.*bipedal_walker|.*car_racing", re.IGNORECASE)
EXTRAS = {"gymnax": "gymnax:NAME", "minatar": "MinAtar/NAME-v1"}  # packages of envs: how their envs are named
TESTS = "Gym"  # ids of Gymnasium's envs that test old interfaces begin so


class EnvInfo(NamedTuple):
    """Facts about an env that a name stands for."""

    id: str
    kind: str  # "Gymnasium", "JAX", "gymnax", "MinAtar" or "Atari"
    obs: str  # dtype and shape of an observation, "N states" of a table; "" where the env was not made
    num_actions: int | None  # None where the env was not made
    lacks: str  # why it cannot be made here, with what to install; "" if it can


def names() -> list[tuple[str, str]]:
    """Returns (id, kind) of every env that can be asked for by its name, without making any."""
    known = [(id, "Gymnasium") for id in _gymnasium_ids()] + [(id, "JAX") for id in NAMES]
    known += [(id, "gymnax") for id in _gymnax_ids()] + [(id, "MinAtar") for id in _minatar_ids()]
    return known + [(id, "Atari") for id in atari_ids()]


def describe(id: str, kind: str) -> EnvInfo | None:
    """Makes one env, closes it and returns what it shows; None if it has no discrete actions.

    Atari games are not made: all of them show the same.

    >>> describe("CartPole-v1", "Gymnasium")
    EnvInfo(id='CartPole-v1', kind='Gymnasium', obs='float32[4]', num_actions=2, lacks='')
    """
    if kind == "Atari":
        return EnvInfo(id, kind, "uint8[84, 84, 4]", None, "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = envs.make(id, 1)
    except UserError as error:
        text = str(error).removeprefix(f"{id}: ").removeprefix(f"{id} ")
        return None if "action space" in text else EnvInfo(id, kind, "", None, text)
    with contextlib.closing(env):
        spec = env.spec
        leaves = [f"{x.dtype}{list(x.shape[1:])}" for x in jax.tree.leaves(spec.obs)]
        obs = f"{spec.num_states} states" if spec.num_states else ", ".join(leaves)
        return EnvInfo(id, kind, obs, spec.num_actions, "")


def missing() -> list[str]:
    """Returns a line for every package of envs that is not installed."""
    return [
        f'{form}: pip install "jaxql[{package}]"'
        for package, form in EXTRAS.items()
        if importlib.util.find_spec(package) is None
    ]


def atari_ids() -> list[str]:
    """Returns the ids NAMENoFrameskip-v4 and ALE/NAME-v5 of the Atari games, in order of their names."""
    from jaxql.envs import atari

    return sorted(id for id in atari.games() if id.endswith("NoFrameskip-v4") or id.startswith("ALE/"))


def _gymnasium_ids() -> Iterator[str]:
    """Yields the newest version of each Gymnasium env that may have discrete actions."""
    for spec in list(gymnasium.registry.values()):
        entry, newest = str(spec.entry_point), find_highest_version(spec.namespace, spec.name)
        apart = spec.namespace in ("ALE", "MinAtar") or "ale_py" in entry or spec.id.startswith(TESTS)
        if not apart and spec.version in (None, newest) and not CONTINUOUS.match(f"{entry} {spec.id}"):
            yield spec.id


def _gymnax_ids() -> list[str]:
    if importlib.util.find_spec("gymnax") is None:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [f"gymnax:{name}" for name in importlib.import_module("gymnax").registered_envs]
    except Exception:  # an installed package that cannot be imported
        return []


def _minatar_ids() -> list[str]:
    with contextlib.suppress(UserError):
        envs.identify("MinAtar/Breakout-v1")  # registers them
    return [id for id in gymnasium.registry if id.startswith("MinAtar/") and id.endswith("-v1")]
