"""`jaxql inspect`: the pictures and videos of what an agent has learned, and one line for whatever is wrong."""

import gymnasium
import numpy as np
import pytest
from test_exact import chain, compared

import jaxql
from jaxql import cli
from jaxql.envs.jax import from_mdp
from jaxql.lab import exact, inspection, pictures
from jaxql.lab.runs import open_run

SMALL = dict(quiet=True, steps=400, eval_every=400, eval_episodes=2, stop_when_solved=False)
DEEP = SMALL | dict(env="CartPole-v1", warmup_steps=50, hidden=(8,), num_envs=4, rollout_length=1, eval_every=10_000)


@pytest.fixture(autouse=True)
def plotting():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return jaxql.train("q-learning", env="FrozenLake-v1", out=tmp_path_factory.mktemp("runs") / "lake", **SMALL).folder


@pytest.fixture(scope="module")
def pole(tmp_path_factory):
    return jaxql.train("c51", out=tmp_path_factory.mktemp("runs") / "pole", **DEEP).folder


def test_visits_are_expected_counts():
    comparison, _ = compared("q-learning", from_mdp(chain()), discount=0.5)
    visits = pictures.expected_visits(comparison, np.array([[0.25, 0.75], [1.0, 0.0]]))
    assert visits == pytest.approx([1, 0.75])


@pytest.mark.parametrize(("name", "moves"), [("FrozenLake-v1", 4), ("CliffWalking-v1", 4), ("Taxi-v4", 4)])
def test_moves_are_those_of_the_env(name, moves):
    """Each arrow points to the cell into which the env moves, from a cell where nothing is in the way."""
    options = {"is_slippery": False} if name == "FrozenLake-v1" else {}
    env = gymnasium.make(name, **options).unwrapped
    grid = pictures.grid_of(env)
    assert len(grid.moves) == moves
    cells = list(grid.panels.values())[1 if name == "Taxi-v4" else 0]
    row, column = 2, 2
    for action, (x, y) in grid.moves.items():
        if name == "CliffWalking-v1" and y == 1:
            continue  # below is the cliff
        assert env.P[cells[row, column]][action][0][1] == cells[row + y, column + x]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_table_is_drawn_as_a_grid(lake, tmp_path, capsys, suffix):
    picture = tmp_path / f"a{suffix}"
    assert cli.main(["inspect", str(lake), "--out", str(picture)]) == 0
    assert capsys.readouterr().out == f"{picture}: the states of q-learning on FrozenLake-v1, seed 0\n"
    assert picture.stat().st_size > 5_000


def test_the_picture_shows_the_numbers_of_the_run(lake):
    run = open_run(lake)
    states = pictures.states_of(run)
    reached = np.isfinite(states.q_values).all(axis=-1)
    assert reached.sum() == 11, "holes and goal are no states to act in"
    np.testing.assert_allclose(states.q_values[reached], np.asarray(run.best_params()["q_values"])[reached])
    titles = [panel.get_title() for panel in pictures.draw_states(states, "lake").axes]
    assert titles[:3] == ["value max Q, greedy actions", "visits an episode", "max |Q - Q*|"]
    assert np.nanmax(states.errors) == pytest.approx(run.metrics["q_error"][~np.isnan(run.metrics["q_error"])][-1])


@pytest.mark.slow
def test_states_without_a_grid_are_a_table(tmp_path):
    run = jaxql.train("q-learning", env="jax:catch", out=tmp_path / "run", **SMALL)
    figure = pictures.draw_run(run)
    assert figure.axes[0].get_images()[0].get_array().shape[0] == 3


@pytest.mark.slow
def test_a_video_shows_values_and_distributions(pole, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", str(pole), "--max-steps", "3"]) == 0
    assert capsys.readouterr().out == "pole.mp4: action values along an episode of 3 steps\n"
    assert [path.name for path in tmp_path.iterdir()] == ["pole.mp4"]


@pytest.mark.often("quantile")
@pytest.mark.parametrize("head", ["categorical", "quantile", "implicit-quantile", "full-quantile"])
def test_distributions_have_the_means_that_the_agent_maximises(head, tmp_path):
    run = jaxql.train("dqn", head=head, num_atoms=8, out=tmp_path / "run", **DEEP | dict(steps=100))
    params, obs = run.best_params(), np.zeros((2, 4), np.float32)
    returns, probabilities = inspection.return_distribution(run)(params, obs)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose((returns * probabilities).sum(-1), run.agent.q_values(params, obs, ())[0], rtol=1e-4)


@pytest.mark.slow
def test_other_heads_have_no_distribution(tmp_path):
    run = jaxql.train("dqn", out=tmp_path / "run", **DEEP | dict(steps=100))
    assert inspection.return_distribution(run) is None


@pytest.mark.parametrize(("argv", "message"), [
    ([], "RUN is missing"),
    (["nowhere"], "nowhere is not the folder of a run"),
    (["RUN", "--out", "a.jpg"], "a name ends in .png, .svg, .pdf, .mp4 or .gif"),
    (["RUN", "--out", "no/a.png"], "there is no folder no"),
    (["RUN", "--out", "a.png"], "CartPole-v1 has no table of states to draw"),
    (["RUN", "--max-steps", "0"], "max_steps is 0"),
    (["RUN", "--outt", "a.png"], 'did you mean "--out"'),
])  # fmt: skip
def test_bad_input_is_one_line(pole, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", *(str(pole) if word == "RUN" else word for word in argv)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())


def test_measures_have_names_for_people():
    assert set(pictures.NAMES) == set(exact.MEASURES)
