"""The policies that come with jaxql, and policy files at play: as the runs that they are of."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import jaxql
from jaxql import cli
from jaxql.errors import UserError
from jaxql.lab.export import SHIPPED, export, is_policy, load_policy, pretrained
from jaxql.lab.files import read_config

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "pretrained"
LEAST = {"frozenlake": 0.7, "taxi": 7.5, "cartpole": 490.0, "minatar-breakout": 8.0, "pong": 17.0}  # over 100 episodes
SLOW = ("minatar-breakout", "pong")
SMALL = dict(
    steps=60, warmup_steps=20, num_envs=2, rollout_length=1, eval_every=1000, eval_episodes=1, quiet=True, hidden=(16,)
)


def test_some_come_with_jaxql_and_each_is_small():
    assert {"frozenlake", "taxi", "cartpole"} <= set(pretrained()) <= set(LEAST)
    assert all(path.stat().st_size < 4e6 for path in SHIPPED.iterdir())


@pytest.mark.parametrize("name", pretrained())
def test_the_data_of_its_run_is_kept(name):
    config = read_config(RESULTS / name)["config"]
    about = load_policy(f"pretrained:{name}").about
    assert about["settings"] == config["settings"] and about["env"] == config["env"]
    assert not any(word in str(config) for word in ("/tmp", "/root", "/home")), "no folder of one machine"
    assert (RESULTS / name / "metrics.csv").stat().st_size
    evaluation = json.loads((RESULTS / name / "evaluation.json").read_text())
    assert evaluation["episodes"] >= 20 and evaluation["mean"] >= LEAST[name]


@pytest.mark.parametrize("name", [each for each in pretrained() if each not in SLOW])
def test_it_plays_as_well_as_its_data_says(name, capsys):
    assert cli.main(["evaluate", f"pretrained:{name}", "--episodes", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((RESULTS / name / "evaluation.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", [each for each in pretrained() if each in SLOW])
def test_it_plays_well(name):
    if name.startswith("minatar"):
        pytest.importorskip("minatar")
    assert load_policy(f"pretrained:{name}").evaluate(20).returns.mean() >= LEAST[name]


def test_it_is_recorded_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["record", "pretrained:frozenlake", "--out", "lake.gif", "--max-steps", "5"]) == 0
    assert (tmp_path / "lake.gif").stat().st_size > 1_000 and "lake.gif: " in capsys.readouterr().out


@pytest.mark.parametrize("command", [["evaluate"], ["record", "--out", "x.gif"]])
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("pretrained:cartpol", 'did you mean "cartpole"'),
        ("pretrained:", "no such policy"),
        ("pretrained:../pretrained/taxi", "no such policy"),
        ("nothing.safetensors", "no policy file"),
    ],
)
def test_an_unknown_one_is_one_line(command, source, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([command[0], source, *command[1:]]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    return jaxql.train("dqn", "CartPole-v1", out=tmp_path_factory.mktemp("runs") / "cartpole", capacity=100, **SMALL)


def test_a_policy_file_plays_as_its_run(cartpole, tmp_path):
    export(cartpole, tmp_path / "a.safetensors")
    policy = load_policy(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(policy.evaluate(3, seed=5).returns, cartpole.evaluate(3, seed=5).returns)
    assert (
        policy.record(tmp_path / "a.gif", seed=2)["returns"] == cartpole.record(tmp_path / "b.gif", seed=2)["returns"]
    )


def test_float16_halves_the_file_and_is_taken_back(cartpole, tmp_path):
    sizes = []
    for name, half in ("wide", []), ("half", ["--float16"]):
        path = tmp_path / f"{name}.safetensors"
        assert cli.main(["export", str(cartpole.folder), "--out", str(path), *half]) == 0
        sizes.append(sum(x.nbytes for x in safetensors.numpy.load_file(path).values()))
    assert sizes[1] * 2 == sizes[0]
    wide, half = (load_policy(tmp_path / f"{name}.safetensors") for name in ("wide", "half"))
    obs = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    assert half.q_values(obs).dtype == wide.q_values(obs).dtype
    np.testing.assert_allclose(half.q_values(obs), wide.q_values(obs), rtol=1e-2, atol=1e-2)


def test_numbers_too_large_for_float16_are_refused(cartpole, tmp_path, monkeypatch):
    huge = [1e5 * np.ones(2, np.float32)]
    monkeypatch.setattr(type(cartpole), "best_params", lambda run: huge)
    with pytest.raises(UserError, match="exceeds 65504"):
        export(cartpole, tmp_path / "a.safetensors", float16=True)
    assert not list(tmp_path.iterdir())


def test_the_env_of_a_file_from_elsewhere_is_confirmed_first(cartpole, tmp_path, monkeypatch):
    about_of = jaxql.lab.export._about
    monkeypatch.setattr("jaxql.lab.export._about", lambda run: about_of(run) | {"env": "wave:Nothing-v0"})
    path = tmp_path / "a.safetensors"
    export(cartpole, path)
    policy = load_policy(path)  # its env is not needed to act
    assert policy(np.zeros(4, np.float32)).shape == ()
    with pytest.raises(UserError, match="names the module 'wave'.*--trust"):
        policy.evaluate(1)
    with pytest.raises(UserError, match="wave:Nothing-v0"):
        load_policy(path, trust=True).evaluate(1)


def test_names_of_policies_are_told_from_folders():
    assert is_policy("pretrained:x") and is_policy(Path("a.safetensors")) and not is_policy("runs/pretrained")
