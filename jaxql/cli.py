"""The command line. Nothing here imports jax before the arguments are known to make sense."""

import ast
import contextlib
import dataclasses
import io
import json
import os
import sys
from typing import Annotated, Any

from jaxql.agents.registry import REGISTRY
from jaxql.errors import UserError, nearest

COMMANDS = ("train", "evaluate", "record")
HELP = """usage: jaxql COMMAND ...

Q-learning and deep Q-learning in JAX.

commands:
  train AGENT --env ENV   train an agent (a name, or MODULE:ENTRY of your own) and write a run folder
  evaluate RUN            play full games with the best checkpoint of a run
  record RUN --out FILE   write a video (.mp4 or .gif) of the best checkpoint at play

jaxql COMMAND --help shows the options of a command, jaxql train AGENT --help the settings of an agent.
"""


@dataclasses.dataclass(frozen=True)
class Train:
    """Options of every agent; settings of one: jaxql train AGENT --help."""

    env: str  # CartPole-v1, PongNoFrameskip-v4, ALE/Pong-v5, MinAtar/Breakout-v1, jax:catch, gymnax:NAME, ...
    seed: int = 0  # of everything random
    seeds: int = 1  # so many seeds at once, from SEED on: one compiled program, a run folder each, as if alone
    out: str | None = None  # run folder, or of many seeds the folder of theirs (default: runs/AGENT-ENV-seedK)
    preset: str | None = None  # named settings instead of those tuned for the agent and env
    env_arg: "tuple[str, ...]" = ()  # KEY=VALUE, an argument of the env
    init_from: str | None = None  # run folder whose best parameters to start from


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Plays full games with the best checkpoint: epsilon 0, raw rewards, seeds of their own."""

    episodes: int = 20  # full games, each in an environment of its own
    seed: int = 0
    json: bool = False  # print one JSON object


@dataclasses.dataclass(frozen=True)
class Record:
    """Writes a video of the best checkpoint at play."""

    out: str  # the video: a name that ends in .mp4 or .gif
    episodes: int = 1  # full games
    seed: int = 0


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 2 after one line on what was wrong, 130 if interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return _command(argv)
    except UserError as error:
        print("jaxql: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxql: interrupted", file=sys.stderr)
        return 130


def _command(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command == "--version":
        from importlib.metadata import version

        print(version("jaxql"))
        return 0
    if command not in COMMANDS:
        raise UserError(f'no command "{command}"{nearest(command, COMMANDS)}; there are {", ".join(COMMANDS)}')
    sys.path.append(os.getcwd())  # an agent may be MODULE:ENTRY of the current folder
    return {"train": _train, "evaluate": _evaluate, "record": _record}[command](rest)


def _subject(argv: list[str], options: type, command: str, what: str) -> tuple[str, list[str]]:
    """The first argument, an AGENT or a RUN, and the rest; help is shown where it is asked for instead."""
    if any(word in ("-h", "--help") for word in argv[:1]):
        if command == "train":
            print(f"agents: {', '.join(REGISTRY)}\n")
        _parse(options, ["--help"], f"{command} {what}")
    if not argv or argv[0].startswith("-"):
        raise UserError(f"{what} is missing: jaxql {command} {what} ...; see jaxql {command} --help")
    return argv[0], argv[1:]


def _parse(options: type, argv: list[str], prog: str, default: Any = None):
    """The options given in argv; what the parser has to say becomes one line."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            config = (tyro.conf.UseAppendAction,) if options is Train else ()
            return tyro.cli(options, args=argv, prog=f"jaxql {prog}", default=default, config=config)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(said.getvalue(), _flags(options), prog)) from None


def _flags(options: type) -> list[str]:
    names = []
    for field in dataclasses.fields(options):
        nested = dataclasses.is_dataclass(field.default)
        names += _flags(type(field.default)) if nested else [f"--{field.name.replace('_', '-')}"]
    return names


def _one_line(said: str, flags: list[str], prog: str) -> str:
    """What a person needs of the parser's message: the paragraph under its title, with the nearest valid name."""
    paragraphs = [[]]
    for line in said.splitlines():
        text = line.strip(" │╭╮╰╯─-")
        if text:
            paragraphs[-1].append(text if text.startswith("Unrecognized") else line.strip(" │╭╮╰╯─"))
        if line.strip(" │").startswith(("╭", "─", "---")):  # a title's frame, or a rule
            paragraphs.append([])
    message = " ".join(paragraphs[1] if len(paragraphs) > 1 else paragraphs[0])
    if message.startswith("Unrecognized options:"):
        flag = message.split(":", 1)[1].split(",")[0].strip()
        message = f"no option {flag}{nearest(flag, flags)}"
    return f"{message}; see jaxql {prog} --help"


def _train(argv: list[str]) -> int:
    name, argv = _subject(argv, Train, "train", "AGENT")
    from tyro.conf import OmitArgPrefixes

    from jaxql import agents, envs
    from jaxql.lab import memory, training
    from jaxql.lab.settings import settings

    memory.keep_freed_memory()
    entry = agents.entry_of(name)
    env, preset = _value_of(argv, "--env"), _value_of(argv, "--preset")
    defaults = settings(entry, envs.identify(env)[0] if env else "", preset)
    parts = [
        (part, Annotated[type(values), OmitArgPrefixes], values)
        for part, values in zip(("algorithm", "run"), defaults, strict=True)
    ]
    options = dataclasses.make_dataclass("Options", parts, bases=(Train,), frozen=True)
    options.__doc__ = Train.__doc__
    given = _parse(options, argv, f"train {name}")
    changes = {
        field.name: getattr(values, field.name)
        for values, default in zip((given.algorithm, given.run), defaults, strict=True)
        for field in dataclasses.fields(default)
        if getattr(values, field.name) != getattr(default, field.name)
    }
    done = training.train(
        name,
        given.env,
        seed=given.seed,
        seeds=given.seeds,
        out=given.out,
        preset=given.preset,
        env_args=dict(_env_arg(word) for word in given.env_arg),
        init_from=given.init_from,
        **changes,
    )
    return 130 if any(run.interrupted for run in (done if isinstance(done, list) else [done])) else 0


def _value_of(argv: list[str], flag: str) -> str | None:
    """The last value of a flag in argv, which other defaults depend on."""
    found = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == flag]
    found += [word.split("=", 1)[1] for word in argv if word.startswith(flag + "=")]
    return found[-1] if found else None


def _env_arg(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals or not key.isidentifier():
        raise UserError(f'--env-arg "{word}" is not KEY=VALUE, as in --env-arg is_slippery=False')
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _evaluate(argv: list[str]) -> int:
    run, argv = _subject(argv, Evaluate, "evaluate", "RUN")
    given = _parse(Evaluate, argv, "evaluate RUN")
    _at_least(1, episodes=given.episodes)
    _at_least(0, seed=given.seed)
    from jaxql.lab.runs import open_run

    summary = open_run(run).evaluate(given.episodes, given.seed).summary()
    if given.json:
        print(json.dumps(summary))
    else:
        print(
            "{episodes} episodes ({distinct} distinct): mean return {mean:.3f}, std {std:.3f}, ".format(**summary),
            end="",
        )
        print("min {min:g}, max {max:g}; {capped} cut at a step limit".format(**summary))
    return 0


def _record(argv: list[str]) -> int:
    run, argv = _subject(argv, Record, "record", "RUN")
    given = _parse(Record, argv, "record RUN")
    _at_least(1, episodes=given.episodes)
    _at_least(0, seed=given.seed)
    from jaxql.lab.runs import open_run

    result = open_run(run).record(given.out, given.seed, given.episodes)
    returns = ", ".join(f"{return_:g}" for return_ in result["returns"])
    print(f"{given.out}: {result['frames']} frames, return {returns}")
    return 0


def _at_least(low: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < low:
            raise UserError(f"{name} is {value}; it must be at least {low}")
