"""Envs as users bring them: each is played as its author meant it, or refused in one line that says what to do."""

import functools
import json
import subprocess
import sys
import textwrap

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image
from toy_envs import Diary, Masked, Mission, Toy

import jaxql
from jaxql import envs
from jaxql.envs import make
from jaxql.envs.jax import JaxEnv
from jaxql.errors import UserError
from jaxql.lab.environments import EnvMaker
from jaxql.lab.runs import open_run
from jaxql.lab.trust import modules_of
from jaxql.lab.video import write_video
from jaxql.networks import default_network, make_network

pytestmark = pytest.mark.cases
QUIET = dict(quiet=True, steps=60, log_every=30, eval_every=30, eval_episodes=2)
SMALL = dict(QUIET, warmup_steps=20, capacity=100, batch_size=4, hidden=(8,))


def one_line(error, *words):
    """Whether an error is one line that holds these words."""
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text
    return True


def lake(**options):
    return gymnasium.make("FrozenLake-v1", **options)


class Halved(gymnasium.RewardWrapper, gymnasium.utils.RecordConstructorArgs):
    """Rewards times a factor; a wrapper that records its arguments."""

    def __init__(self, env, factor):
        gymnasium.utils.RecordConstructorArgs.__init__(self, factor=factor)
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return reward * self.factor


class Unrecorded(gymnasium.RewardWrapper):
    """Rewards times 7; a wrapper that records nothing."""

    def reward(self, reward):
        return 7 * reward


# ------------------------------------------------------------------------------------------- what is made again
@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: env,
        lambda env: gymnasium.wrappers.TimeLimit(env, 7),
        lambda env: gymnasium.wrappers.TransformObservation(
            gymnasium.wrappers.TimeLimit(env, 7), lambda obs: obs, None
        ),
        functools.partial(Halved, factor=0.5),
        Unrecorded,
    ],
)
def test_e1_a_run_is_opened_with_its_own_env_or_refused(wrap, tmp_path):
    """An oracle of the env's rule: what is opened plays the same episodes as what was trained, else opening fails."""
    trained = jaxql.train("q-learning", lambda: wrap(lake(is_slippery=False)), out=tmp_path / "r", **QUIET)
    record = json.loads((tmp_path / "r" / "config.json").read_text())["config"]
    if record["env_spec"] == "passed in":
        with pytest.raises(UserError, match="came from Python") as error:
            open_run(tmp_path / "r")
        assert one_line(error)
        return
    again = open_run(tmp_path / "r")
    actions = np.random.default_rng(0).integers(0, 4, (40, 1))
    played = []
    for run in (trained, again):
        env = run.make_env(1, seed=3, purpose="evaluate")
        env.reset()
        played.append([jax.tree.map(np.asarray, env.tick(action)) for action in actions])
    jax.tree.map(np.testing.assert_array_equal, *played)
    assert record["env_spec"]["kwargs"]["is_slippery"] is False


def test_e1_what_was_changed_after_it_was_made_is_not_recorded():
    def changed():
        env = lake(is_slippery=False)
        for outcomes in env.unwrapped.P.values():
            for action in outcomes:
                outcomes[action] = [(1.0, 5, 0.0, True)]
        return env

    assert EnvMaker(changed, {}).spec == "passed in"
    assert EnvMaker(lambda: lake(is_slippery=False), {}).spec["kwargs"] == {"map_name": "4x4", "is_slippery": False}
    assert EnvMaker(Diary, {}).spec == "passed in"
    assert EnvMaker("FrozenLake-v1", {"is_slippery": False}).spec is None


def test_e1_the_modules_of_a_record_are_named_before_they_are_imported():
    spec = {"entry_point": "mine.envs:Grid", "additional_wrappers": [{"entry_point": "yours:Wrapper"}]}
    assert modules_of({"env": "Grid-v0", "env_spec": spec}) == ["mine.envs", "yours"]
    assert modules_of({"env": "highway_env:highway-v0", "env_spec": None}) == ["highway_env"]
    for id in ("CartPole-v1", "jax:catch", "ALE/Pong-v5"):
        assert modules_of({"env": id, "env_spec": None}) == []


def test_e2_a_wrapped_vector_env_is_refused_at_the_start(tmp_path):
    vector = SyncVectorEnv([lake] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    wrapped = gymnasium.wrappers.vector.TransformReward(vector, lambda reward: reward - 1)
    with pytest.raises(UserError, match="TransformReward") as error:
        jaxql.train("q-learning", wrapped, out=tmp_path / "r", **QUIET)
    assert one_line(error, "each single env") and not (tmp_path / "r").exists()


def test_e2_a_vector_env_is_tested_in_the_wrappers_of_its_single_envs(tmp_path):
    vector = SyncVectorEnv([lambda: Unrecorded(Toy())] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    run = jaxql.train("dqn", vector, out=tmp_path / "r", **SMALL)
    assert run.evaluate(episodes=2).returns.tolist() == [35, 35]  # five steps of reward 7


@pytest.mark.parametrize("num_envs", [1, 2])
def test_e3_a_function_that_returns_one_env_again_is_refused(num_envs, tmp_path):
    only = Toy()
    for function in (lambda: only, lambda: gymnasium.wrappers.TimeLimit(only, 10)):
        with pytest.raises(UserError, match="again") as error:
            jaxql.train("dqn", function, out=tmp_path / "r", num_envs=num_envs, **SMALL)
        assert one_line(error) and not (tmp_path / "r").exists()


# ------------------------------------------------------------------------------------------------- observations
@pytest.mark.parametrize(
    ("shape", "dtype", "high", "becomes"),
    [
        ((4, 84, 84), np.uint8, 255, (84, 84, 4)),
        ((84, 84, 4), np.uint8, 255, (84, 84, 4)),
        ((3, 210, 160), np.uint8, 255, (210, 160, 3)),
        ((4, 128, 64), np.uint8, 255, (128, 64, 4)),
        ((84, 84), np.uint8, 255, (84, 84, 1)),
        ((84, 84, 3), np.float32, 1, (84, 84, 3)),
        ((3, 84, 84), np.float64, 255, (84, 84, 3)),
        ((4, 64, 64, 3), np.uint8, 255, (64, 64, 12)),
        ((17, 8, 8), np.float32, 1, (8, 8, 17)),
        ((3, 84, 84), np.int64, 255, (84, 84, 3)),
    ],
)
def test_e4_images_reach_a_convolution_with_channels_last(shape, dtype, high, becomes):
    rng = np.random.default_rng(0)
    frame = rng.integers(0, high + 1, shape).astype(dtype) if high == 255 else rng.random(shape).astype(dtype)
    env = make(lambda: Toy(space=spaces.Box(0, high, shape, dtype), obs=frame), 2)
    seen = np.asarray(env.reset())[0]
    assert seen.shape == becomes and env.spec.obs.dtype == seen.dtype == (
        np.uint8 if high == 255 and seen.dtype == np.uint8 else jnp.result_type(float)
    )
    if shape[-1] != becomes[-1]:
        assert env.notes and str(list(becomes)) in env.notes[0]
    expected = np.stack([frame[i, ..., c] for i, c in np.ndindex(shape[0], 3)], -1) if len(shape) == 4 else frame
    if len(shape) == 3 and shape != becomes:
        expected = np.stack(list(frame), axis=-1)
    scale = 255 if seen.dtype != np.uint8 and high == 255 else 1
    np.testing.assert_allclose(seen.reshape(-1), expected.reshape(-1) / scale, rtol=1e-6)
    assert default_network(env.spec) != "mlp"
    network = make_network(default_network(env.spec), env.spec)
    params = jax.eval_shape(network.init, jax.random.key(0), env.spec.obs)
    assert params["params"]["Conv_0"]["kernel"].shape[2] == becomes[-1]


def test_e4_the_axis_of_the_channels_can_be_said():
    cube = spaces.Box(0, 255, (16, 16, 16), np.uint8)
    show = np.arange(16**3, dtype=np.uint8).reshape(16, 16, 16)
    first, last = (
        np.asarray(make(lambda: Toy(space=cube, obs=show), 1, channels=c).reset())[0] for c in ("first", "last")
    )
    np.testing.assert_array_equal(first, np.moveaxis(show, 0, -1))
    np.testing.assert_array_equal(last, show)
    with pytest.raises(UserError, match="channels='first' is for images"):
        make(Toy, 1, channels="first")
    with pytest.raises(UserError, match="one of auto, first, last"):
        make(Toy, 1, channels="middle")


def test_e4_bytes_are_scaled_in_every_network():
    env = make(lambda: Toy(space=spaces.Box(0, 255, (128,), np.uint8), obs=np.full(128, 255, np.uint8)), 1)
    network = make_network("mlp", env.spec)
    obs = env.reset()
    params = network.init(jax.random.key(0), obs)
    np.testing.assert_allclose(network.apply(params, obs)[0], network.apply(params, np.ones((1, 128), np.float32))[0])


@pytest.mark.parametrize("stack_num", [1, 2])
@pytest.mark.parametrize("grayscale", [False, True])
def test_e4_stacks_of_any_atari_frames_reach_a_convolution(stack_num, grayscale):
    env = make("PongNoFrameskip-v4", 1, stack_num=stack_num, grayscale=grayscale)
    network = make_network(default_network(env.spec), env.spec)
    params = jax.eval_shape(network.init, jax.random.key(0), env.spec.obs)
    assert params["params"]["Conv_0"]["kernel"].shape[2] == stack_num * (1 if grayscale else 3)
    env.close()


@pytest.mark.parametrize(
    ("space", "obs", "words"),
    [
        (spaces.Box(-(2**62), 2**62, (2,), np.int64), np.array([0, 2**31]), "2147483648"),
        (spaces.Box(0, 2**63, (2,), np.uint64), np.array([0, 2**33], np.uint64), "8589934592"),
        (spaces.Discrete(5), 7, "7"),
        (spaces.Discrete(5, start=3), 2, "2"),
        (spaces.Discrete(5), 1.5, "1.5"),
        (spaces.MultiDiscrete([3, 4]), np.array([0, 4]), "outside"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0, 300]), "300"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0, -1]), "-1"),
        (spaces.Box(0, 255, (2,), np.uint8), np.array([0.0, 0.5]), "0.5"),
        (spaces.Box(0, 9, (2,), np.int32), np.array([0.0, np.nan]), "nan"),
    ],
)
def test_e5_numbers_that_do_not_fit_are_refused(space, obs, words):
    start = space.start if isinstance(space, spaces.Discrete) else np.zeros(2, space.dtype)
    env = make(lambda: Toy(space=space, obs=start, step=lambda _: (obs, 0.0, False, False, {})), 2)
    env.reset()
    for _ in range(2):
        env.tick([0, 0])
    with pytest.raises(UserError, match="at tick 3 the observation of env 0") as error:
        env.tick([0, 0])
    assert one_line(error, words)


@pytest.mark.parametrize(
    ("shown", "name"), [("observation", "observation"), ("observation", "observations"), ("info", ""), ("method", "")]
)
@pytest.mark.trust(12)
def test_e7_masks_are_found_wherever_they_are(shown, name, tmp_path):
    made = []

    def function():
        made.append(Masked(shown, name))
        return made[-1]

    env = make(function, 2)
    obs = env.reset()
    assert obs["action_mask"].tolist() == [[False, True, True]] * 2 and obs["observation"].tolist() == [[1, 1]] * 2
    run = jaxql.train("dqn", function, out=tmp_path / "r", **SMALL)
    assert run.evaluate(2).returns.tolist() == [5, 5]
    taken = [action for each in made for action in each.taken]
    assert len(taken) > 60 and 0 not in taken[4:]


def test_e7_an_end_may_have_no_legal_action():
    over = ({"observation": np.ones(2, np.float32), "action_mask": np.zeros(3, np.int8)}, 1.0, True, False, {})

    def function():
        env = Masked("observation")
        env.replaced["step"] = over
        return env

    env = make(function, 1)
    env.reset()
    assert [bool(env.tick([1]).terminated[0]) for _ in range(4)] == [False, False, True, False]


def test_e7_masks_of_parts_allow_the_joint_actions_of_legal_parts():
    space = spaces.Dict(observation=spaces.Box(0, 1, (1,)), action_mask=spaces.MultiBinary(5))
    shown = {"observation": np.zeros(1, np.float32), "action_mask": np.array([1, 0, 1, 1, 0], np.int8)}
    env = make(lambda: Toy(space=space, actions=spaces.MultiDiscrete([2, 3]), obs=shown), 1)
    assert env.reset()["action_mask"].tolist() == [[True, True, False, False, False, False]]


def test_e7_a_table_leaves_the_masks_of_taxi_out_and_says_so():
    table, network = make("Taxi-v4", 1, table=True), make("Taxi-v4", 1, table=False)
    assert table.reset().shape == (1,) and "left out" in table.notes[0]
    assert network.reset()["action_mask"].shape == (1, 6) and network.spec.num_states == 500


# ------------------------------------------------------------------------------------------------ ids and ends
PACKAGE = """
import gymnasium, numpy as np
from gymnasium import spaces

class Walk(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space, action_space = spaces.Discrete(4), spaces.Discrete(2)
    def __init__(self, render_mode=None):
        self.render_mode = render_mode
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return 0, {}
    def step(self, action):
        self.place = int(np.clip(self.place + 2 * action - 1, 0, 3))
        return self.place, float(self.place == 3), self.place == 3, False, {}
    def render(self):
        return np.full((8, 8, 4), 60 * self.place, np.uint8)

gymnasium.register("Walk-v0", "walk_package:Walk", max_episode_steps=9)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose import registers an env, beside the working folder."""
    (tmp_path / "walk_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "walk_package:Walk-v0"
    sys.modules.pop("walk_package", None)
    gymnasium.registry.pop("Walk-v0", None)


def test_e8_an_id_with_its_module_trains_opens_and_records(package, tmp_path):
    assert envs.identify(package) == (package, [])
    jaxql.train("q-learning", package, out=tmp_path / "r", **QUIET)
    sys.modules.pop("walk_package", None)
    gymnasium.registry.pop("Walk-v0", None)
    record = json.loads((tmp_path / "r" / "config.json").read_text())["config"]
    assert modules_of(record) == ["walk_package"] and "walk_package" not in sys.modules
    run = open_run(tmp_path / "r")
    assert len(run.evaluate(3).returns) == 3
    assert run.record(tmp_path / "a.gif")["frames"] >= 4


def test_e9_a_video_of_an_endless_episode_is_cut_and_says_so(tmp_path, capsys):
    from jaxql.cli import main

    jaxql.train("q-learning", "CliffWalking-v1", out=tmp_path / "r", **(QUIET | dict(eval_from=1e9)))
    told = open_run(tmp_path / "r").record(tmp_path / "a.gif", max_steps=30)
    assert (told["capped"], told["episodes"], told["step_cap"]) == (1, 1, 30) and told["frames"] == 31
    assert main(["record", str(tmp_path / "r"), "--out", str(tmp_path / "b.gif"), "--max-steps", "20"]) == 0
    assert "1 cut after 20 steps" in capsys.readouterr().out


def test_e9_the_cap_of_an_env_without_a_limit_is_low():
    assert make("CliffWalking-v1", 1).step_limit is None
    assert make("FrozenLake-v1", 1).step_limit == 100


@pytest.mark.parametrize("wrapped", [False, True])
def test_e10_infos_may_hold_anything(wrapped):
    infos = [{"a": np.zeros(2), "b": None}, {"a": np.zeros(3), "b": 1}, {"a": "text", "b": {"c": [1, 2]}}]
    functions = [lambda info=info: Toy(info=info) for info in infos]
    vector = SyncVectorEnv(functions, autoreset_mode=AutoresetMode.NEXT_STEP)
    env = make(gymnasium.wrappers.vector.RecordEpisodeStatistics(vector) if wrapped else vector, 3)
    env.reset()
    assert [env.tick([0, 1, 0]).reward.tolist() for _ in range(4)] == [[1, 1, 1]] * 4


def test_e11_what_cannot_be_evaluated_is_known_at_the_start(tmp_path):
    class Single(Toy):
        alive = 0

        def __init__(self):
            if Single.alive:
                raise RuntimeError("the port is in use")
            Single.alive += 1
            super().__init__()

        def close(self):
            Single.alive -= 1

    spec = gymnasium.make_vec("CartPole-v1", 1, vectorization_mode="vector_entry_point")
    for env, words in [(Single, "the port is in use"), (spec, "CartPole-v1")]:
        with pytest.raises(UserError, match=words) as error:
            jaxql.train("dqn", env, out=tmp_path / "r", **SMALL, **({"num_envs": 1} if env is Single else {}))
        assert one_line(error, "evaluation") and not (tmp_path / "r").exists()
    reshaped = gymnasium.wrappers.vector.FlattenObservation(SyncVectorEnv([lambda: Toy()]))
    with pytest.raises(UserError, match="FlattenObservation"):
        jaxql.train("dqn", reshaped, out=tmp_path / "r", **SMALL)


@pytest.mark.slow
def test_e11_an_async_vector_env_is_tested_in_envs_made_the_same_way(tmp_path):
    vector = gymnasium.make_vec(
        "CartPole-v1", 2, "async", {"autoreset_mode": AutoresetMode.NEXT_STEP, "context": "spawn"}
    )
    run = jaxql.train("dqn", vector, out=tmp_path / "r", **SMALL)
    vector.close()
    assert run.evaluate(2).returns.min() > 0


@pytest.mark.parametrize("model", [3.0, np.ones((4, 2, 4)), {}, {0: "text"}, {0: {0: [(1.0, 0, 0.0, True)]}}])
def test_e12_an_attribute_p_that_is_no_model_is_no_error(model, tmp_path):
    def function():
        env = Toy(space=spaces.Discrete(4), obs=0)
        env.P = model
        return env

    assert make(function, 1).mdp is None
    jaxql.train("q-learning", function, out=tmp_path / "r", **QUIET)


def test_e12_a_model_beneath_other_rewards_is_not_theirs():
    assert make(lake, 1).mdp is not None
    assert make(lambda: Halved(lake(), 0.5), 1).mdp is None


# ---------------------------------------------------------------------------------------------- faults of envs
ZEROS = np.zeros(2, np.float32)


def quitting(*_):
    raise SystemExit(3)


def raising(_):
    raise ZeroDivisionError("dust\nin the works")


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ((ZEROS, 1.0, False, {}), "step of env 1 returned a tuple of 4 values of Gym before 0.26"),
        (None, "step of env 1 returned NoneType"),
        ((ZEROS, 1.0, False, False, None), "info of env 1 is NoneType; it must be a dict"),
        ((ZEROS, [1.0], False, False, {}), "reward of env 1 is [1.0] (a list of 1 values); it must be one number"),
        ((ZEROS, np.array([1.0, 2.0]), False, False, {}), "reward of env 1 is [1.0, 2.0]"),
        ((ZEROS, "1", False, False, {}), "reward of env 1 is 1 (str)"),
        ((ZEROS, None, False, False, {}), "reward of env 1"),
        ((ZEROS, 1.0, "no", False, {}), "terminated of env 1"),
        ((ZEROS, 1.0, False, {}, {}), "truncated of env 1"),
        (
            (np.zeros(3, np.float32), 1.0, False, False, {}),
            "observation of env 1 has shape [3], and its space says [2]",
        ),
        ((np.zeros((1, 2)), 1.0, False, False, {}), "observation of env 1 has shape [1, 2]"),
        (([0.0, [1.0, 2.0]], 1.0, False, False, {}), "observation of env 1 is [0.0, [1.0, 2.0]], which is no array"),
        ((None, 1.0, False, False, {}), "observation of env 1"),
        (("ab", 1.0, False, False, {}), "observation of env 1"),
        (({"x": 1}, 1.0, False, False, {}), "observation of env 1"),
        (raising, "step of env 1 raised ZeroDivisionError: dust"),
        (quitting, "step of env 1 raised SystemExit: 3"),
    ],
)
@pytest.mark.trust(14)
def test_e14_a_faulty_step_is_one_line_with_env_tick_and_field(step, words):
    functions = [Toy, lambda: Toy(step=step)]
    env = make(SyncVectorEnv(functions, autoreset_mode=AutoresetMode.NEXT_STEP), 2)
    env.reset()
    for _ in range(2):
        env.tick([0, 0])
    with pytest.raises(UserError) as error:
        env.tick([0, 0])
    assert one_line(error, "Toy: at tick 3 the ", words)
    assert isinstance(error.value.__cause__, ZeroDivisionError) == (step is raising)


class Seedless(Toy):
    def reset(self):
        return super().reset()


class Optionless(Toy):
    def reset(self, seed=None):
        return super().reset(seed=seed)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: Toy(reset=ZEROS), "reset of env 0 returned ndarray of shape [2]; return (observation, info)"),
        (lambda: Toy(reset=(ZEROS, None)), "info of env 0 is NoneType"),
        (Seedless, "write reset(self, *, seed=None, options=None)"),
        (Optionless, "write reset(self, *, seed=None, options=None)"),
        (lambda: 3, "returned int; it must return a new gymnasium.Env"),
        (lambda: SyncVectorEnv([Toy]), "returned SyncVectorEnv"),
        (lambda x: Toy(), "raised: TypeError"),
        (lambda: Toy(space=None), "observation_space is None"),
    ],
)
def test_e14_a_faulty_start_is_one_line(function, words):
    with pytest.raises(UserError) as error:
        make(function, 1).reset()
    assert one_line(error, words)


def test_e14_an_env_that_quits_when_it_is_closed_ends_nothing():
    env = gymnasium.make("CartPole-v1").unwrapped
    env.close = quitting
    made = envs.make(lambda: env, 1)
    made.reset()
    made.close()


def test_e14_a_list_of_numbers_is_an_observation():
    env = make(lambda: Toy(step=([0.5, 1.0], 1, np.bool_(False), 0, {})), 1)
    env.reset()
    assert np.asarray([env.tick([0]).next_obs for _ in range(3)][-1]).tolist() == [[0.5, 1.0]]


def test_e14_the_envs_own_exception_is_shown_beneath_the_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "broken_package.py").write_text(
        PACKAGE.replace("self.place = int(", "self.place = self.gone + int(")
        .replace("Walk-v0", "Broken-v0")
        .replace("walk_", "broken_")
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    from jaxql.cli import main

    assert main(["train", "q-learning", "--env", "broken_package:Broken-v0", "--steps", "50"]) == 2
    shown = capsys.readouterr().err.strip()
    assert "broken_package:Broken-v0: at tick 1 the step of env 0 raised AttributeError" in shown
    assert 'broken_package.py"' in shown and shown.endswith("'gone'")
    assert "jaxql/" not in shown.split("Traceback")[1]
    gymnasium.registry.pop("Broken-v0", None)


@pytest.mark.parametrize("value", [1e300, -1e300, 10**400, np.float64(1e39), np.nan, np.longdouble(1e300)])
@pytest.mark.parametrize("field", ["reward", "observation"])
@pytest.mark.trust(14)
def test_e21_what_a_cast_makes_infinite_is_refused_at_the_door(field, value):
    if jax.config.values["jax_enable_x64"] and value != 10**400 and np.isfinite(np.float64(value)):
        pytest.skip("it fits")
    space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    number = np.inf if isinstance(value, int) else float(value)
    obs = np.zeros(2) if field == "reward" else np.array([0, number])
    step = (obs, value if field == "reward" else 0.0, False, False, {})
    functions = [lambda: Toy(space=space, obs=np.zeros(2)), lambda: Toy(space=space, obs=np.zeros(2), step=step)]
    env = make(SyncVectorEnv(functions, autoreset_mode=AutoresetMode.NEXT_STEP), 2)
    env.reset()
    env.tick([0, 0]), env.tick([0, 0])
    with pytest.raises(UserError, match=f"Toy: at tick 3 the {field} of env 1 is .*not finite") as error:
        env.tick([0, 0])
    assert one_line(error)


def poisoned(field):
    """Counts its steps; from the fifth on a field is not what it should be."""

    def step(key, state, action, /):
        wrong = state == 4
        reward = jnp.where(wrong & (field == "reward"), jnp.nan, 1.0)
        return state + 1, reward, jnp.bool_(False)

    def observe(state, /):
        if field == "state":
            return jnp.where(state == 5, 99, jnp.minimum(state, 3))
        return jnp.where((state == 5) & (field == "observation"), jnp.inf, 1.0)[None]

    states = 4 if field == "state" else None
    return JaxEnv(lambda key, /: jnp.int32(0), step, 2, states, 1_000, observe)


@pytest.mark.parametrize("field", ["reward", "observation", "state"])
@pytest.mark.trust(14)
def test_e21_compiled_rounds_stop_within_a_chunk(field, tmp_path):
    agent, name = ("q-learning", "observation") if field == "state" else ("dqn", field)
    settings = (QUIET if field == "state" else SMALL) | dict(num_envs=3, steps=300, log_every=60)
    words = f"env: at tick 5 the {name} of env 0 is not"
    with pytest.raises(UserError, match=words) as error:
        jaxql.train(agent, poisoned(field), out=tmp_path / "r", **settings)
    assert one_line(error)
    env = make(poisoned(field), 2)
    env.reset()
    with pytest.raises(UserError, match="at tick 5"):
        for _ in range(6):
            env.tick([0, 0])
    assert jaxql.train("dqn", poisoned("nothing"), out=tmp_path / "s", **SMALL).env_steps >= 60


@pytest.mark.trust(14)
def test_e21_a_reward_that_overflows_ends_a_run_on_the_host(tmp_path):
    function = lambda: Toy(step=(ZEROS, 1e300, False, False, {}))  # noqa: E731
    if jax.config.values["jax_enable_x64"]:
        function = lambda: Toy(step=(ZEROS, np.inf, False, False, {}))  # noqa: E731
    with pytest.raises(UserError, match="the reward of env 0 is"):
        jaxql.train("dqn", function, out=tmp_path / "r", **SMALL)


# ---------------------------------------------------------------------------------------------------- spaces
GRID = spaces.Dict(
    image=spaces.Box(0, 255, (7, 7, 3), np.uint8), direction=spaces.Discrete(4), mission=Mission(), goal=spaces.Text(9)
)
SHOWN = {"image": np.full((7, 7, 3), 5, np.uint8), "direction": 2, "mission": "go", "goal": "north"}


@pytest.mark.parametrize(
    ("keys", "shape"),
    [((), (7, 7, 3)), (("image",), (7, 7, 3)), (("direction",), ()), (("direction", "image"), (151,))],
)
@pytest.mark.trust(13)
def test_e22_parts_of_a_dict_are_chosen(keys, shape):
    env = make(lambda: Toy(space=GRID, obs=SHOWN), 2, obs_keys=keys)
    obs = np.asarray(env.reset())
    assert obs.shape == (2, *shape) and env.spec.num_states == (4 if keys == ("direction",) else None)
    assert any("mission (Mission)" in note and "--obs-key" in note for note in env.notes)
    if len(keys) == 2:
        np.testing.assert_allclose(obs[0], [0, 0, 1, 0] + [5 / 255] * 147, rtol=1e-6)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("imagge",), 'did you mean "image"'),
        (("mission",), "is not made of numbers; the parts are"),
        ("image", "sequence"),
    ],
)
def test_e22_parts_that_cannot_be_chosen_are_named(keys, words):
    with pytest.raises(UserError) as error:
        make(lambda: Toy(space=GRID, obs=SHOWN), 1, obs_keys=keys)
    assert one_line(error, words)
    with pytest.raises(UserError, match="choose parts"):
        make(Toy, 1, obs_keys=("image",))


def test_e22_nested_parts_are_chosen_with_dots():
    space = spaces.Dict(a=spaces.Dict(b=spaces.Box(0, 9, (2,)), c=spaces.Tuple([spaces.Discrete(2), spaces.Text(3)])))
    shown = {"a": {"b": np.array([3.0, 4.0], np.float32), "c": (1, "x")}}
    for keys, expected in [(("a.b",), [3, 4]), (("a",), [3, 4, 0, 1]), (("a.c.0", "a.b"), [0, 1, 3, 4])]:
        env = make(lambda: Toy(space=space, obs=shown), 1, obs_keys=keys)
        assert np.asarray(env.reset()).tolist() == [expected]


def test_e22_too_many_numbers_side_by_side_are_refused():
    space = spaces.Dict(a=spaces.Box(0, 255, (240, 320, 3), np.uint8), b=spaces.Box(0, 255, (240, 320, 3), np.uint8))
    with pytest.raises(UserError, match="460800 numbers .*--obs-key"):
        make(lambda: Toy(space=space, obs=space.sample()), 1)


@pytest.mark.parametrize(
    ("space", "states", "shown", "index"),
    [
        (
            spaces.Tuple([spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2)]),
            704,
            (3, 2, 1),
            3 * 22 + 2 * 2 + 1,
        ),
        (spaces.MultiDiscrete([3, 4], start=[1, 0]), 12, np.array([3, 1]), 9),
        (spaces.MultiBinary(3), 8, np.array([1, 0, 1]), 5),
        (spaces.Box(-1, 2, (2,), np.int64), 16, np.array([2, 0]), 13),
        (spaces.Dict(a=spaces.Discrete(2, start=5), b=spaces.Discrete(3)), 6, {"a": 6, "b": 2}, 5),
    ],
)
def test_e22_finite_parts_are_states_of_a_table(space, states, shown, index, tmp_path):
    env = make(lambda: Toy(space=space, obs=shown), 1, table=True)
    assert env.spec.num_states == states and env.reset().tolist() == [index]
    jaxql.train("q-learning", lambda: Toy(space=space, obs=shown), out=tmp_path / "r", **QUIET)


def test_e22_blackjack_is_a_table_and_opens_again(tmp_path):
    jaxql.train("q-learning", "Blackjack-v1", out=tmp_path / "r", **QUIET)
    assert open_run(tmp_path / "r").best_params()["q_values"].shape == (704, 2)


@pytest.mark.parametrize(
    ("space", "count", "fifth"),
    [
        (spaces.MultiDiscrete([2, 3], start=[0, 7]), 6, [1, 8]),
        (spaces.MultiBinary(3), 8, [1, 0, 0]),
        (spaces.Tuple([spaces.Discrete(2, start=4), spaces.Discrete(3)]), 6, (5, 1)),
        (spaces.Dict(a=spaces.Discrete(3), b=spaces.MultiBinary(1)), 6, {"a": 2, "b": [0]}),
    ],
)
def test_e22_actions_of_several_parts_are_numbered_and_counted(space, count, fifth):
    made = []
    env = make(lambda: made.append(Toy(actions=space)) or made[-1], 1)
    assert env.spec.num_actions == count and f"{count} joint actions" in " ".join(env.notes)
    env.reset()
    env.tick([4])
    action = made[0].taken[0]
    assert space.contains(action)
    assert jax.tree.map(lambda x: np.asarray(x).tolist(), action) == jax.tree.map(lambda x: x, fifth)
    seen = {str(env._env.envs[0]._plan.actions.convert(i)) for i in range(count)}
    assert len(seen) == count


@pytest.mark.parametrize(
    ("id", "arguments", "shape"),
    [
        ("ALE/Pong-v5", {"obs_type": "ram"}, (128,)),
        ("PongNoFrameskip-v4", {"obs_type": "ram"}, (128,)),
        ("ALE/Breakout-v5", {"mode": 4, "difficulty": 1}, (210, 160, 4)),
        ("PongDeterministic-v4", {}, (4, 84, 84)),
        ("ale_py:ALE/Pong-v5", {}, (4, 84, 84)),
    ],
)
def test_e22_every_form_of_an_atari_game_plays(id, arguments, shape):
    env = make(id, 2, env_args=arguments, seed=1)
    first = np.asarray(env.reset())
    assert first.shape == (2, *shape) and first.dtype == np.uint8
    rows = [env.tick([2, 3]) for _ in range(20)]
    assert (np.asarray(rows[-1].next_obs) != first).any() and default_network(env.spec) == (
        "mlp" if shape == (128,) else "nature-cnn"
    )
    env.close()


def test_e22_settings_that_do_not_go_together_are_named():
    for arguments, words in [({"obs_type": "raam"}, "ram, grayscale or rgb"), ({"mode": 0, "noop_max": 3}, "noop_max")]:
        with pytest.raises(UserError, match=words):
            make("ALE/Pong-v5", 1, env_args=arguments)


# ---------------------------------------------------------------------------------------------------- frames
@pytest.mark.parametrize(
    ("frame", "pixel"),
    [
        (np.full((8, 8, 4), [10, 20, 30, 128], np.uint8), [10, 20, 30]),
        (np.full((8, 8, 3), [0.0, 0.2, 1.0], np.float32), [0, 51, 255]),
        (np.full((8, 8, 3), [0.0, 51.0, 255.0]), [0, 51, 255]),
        (np.full((8, 8), 77, np.uint8), [77] * 3),
        (np.full((8, 8, 1), 77, np.int64), [77] * 3),
        (np.ones((8, 8), bool), [255] * 3),
        ([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)], [9] * 3),
        (np.full((8, 8, 3), 9, np.uint8).tolist(), [9] * 3),
    ],
)
def test_e23_frames_of_every_kind_are_recorded(frame, pixel, tmp_path):
    class Draws(Toy):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
        render_mode = "rgb_array"

        def render(self):
            return frame

    env = make(Draws, 1, render=True)
    env.reset()
    (shown,) = env.render()
    assert shown.shape == (8, 8, 3) and shown.dtype == np.uint8 and shown[0, 0].tolist() == pixel
    assert env.render_fps == 4 and write_video(tmp_path / "a.gif", [shown] * 2) == 2


@pytest.mark.parametrize("frame", [None, "text", np.zeros((8, 8, 2)), np.zeros(3), []])
def test_e23_what_is_no_frame_is_one_line(frame):
    class Draws(Toy):
        metadata = {"render_modes": ["rgb_array"]}
        render_mode = "rgb_array"

        def render(self):
            return frame

    env = make(Draws, 1, render=True)
    env.reset()
    with pytest.raises(UserError, match="render|frame") as error:
        jaxql.lab.video.record(env, lambda p, o, m, k, e: (np.zeros(1, int), m), 0, "a.gif", key=jax.random.key(0))
    assert one_line(error)


def test_e23_an_env_without_frames_is_one_line_and_its_own_speed_is_kept(tmp_path):
    with pytest.raises(UserError, match="draws no frames"):
        make(Toy, 1, render=True)
    run = jaxql.train("q-learning", "FrozenLake-v1", out=tmp_path / "r", **QUIET)
    assert run.make_env(1, seed=0, purpose="record", render=True).render_fps == 4
    wrapped = jaxql.train("q-learning", lambda: lake(is_slippery=False), out=tmp_path / "s", **QUIET)
    told, spent = wrapped.record(tmp_path / "a.gif", max_steps=9), 0
    with Image.open(tmp_path / "a.gif") as image:
        for i in range(image.n_frames):
            image.seek(i)
            spent += image.info["duration"]
    assert spent == 250 * told["frames"]


# ------------------------------------------------------------------------------------------------ evaluation and rest
def test_e26_many_episodes_are_played_in_turns_with_the_same_seeds(tmp_path, monkeypatch):
    from jaxql.lab import evaluation

    run = jaxql.train("q-learning", "FrozenLake-v1", out=tmp_path / "r", **QUIET)
    alive = []
    plain = run.make_env.__call__

    class Counting(EnvMaker):
        def __call__(self, num_envs, **options):
            alive.append(num_envs)
            return plain(num_envs, **options)

    run.make_env = Counting("FrozenLake-v1", {}, run.make_env.options)
    params = {"q_values": jnp.tile(jnp.array([0.0, 1.0, 3.0, 2.0]), (16, 1))}  # without ties
    options = dict(episodes=25, seed=4)
    whole = evaluation.evaluate_in_turns(run.agent, params, run.make_env, turn=25, **options)
    turns = evaluation.evaluate_in_turns(run.agent, params, run.make_env, turn=10, **options)
    assert alive == [25, 10, 10, 5]
    for x, y in zip(whole, turns, strict=True):
        np.testing.assert_array_equal(x, y)
    del alive[:]
    assert len(run.evaluate(250).returns) == 250 and max(alive) <= 100


def test_e27_an_id_without_its_module_gets_the_packages_prefix_or_no_guess(monkeypatch, tmp_path):
    folder = tmp_path / "bird_gym"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('never imported')  # register(id='FlapBird-v0')")
    info = tmp_path / "bird_gym-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bird-gym\nVersion: 1\nRequires-Dist: gymnasium>=1\n")
    (info / "RECORD").write_text("bird_gym/__init__.py,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match='did you mean "bird_gym:FlapBird-v0"'):
        envs.identify("FlapBird-v0")
    with pytest.raises(UserError, match=r"there is no such env$"):
        envs.identify("FlappyTwoBirds-v0")
    with pytest.raises(UserError, match='did you mean "CartPole-v1"'):
        envs.identify("Cartpole-v7")


def test_e29_the_extra_of_gymnax_names_what_gymnax_forgets():
    from importlib.metadata import requires

    assert any(line.startswith("six") and "gymnax" in line for line in requires("jaxql") or ())


@pytest.mark.parametrize("hang", ["time.sleep(1000)", "exec('while True: pass')"])
@pytest.mark.trust(23)
def test_e36_an_env_that_hangs_ends_the_process(hang):
    program = f"""
    import sys, time, gymnasium
    sys.path.insert(0, "tests")
    from toy_envs import Toy
    from jaxql.envs import make
    env = make(lambda: Toy(step=lambda _: {hang}), 1, watchdog_seconds=1)
    env.reset()
    for _ in range(3):
        env.tick([0])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 70 and "Toy has not answered for 1 s" in done.stderr and "in step" in done.stderr


# ----------------------------------------------------------------------------------------------- third-party packages
@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "id", "options"),
    [
        ("minigrid", "MiniGrid-Empty-5x5-v0", {"obs_keys": ("image",)}),
        ("minigrid", "BabyAI-GoToRedBall-v0", {}),
        ("highway_env", "highway-fast-v0", {}),
        ("flappy_bird_gymnasium", "FlappyBird-v0", {}),
        ("gymnasium_2048", "gymnasium_2048/TwentyFortyEight-v0", {}),
        ("gym_anytrading", "stocks-v0", {}),
        ("gym_simplegrid", "SimpleGrid-8x8-v0", {}),
        ("minatar", "MinAtar/Breakout-v1", {}),
        ("vizdoom.gymnasium_wrapper", "VizdoomBasic-v1", {}),
    ],
)
def test_e8_third_party_envs_train_open_evaluate_and_record(module, id, options, tmp_path):
    pytest.importorskip(module)
    name = id if module == "minatar" else f"{module}:{id}"
    settings = SMALL | dict(steps=40, eval_every=40, eval_episodes=1)
    jaxql.train("dqn", name, out=tmp_path / "r", **settings, **options)
    run = open_run(tmp_path / "r")
    assert len(run.evaluate(1).returns) == 1
    assert run.record(tmp_path / "a.gif", max_steps=20)["frames"] > 1
