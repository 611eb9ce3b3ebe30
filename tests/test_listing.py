"""`jaxql envs`, `agents`, `settings`, `doctor` and `completion`: what they say is what the library does."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from jaxql import cli, envs
from jaxql.agents import REGISTRY
from jaxql.cli import completion
from jaxql.cli.comments import comments_of
from jaxql.errors import UserError
from jaxql.lab import doctor
from jaxql.lab.settings import RunSettings, layers, origins, settings


def said(capsys, *argv, code=0):
    assert cli.main(list(argv)) == code
    return capsys.readouterr()


def test_envs_that_are_listed_can_be_made(capsys):
    found = json.loads(said(capsys, "envs", "lake", "jax:", "--json").out)
    assert {"FrozenLake-v1", "FrozenLake8x8-v1", "jax:cartpole", "jax:catch"} <= {each["id"] for each in found}
    for each in found:
        env = envs.make(each["id"], 1)
        assert env.spec.num_actions == each["num_actions"]
        env.close()
    lake = next(each for each in found if each["id"] == "FrozenLake-v1")
    assert (lake["obs"], lake["tuned"]) == ("16 states", ["q-learning"])


def test_the_list_of_envs_has_no_continuous_one_and_says_what_is_missing(capsys):
    text = said(capsys, "envs").out
    assert "Pendulum" not in text and "HalfCheetah" not in text and "CartPole-v0" not in text
    assert "PongNoFrameskip-v4" in text and "BreakoutNoFrameskip-v4" not in text, "games are too many for one screen"
    assert "ALE/Breakout-v5" in said(capsys, "envs", "breakout").out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["envs", "cartpool"], 'did you mean "'),
        (["settings"], "AGENT is missing"),
        (["settings", "dqm"], 'did you mean "dqn"'),
        (["settings", "dqn", "--env", "CartPol-v1"], 'did you mean "CartPole-v1"'),
        (["settings", "dqn", "--preset", "textbok"], 'did you mean "textbook"'),
        (["settings", "pqn", "--preset", "x"], "this agent has none"),
        (["settings", "dqn", "--evn", "x"], 'did you mean "--env"'),
        (["completion"], "SHELL is missing"),
        (["completion", "bsh"], 'did you mean "bash"'),
        (["doctor", "--jsn"], "no option --jsn"),
        (["agents", "--jsn"], "no option --jsn"),
    ],
)
def test_what_makes_no_sense_is_one_line(argv, words, capsys):
    text = said(capsys, *argv, code=2)
    assert text.out == "" and text.err.count("\n") == 1 and words in text.err


def test_all_agents_are_listed_and_differ(capsys):
    found = json.loads(said(capsys, "agents", "--json").out)
    assert [each["agent"] for each in found] == list(REGISTRY)
    assert len({(each["about"], json.dumps(each["settings"])) for each in found}) == len(found)
    assert "c51" in said(capsys, "agents").out


@pytest.mark.parametrize("name", list(REGISTRY))
@pytest.mark.parametrize("env", ["", "CartPole-v1", "FrozenLake-v1", "PongNoFrameskip-v4"])
def test_settings_are_those_with_which_a_run_begins(name, env, capsys):
    found = json.loads(said(capsys, "settings", name, *(["--env", env] if env else []), "--json").out)
    config, run = settings(REGISTRY[name], env)
    for part in config, run:
        for field in dataclasses.fields(part):
            value, shown = getattr(part, field.name), found[field.name]
            assert shown["value"] in (value, list(value) if isinstance(value, tuple) else str(value))
            assert shown["help"], f"{field.name} has no comment"
            if shown["from"] == "default":
                assert value == field.default
    assert set(found) == {field.name for part in (config, run) for field in dataclasses.fields(part)}


def test_the_source_of_a_setting_is_the_strongest():
    found = origins(REGISTRY["double-dqn"], "CartPole-v1")
    assert (found["backup"], found["n_step"], found["discount"]) == (
        "the agent's name",
        "tuned for CartPole-v1",
        "default",
    )
    assert origins(REGISTRY["value-iteration"], "Taxi-v4")["log_every"] == "tuned for every env"
    assert origins(REGISTRY["dqn"], "CartPole-v1", "textbook")["n_step"] == "preset textbook"
    with pytest.raises(UserError, match="no preset"):
        layers(REGISTRY["dqn"], "", "x")


def test_changed_settings_only(capsys):
    text = said(capsys, "settings", "c51", "--env", "CartPole-v1", "--changed").out
    assert "--head" in text and "default" not in text
    assert said(capsys, "settings", "q-learning", "--env", "Taxi-v3").out.startswith(
        "Taxi-v3 is no longer in Gymnasium"
    )


@dataclasses.dataclass
class Base:
    a: int = 1  # the first
    b: tuple = (
        1,  # of two lines
    )


@dataclasses.dataclass
class Derived(Base):
    a: int = 2  # the first, changed
    c: str = "# no comment"


def test_comments_are_those_behind_the_fields():
    assert comments_of(Derived) == {"a": "the first, changed", "b": "of two lines", "c": ""}
    assert comments_of(dataclasses.make_dataclass("Made", [("d", int)])) == {}
    assert all(comments_of(RunSettings).values())


def test_the_doctor_names_versions_devices_and_what_to_install(capsys):
    text = said(capsys, "doctor").out
    assert "jax " in text and "cpu" in text and "convolution on CPUs, float32" in text and "everything works" in text
    report = json.loads(said(capsys, "doctor", "--json").out)
    assert report["problems"] == [] and report["extras"] and report["games and video"]["ALE"].startswith("104 games")


def test_the_doctor_says_what_is_broken(monkeypatch):
    def broken():
        raise RuntimeError("no such\nthing")

    monkeypatch.setattr(doctor, "_ale", broken)
    monkeypatch.setattr(doctor, "_extras", broken)
    found = doctor.examine()
    assert [line.split(":")[0] for line in doctor.problems(found)] == ["ALE", "extras"]
    assert "no such thing; Atari games cannot be played: pip install" in found["games and video"]["ALE"]
    assert found["devices"], "the rest is examined all the same"


def test_the_doctor_reports_a_device_that_is_missing():
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    command = [sys.executable, "-m", "jaxql", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "unset JAX_PLATFORMS" in result.stdout.splitlines()[-1]


def test_every_command_and_option_is_completed():
    table = completion.choices()
    assert table["", ""] == [*cli.COMMANDS, "--help", "--version"]
    assert set(REGISTRY) <= set(table["train", ""])
    assert {"--env", "--seed", "--learning-rate", "--lambda", "--head", "--steps"} <= set(table["train", ""])
    assert "categorical" in table["train", "--head"] and "jax:cartpole" in table["train", "--env"]
    assert table["export", "--format"] == ["policy", "jax"]


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "jaxql.bash"
    path.write_text(completion.script("bash"))
    return path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("jaxql tr", {"train"}),
        ("jaxql settings c5", {"c51"}),
        ("jaxql train dqn --learn", {"--learning-rate"}),
        ("jaxql train dqn --env jax:ca", {"cartpole", "catch"}),
        ("jaxql train dqn --env=Pong", {"PongNoFrameskip-v4"}),
        ("jaxql export runs/x --format ", {"policy", "jax"}),
        ("jaxql train dqn --seed ", set()),
        ("jaxql completion b", {"bash"}),
    ],
)
def test_bash_completes(line, words, script):
    code = f'source {script}; COMP_LINE="$1"; COMP_POINT=${{#1}}; _jaxql; printf "%s\\n" "${{COMPREPLY[@]}}"'
    result = subprocess.run(["bash", "-c", code, "bash", line], capture_output=True, text=True, timeout=60)
    assert result.stderr == "" and set(result.stdout.split()) == words


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_have_scripts_of_the_same_words(shell, capsys):
    text = said(capsys, "completion", shell).out
    assert all(word in text for word in (*cli.COMMANDS, *REGISTRY, "learning-rate", "jax:cartpole"))
