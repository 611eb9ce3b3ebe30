"""`jaxql sweep`: trains agents on envs with settings from a grid, or drawn from ranges, and prints one table."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from jaxql.cli.options import parse_words, require_at_least
from jaxql.errors import UserError, nearest

if TYPE_CHECKING:
    from jaxql.lab.sweep import SweepSpec

SYNTAX = "sweep --agent AGENT --env ENV"
SUMMARY = "train agents on envs with many settings and seeds, and print one table"
TABLES = ("set", "grid", "range", "env_arg", "slurm")  # options that are tables in a file
LISTS = ("agent", "env", *TABLES)  # options that take several words


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains what is missing of a sweep and prints its results. The same sweep again goes on, or prints the same table.

    A FILE.toml holds the same options by their names; set, grid, range, env_arg and slurm are tables there.
    """

    agent: "tuple[str, ...]" = ()  # one or more
    env: "tuple[str, ...]" = ()  # one or more
    seeds: int = 5  # of every cell
    seed: int = 0  # the first
    set: "tuple[str, ...]" = ()  # KEY=VALUE, a setting of every cell; AGENT.KEY=VALUE is of one agent
    grid: "tuple[str, ...]" = ()  # KEY=VALUE,VALUE,...: all combinations
    range: "tuple[str, ...]" = ()  # KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C, to draw from
    random: int = 0  # draws from the ranges, for every combination of the grid
    optuna: int = 0  # trials of Optuna, for every combination of the grid; needs the extra optuna
    batch: int = 4  # trials that Optuna asks for at a time
    score: Literal["final", "best", "auc"] = "final"  # see jaxql compare --help
    preset: str | None = None  # named settings instead of those tuned for the agent and env
    env_arg: "tuple[str, ...]" = ()  # KEY=VALUE, an argument of the envs
    track: str | None = None  # wandb, mlflow or trackio: a service that gets the metrics too
    out: str | None = None  # folder of the sweep (default: sweeps/NAME)
    seeds_per_job: int = 0  # seeds that one program trains together; 0: all of a cell
    engine: str = "local"  # local, ray, ray:ADDRESS, slurm, slurm:local; sbatch prints a script
    jobs: int | None = None  # at once on this machine (default: half of its cores; 1 with an accelerator)
    cpus_per_job: int = 1  # for Ray and Slurm
    gpus_per_job: float = 0.0  # for Ray and Slurm
    slurm: "tuple[str, ...]" = ()  # KEY=VALUE, an option of sbatch
    retries: int = 3  # of a job that was killed or has crashed


def run(argv: list[str]) -> int:
    """Trains, prints the table, and returns the exit code: 1 if a job failed."""
    file, given = _given(_spread(argv))
    require_at_least(1, jobs=1 if given.jobs is None else given.jobs, cpus_per_job=given.cpus_per_job)
    require_at_least(0, retries=given.retries, gpus_per_job=given.gpus_per_job)
    spec, slurm, resources = _spec(given), dict(_pairs("slurm", given.slurm)), (given.cpus_per_job, given.gpus_per_job)
    from jaxql.lab import engines, sweep, tracking

    engines.check_engine(given.engine)
    if spec.track is not None:
        tracking.check_service(spec.track)
    if given.engine == "sbatch" and spec.optuna:
        raise UserError("--optuna waits for scores, which --engine sbatch cannot: use --engine slurm, or --random")
    import jax

    jax.config.update("jax_platforms", "cpu")  # the jobs have the accelerator
    from jaxql.cli.train import parse_env_args
    from jaxql.lab.signals import exit_code
    from jaxql.lab.sweeping import run_sweep, write_commands

    default = Path("sweeps") / Path(file).stem if file else sweep.default_folder(spec)
    folder, env_args = Path(given.out or default), parse_env_args(spec.env_args)
    if given.engine == "sbatch":
        commands, count = write_commands(spec, folder, env_args)
        print(engines.sbatch_script(commands, count, folder.resolve() / "logs", given.jobs, *resources, slurm), end="")
        return 0
    done = run_sweep(
        spec,
        folder,
        lambda: engines.make_engine(given.engine, folder, given.jobs or _default_jobs(), *resources, slurm),
        env_args=env_args,
        retries=given.retries,
    )
    if done.interrupted:
        print(f"interrupted; the same command goes on with {folder}", file=sys.stderr)
        return exit_code(done.interrupted)
    print(f"{spec.score} return, [95 % stratified bootstrap interval] over seeds\n\n{done.results.to_text()}\n")
    print(f"{folder / 'results.csv'}, results.json, results.md; curves: jaxql plot {folder / 'cells'}")
    for name, reason in done.failures.items():
        print(f"jaxql: failed: {name}: {reason}; see {folder / 'logs' / name}.log", file=sys.stderr)
    return 1 if done.failures else 0


def _spread(argv: list[str]) -> list[str]:
    """Returns `--grid a --grid b` for `--grid a b`.

    >>> _spread(["x.toml", "--grid", "a=1", "b=2", "--jobs", "2"])
    ['x.toml', '--grid', 'a=1', '--grid', 'b=2', '--jobs', '2']
    """
    flags = {f"--{name.replace('_', '-')}" for name in LISTS} | {f"--{name}" for name in LISTS}
    spread, flag, fresh = [], None, False
    for word in argv:
        if word.startswith("--"):
            flag, fresh = (word if word in flags else None), True
            spread.append(word)
        else:
            spread += [word] if flag is None or fresh else [flag, word]
            fresh = False
    return spread


def _given(argv: list[str]) -> tuple[str | None, Options]:
    """Returns the name of the file, if there is one, and the options: those of the file, under the typed ones."""
    words, given = parse_words(Options, argv, "sweep", "[FILE.toml]")
    if not words:
        return None, given
    if len(words) > 1 or not words[0].endswith(".toml"):
        raise UserError(f"{words[-1]}: jaxql sweep takes options, or one FILE.toml and options; see jaxql sweep --help")
    content = _from_file(words[0])
    types = {field.name: field.type for field in dataclasses.fields(Options)}
    defaults = [(name, types[name], value) for name, value in content.items() if name not in LISTS]
    of_file = dataclasses.make_dataclass("Options", defaults, bases=(Options,), frozen=True)
    _, given = parse_words(of_file, argv, "sweep", "[FILE.toml]")
    lists = {name: value for name, value in content.items() if name in LISTS and not getattr(given, name)}
    return words[0], dataclasses.replace(given, **lists)


def _from_file(name: str) -> dict[str, Any]:
    """Returns the checked options in a TOML file."""
    import tomllib

    try:
        with open(name, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{name} is not TOML: {error}") from error
    content = {key.replace("-", "_"): value for key, value in content.items()}
    kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Options)}
    for key, value in content.items():
        if key not in kinds:
            raise UserError(f'{name}: no option "{key}"{nearest(key, kinds)}; there are {", ".join(kinds)}')
        _check_kind(name, key, value, kinds[key])
    return content


def _check_kind(file: str, key: str, value: Any, kind: Any) -> None:
    """Raises UserError unless a value of a TOML file has the kind that its option needs."""
    kinds = get_args(kind) or (kind,)
    if key in TABLES:
        right, wanted = isinstance(value, dict), "a table"
    elif key in LISTS:
        right, wanted = isinstance(value, list) and all(isinstance(each, str) for each in value), "a list of texts"
    elif get_origin(kind) is Literal:
        right, wanted = value in kinds, f"one of {', '.join(kinds)}"
    elif float in kinds or int in kinds:
        right = isinstance(value, int | float if float in kinds else int) and not isinstance(value, bool)
        wanted = "a number" if float in kinds else "a whole number"
    else:
        right, wanted = isinstance(value, str), "a text"
    if not right:
        raise UserError(f"{file}: {key} is {value!r}; it must be {wanted}")


def _spec(given: Options) -> "SweepSpec":
    """Returns the sweep that the options describe. Raises UserError."""
    from jaxql.lab.ranges import parse_range, parse_value, parse_values
    from jaxql.lab.sweep import SweepSpec

    return SweepSpec(
        tuple(given.agent),
        tuple(given.env),
        seeds=given.seeds,
        seed=given.seed,
        seeds_per_job=given.seeds_per_job,
        settings={key: parse_value(value) for key, value in _pairs("set", given.set)},
        grid={key: parse_values(value) for key, value in _pairs("grid", given.grid)},
        ranges={key: parse_range(key, value) for key, value in _pairs("range", given.range)},
        random=given.random,
        optuna=given.optuna,
        batch=given.batch,
        score=given.score,
        preset=given.preset,
        env_args=tuple(f"{key}={value}" for key, value in _pairs("env_arg", given.env_arg)),
        track=given.track,
    )


def _pairs(name: str, given: Any) -> list[tuple[str, Any]]:
    """Returns (key, value) of a table, or of words KEY=VALUE.

    Raises:
      UserError: another word, or a key that is given twice.
    """
    if isinstance(given, dict):
        flat: dict[str, Any] = {}
        for key, value in given.items():
            flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        return list(flat.items())
    pairs: list[tuple[str, Any]] = []
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise UserError(f'--{name.replace("_", "-")} "{word}" is not KEY=VALUE')
        if key in dict(pairs):
            raise UserError(f"--{name.replace('_', '-')} gives {key} twice; give each key once")
        pairs.append((key, value))
    return pairs


def _default_jobs() -> int:
    """Returns the jobs at once on this machine: 1 where JAX may have an accelerator, else half of the cores."""
    from importlib.util import find_spec

    accelerated = any(
        find_spec(name) for name in ("jax_cuda12_plugin", "jax_cuda13_plugin", "libtpu", "jax_rocm7_plugin")
    )
    wanted = os.environ.get("JAX_PLATFORMS", "")
    return 1 if accelerated and wanted != "cpu" else max(1, (os.cpu_count() or 1) // 2)
