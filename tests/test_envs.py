"""`make` refuses what cannot be run, in one line; `identify` names what it runs."""

import ast
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from toy_envs import Diary, Shows

from jaxql import envs
from jaxql.envs import make
from jaxql.errors import UserError

BOX = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("env", "options", "words"),
    [
        ("Pendulum-v1", {}, "action space is Box.*Discrete"),
        (lambda: Shows(BOX, spaces.MultiDiscrete([200, 200])), {}, "40000 joint actions"),
        (lambda: Shows(spaces.Sequence(BOX)), {}, "not supported"),
        (lambda: Shows(spaces.Graph(BOX, None)), {}, "not supported"),
        ("CartPol-v1", {}, 'did you mean "CartPole-v1"'),
        ("CartPole-v9", {}, 'did you mean "CartPole-v1"'),
        ("not an id", {}, "Malformed"),
        ("no_such_module:Env-v0", {}, "No module named"),
        ("FrozenLake-v1", {"env_args": {"slipery": 1}}, "cannot be made with.*slipery"),
        ("CartPole-v1", {"life_loss": True}, "Atari games only"),
        ("CartPole-v1", {"noop_max": 3}, "Atari games only"),
        ("CartPole-v1", {"seed": -1}, "0 or greater"),
        ("CartPole-v1", {"purpose": "fun"}, "train, eval"),
        (Diary, {"env_args": {"x": 1}}, "env_args"),
        (Diary, {"render": True}, "rgb_array"),
        (3, {}, "it is an id"),
    ],
)
@pytest.mark.trust(13)
def test_what_cannot_be_run_is_refused_in_one_line(env, options, words):
    with pytest.raises(UserError, match=words) as error:
        make(env, 2, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("env", "id"),
    [
        ("PongNoFrameskip-v4", "PongNoFrameskip-v4"),
        ("FrozenLake-v0", "FrozenLake-v1"),
        ("jax:catch", "jax:catch"),
        (envs.catch(), "env"),
        (Diary, "Diary"),
        (lambda: gymnasium.make("CartPole-v1"), "CartPole-v1"),
        (SyncVectorEnv([Diary]), "Diary"),
    ],
)
def test_identify_names_what_is_run(env, id):
    found, notes = envs.identify(env)
    assert found == id and bool(notes) == (env == "FrozenLake-v0")


def test_every_public_name_exists_and_type_checkers_see_the_same():
    tree = ast.parse(Path(envs.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    assert {alias.asname for node in guarded.body for alias in node.names} == set(envs._HOME_OF)
    for name in envs.__all__:
        assert getattr(envs, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        envs.nothing  # noqa: B018


def test_jax_envs_load_neither_gymnasium_nor_ale():
    program = (
        "import sys; from jaxql import envs; envs.DeviceEnv, envs.catch\n"
        "assert not {'gymnasium', 'ale_py', 'flax'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
