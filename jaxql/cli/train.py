"""`jaxql train AGENT --env ENV`: trains an agent and writes a run folder."""

import ast
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from jaxql.agents.registry import REGISTRY, entry_of
from jaxql.cli.options import parse, split_subject, value_of
from jaxql.cli.streams import discard_broken_output
from jaxql.errors import UserError
from jaxql.lab.trust import allow_current_folder, modules_of

SYNTAX = "train AGENT --env ENV"
SUMMARY = "train an agent (a name, or MODULE:ENTRY of your own) and write a run folder"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every agent; for the settings of one: jaxql train AGENT --help."""

    env: str  # CartPole-v1, PongNoFrameskip-v4, ALE/Pong-v5, MinAtar/Breakout-v1, jax:catch, gymnax:NAME, ...
    seed: int = 0  # of everything random
    seeds: int = 1  # number of seeds, from SEED on: one compiled program, a run folder each, each as if alone
    out: str | None = None  # run folder; of many seeds the folder of their folders (default: runs/AGENT-ENV-seedK)
    preset: str | None = None  # named settings instead of those tuned for the agent and env
    env_arg: "tuple[str, ...]" = ()  # KEY=VALUE, an argument of the env
    obs_key: "tuple[str, ...]" = ()  # part of a Dict observation to use, once for each part (default: see the notes)
    channels: Literal["auto", "first", "last"] = "auto"  # axis of images that holds their channels
    watchdog_seconds: float = 300.0  # the process ends if a step of the envs takes longer
    init_from: str | None = None  # run folder whose best parameters to start from
    track: str | None = None  # wandb, mlflow or trackio: a service that gets the metrics too
    devices: str = "1"  # how many share the envs of one run, or all
    coordinator_address: str | None = None  # HOST:PORT of process 0 of several that train together; auto in a cluster
    num_processes: int | None = None  # that train together
    process_id: int | None = None  # of this process among them, from 0
    resume_or_start: bool = False  # if --out holds this run, go on with it, or say that it is finished


def run(argv: list[str]) -> int:
    """Trains, prints the progress, and returns the exit code."""
    name, argv = split_subject(Options, argv, "train", "AGENT", preface=f"agents: {', '.join(REGISTRY)}\n\n")
    if modules_of({"agent": name, "env": value_of(argv, "--env"), "network": value_of(argv, "--network")}):
        allow_current_folder()
    if ":" not in name and name not in REGISTRY:
        entry_of(name)  # raises, with the nearest name
    env, preset = value_of(argv, "--env"), value_of(argv, "--preset")
    if env is None and not {"-h", "--help"} & set(argv):
        raise UserError(f"--env is missing: jaxql train {name} --env ENV; see jaxql train --help")
    from jaxql.lab.machine import cache_compilations, check_device, keep_freed_memory

    join_processes(argv)
    check_device()
    keep_freed_memory()
    cache_compilations()
    from jaxql import envs
    from jaxql.lab.settings import settings

    defaults = settings(entry_of(name), envs.identify(env)[0] if env else "", preset)
    network, argv = _own_network(argv)
    given = parse(_with_settings(*defaults), argv, f"train {name}")
    env_args = parse_env_args(given.env_arg)
    from jaxql.lab.training import train

    done = train(
        name,
        given.env,
        seed=given.seed,
        seeds=given.seeds,
        out=given.out,
        preset=given.preset,
        env_args=env_args,
        obs_keys=given.obs_key,
        channels=given.channels,
        watchdog_seconds=given.watchdog_seconds,
        init_from=given.init_from,
        resume_or_start=given.resume_or_start,
        track=given.track,
        devices=devices_of(given.devices),
        **_changes(given, *defaults) | ({"network": network} if network else {}),
    )
    discard_broken_output()  # a run has not failed because nobody read its lines
    return exit_code(done)


def exit_code(done: Any) -> int:
    """Returns 0, or the code of the signal that ended one of the runs."""
    from jaxql.lab.signals import exit_code

    return max(exit_code(each.interrupted) for each in (done if isinstance(done, list) else [done]))


def join_processes(argv: list[str]) -> None:
    """Joins this process to those that its options name, before JAX starts."""
    from jaxql.lab.devices import join_processes

    numbers = []
    for flag in ("--num-processes", "--process-id"):
        word = value_of(argv, flag)
        if word is not None and not word.isdigit():
            raise UserError(f"{flag} is {word}; it must be a whole number, 0 or greater")
        numbers.append(None if word is None else int(word))
    join_processes(value_of(argv, "--coordinator-address"), *numbers)


def devices_of(word: str) -> Any:
    """Returns the number of devices that an option gives, or "all".

    >>> devices_of("2"), devices_of("all")
    (2, 'all')
    """
    if word != "all" and not word.isdigit():
        raise UserError(f'--devices is {word}; it must be a whole number, 1 or greater, or "all"')
    return word if word == "all" else int(word)


def _own_network(argv: list[str]) -> tuple[str | None, list[str]]:
    """Returns the MODULE:NAME that --network gives, or None, and the other words.

    >>> _own_network(["--network", "mine:Net", "--seed", "1"])
    ('mine:Net', ['--seed', '1'])
    >>> _own_network(["--network", "mlp"])
    (None, ['--network', 'mlp'])
    """
    network = value_of(argv, "--network")
    if network is None or ":" not in network:
        return None, argv
    given = [i for i, word in enumerate(argv) if word == "--network"]
    left_out = {*given, *(i + 1 for i in given)}
    return network, [word for i, word in enumerate(argv) if i not in left_out and not word.startswith("--network=")]


def _with_settings(algorithm: Any, run: Any) -> type[Any]:
    """Returns Options with the settings of the algorithm and of the run, whose values are the defaults."""
    from tyro.conf import OmitArgPrefixes

    parts = [
        (part, Annotated[type(values), OmitArgPrefixes], values)
        for part, values in (("algorithm", algorithm), ("run", run))
    ]
    options = dataclasses.make_dataclass("Options", parts, bases=(Options,), frozen=True)
    options.__doc__ = Options.__doc__
    return options


def _changes(given: Any, algorithm: Any, run: Any) -> dict[str, Any]:
    """Returns the settings that differ from the defaults for this agent and env."""
    return {
        field.name: getattr(values, field.name)
        for values, default in ((given.algorithm, algorithm), (given.run, run))
        for field in dataclasses.fields(default)
        if getattr(values, field.name) != getattr(default, field.name)
    }


def parse_env_args(words: Sequence[str]) -> dict[str, Any]:
    """Returns the arguments that words "KEY=VALUE" give; a value is a Python literal or else a string."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f'--env-arg "{word}" is not KEY=VALUE, as in --env-arg is_slippery=False')
        if key in values:
            raise UserError(f"--env-arg gives {key} twice; give each argument of the env once")
        try:
            values[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[key] = value
    return values
