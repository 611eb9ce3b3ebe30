"""`train`: from what a person asked for to the runs of one seed or many, each with a run folder of its own."""

import atexit
import contextlib
import dataclasses
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from gymnasium.vector import VectorEnv
from jax.sharding import Mesh

from jaxql import agents, kernels
from jaxql.agents.config import AgentConfig, bounded
from jaxql.agents.state import hyper_of
from jaxql.envs import EnvOptions
from jaxql.envs.seeding import check_seed
from jaxql.errors import UserError
from jaxql.lab.devices import Devices, check_resumable, is_first, mesh_of
from jaxql.lab.environments import EnvMaker
from jaxql.lab.files import RunFiles, check_free, default_folder
from jaxql.lab.machine import check_env_memory, memory_report
from jaxql.lab.progress import Progress
from jaxql.lab.runs import PASSED_IN, Run, can_reopen, load_params, network_named
from jaxql.lab.settings import RunSettings, changed_settings, plain, same_settings, settings as resolve
from jaxql.lab.snapshots import Snapshots
from jaxql.lab.tracking import check_service
from jaxql.lab.trainer import Trainer
from jaxql.types import Agent, EnvSpec, Network

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

FILES_A_SEED = 3  # metrics.csv, timing.csv and the event file


@dataclasses.dataclass(frozen=True)
class OutsideConfig(AgentConfig):
    """Settings of a run whose agent was made outside the package."""

    learning_rate: float = bounded(1e-3, 0)
    epsilon: float = bounded(0.05, 0, 1)
    exploration_steps: int = bounded(10_000, 1)
    target_period_updates: int = bounded(500, 1)


def train(
    agent: str | Agent | agents.AgentEntry,
    env: Any,
    *,
    seed: int = 0,
    seeds: int = 1,
    out: str | os.PathLike | None = None,
    preset: str | None = None,
    env_args: dict[str, Any] | None = None,
    obs_keys: Sequence[str] = (),
    channels: Literal["auto", "first", "last"] = "auto",
    watchdog_seconds: float = 300.0,
    init_from: str | os.PathLike | None = None,
    network: Network | str | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    quiet: bool = False,
    resume_or_start: bool = False,
    track: str | None = None,
    devices: Devices = 1,
    **settings: Any,
) -> Run | list[Run]:
    """Trains an agent on an environment and writes a run folder, as `jaxql train` does.

    Args:
      agent: a name in `jaxql.agents.REGISTRY`, the "module:name" of an entry elsewhere, an `AgentEntry`, or an `Agent`.
      env: an env id, a callable that makes a Gymnasium env, a `JaxEnv`, or a vector env in NEXT_STEP mode, whose envs
        are split evenly among the seeds. Rounds with JAX envs are compiled whole.
      seed: of everything random. The same seed gives the same metrics.csv on a CPU.
      seeds: above 1, the seeds `seed`, `seed` + 1, ... are trained in one compiled program, each as if alone, and
        their Runs are returned as a list. A seed that is solved writes no more; the others go on.
      out: the run folder, which must not exist or be empty; None: runs/AGENT-ENV-seedK. Of many seeds, the folder of
        the run folders seedK; None: runs/AGENT-ENV-seedsK-L.
      preset: named settings of the agent; None takes those tuned for this agent and env.
      env_args: keyword arguments of the env.
      obs_keys, channels, watchdog_seconds: see `jaxql.envs.make`.
      init_from: a run folder whose best parameters this run starts from.
      network: replaces the one that the settings name: a `Network`, the name of another one, or the "module:name" of
        a `Network` or of a function (EnvSpec) -> Network, which a run can be reopened with.
      callback: called with every row of metrics; of many seeds, rows have the key "seed". A true result stops the run
        of that seed.
      quiet: print nothing.
      resume_or_start: where `out` holds this run already, go on with it, or return it if it is finished.
      track: "wandb", "mlflow" or "trackio", a service that gets the metrics too; see `jaxql.lab.tracking`.
      devices: how many share the envs and stored rows of one seed, or "all". Numbers are those of one device with the
        same settings, up to rounding; `shards` becomes the number of devices if it is 1. After
        `jax.distributed.initialize` the devices of all processes take part, and each process steps its part of the
        envs. Process 0 writes the run folder, and such a run cannot be resumed. The others get a Run in a folder of
        their own, which ends with them. A signal then ends the run at the next row of metrics.
      **settings: single settings of the agent or of the run (`steps=50_000`, `learning_rate=1e-3`); see the agent's
        Config and `jaxql.lab.settings.RunSettings`.

    Raises:
      UserError: bad input, or a loss that is not finite; one line. Of many seeds, such a loss ends its own seed, and
        the error is raised when the others have ended.
    """
    seed, seeds = plain(seed), plain(seeds)
    every = _seeds(seed, seeds)
    if track is not None:
        check_service(track)
    entry, name = _entry(agent)
    named = network if isinstance(network, str) and ":" in network else None
    if isinstance(network, str) and not named:
        settings["network"], network = network, None
    shown = EnvOptions(obs_keys, channels, keeps_table(entry), watchdog_seconds)
    make_env = EnvMaker(env, env_args or {}, shown)
    if isinstance(env, VectorEnv):
        if env.num_envs % seeds:
            raise UserError(f"{make_env.id}: its {env.num_envs} envs cannot be split evenly among {seeds} seeds")
        settings["num_envs"] = env.num_envs // seeds
    config, run_settings = resolve(entry, make_env.id, preset, **settings)
    mesh = mesh_of(devices, config.num_envs)
    if mesh is not None:
        if seeds > 1:
            raise UserError(f"devices={devices} with seeds={seeds}: several devices train one seed; give each a run")
        if isinstance(env, VectorEnv):
            raise UserError(f"{make_env.id}: several devices need an id, a function or a JaxEnv, not a vector env")
        if getattr(config, "shards", None) == 1:
            config = dataclasses.replace(config, shards=mesh.size)
    config, shortened = _shorten_warmup(config, run_settings)
    twins = [f"{each} has the same settings here" for each in same_settings(name, make_env.id, preset, **settings)]
    record = {
        "agent": name,
        **make_env.record(),
        "seed": seed,
        "preset": preset,
        "init_from": str(init_from) if init_from else None,
        "network": named or (PASSED_IN if network else None),
        "devices": mesh.size if mesh else 1,
        "settings": dataclasses.asdict(config) | dataclasses.asdict(run_settings),
    }
    if not is_first():
        out, quiet, track = _folder_of_process(), True, None
    if resume_or_start:
        check_resumable()
        if out is None:
            raise UserError("resume_or_start needs the run's folder: give --out (in Python: out=)")
        from jaxql.lab.resuming import resume_if_begun

        if (begun := resume_if_begun(out, record, every, devices=devices, callback=callback, quiet=quiet)) is not None:
            return begun
    plan = Plan(
        lambda spec: entry.make(config, spec, network_named(named, spec) if named else network),
        make_env,
        config,
        run_settings,
        every,
        _folders(out, name, make_env.id, every),
        record,
        reopens=can_reopen(record) and make_env.spec != PASSED_IN,
        mesh=mesh,
        track=track,
        notes=(*shortened, changed_settings(config, run_settings), *twins),
    )
    return play(plan, init_from=init_from, callback=callback, quiet=quiet)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that a run is made of, checked before any of it is made."""

    make_agent: Callable[[EnvSpec], Agent]
    make_env: EnvMaker
    config: Any  # settings of the agent
    settings: RunSettings
    seeds: range
    folders: Sequence[Path]  # of the runs of all seeds
    record: dict[str, Any]  # for config.json
    reopens: bool  # whether config.json is enough to make the run again
    mesh: Mesh | None = None  # of the devices that share the envs
    track: str | None = None  # a service of `jaxql.lab.tracking`
    notes: Sequence[str] = ()  # for the person who trains

    @property
    def state_folder(self) -> Path:
        """The folder of the whole state, of all seeds together."""
        return (self.folders[0] if len(self.seeds) == 1 else self.folders[0].parent) / "state"


def play(
    plan: Plan,
    *,
    resume: bool = False,
    init_from: str | os.PathLike | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    quiet: bool = False,
) -> Run | list[Run]:
    """Trains as planned and returns the Run, or those of all seeds.

    Args:
      plan: of the run.
      resume: go on in the folders of the plan, from the newest snapshot; without one the run starts anew there.
      init_from, callback, quiet: as in `train`.

    Raises:
      UserError: as `train` does.
    """
    config, settings, seeds, make_env = plan.config, plan.settings, len(plan.seeds), plan.make_env
    if not isinstance(make_env.env, VectorEnv):
        check_env_memory(make_env, seeds * config.num_envs, "num_envs" if seeds == 1 else "num_envs * seeds")
    check_env_memory(make_env, settings.eval_episodes, "eval_episodes")
    env_seed = plan.seeds if seeds > 1 else plan.seeds[0]
    own_envs, processes = seeds * config.num_envs, jax.process_count()
    if plan.mesh and not make_env.is_compiled:
        own_envs //= processes
    made = make_env(own_envs, seed=env_seed, purpose="train", life_loss=config.life_loss, mesh=plan.mesh)
    try:
        make_env.check(made)
        kernels.forget_notes()
        one = plan.make_agent(made.spec)
        shapes = jax.eval_shape(one.init, jax.random.key(0), made.spec.obs, hyper_of(config))
        lines = (*made.notes, *kernels.notes(), *plan.notes, memory_report(shapes, seeds))
        initial = load_params(init_from, shapes.params) if init_from else None
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(RunFiles(folder, plan.record | {"seed": seed}, resume=resume, track=plan.track))
                for folder, seed in zip(plan.folders, plan.seeds, strict=True)
            ]
            progress = stack.enter_context(Progress(settings.steps, best_lines=seeds == 1, quiet=quiet))
            for line in filter(None, lines):
                progress.note(line)
            progress.starting("compiling, and filling the replay" if config.warmup_steps else "compiling")
            snapshots = Snapshots(plan.state_folder, seeds=seeds > 1) if plan.reopens and processes == 1 else None
            if processes > 1:
                progress.note(f"{processes} processes: checkpoints are kept, and the run cannot be resumed")
            if snapshots:
                stack.callback(snapshots.settle)
            trainer = Trainer(
                one, config, settings, made, make_env, files, progress, callback, plan.seeds, snapshots, plan.mesh
            )
            saved = resume and snapshots is not None and snapshots.exists()
            if resume and not saved:
                progress.note("no state was saved: the run starts anew")
                for each in files:
                    each.rewind(-1)
            runs = trainer.run(initial, resume=saved)
            return runs if seeds > 1 else runs[0]
    finally:
        if not isinstance(make_env.env, VectorEnv):  # who made it closes it
            made.close()


def _folder_of_process() -> str:
    """Returns a folder for what a process writes that is not the first; it is removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="jaxql-process-")
    atexit.register(folder.cleanup)
    return os.path.join(folder.name, "run")


def keeps_table(entry: agents.AgentEntry) -> bool | None:
    """Returns whether an agent keeps a table, or None of one that was made outside the package."""
    if entry.config is OutsideConfig:
        return None
    return "network" not in {field.name for field in dataclasses.fields(entry.config)}


def _seeds(seed: int, seeds: int) -> range:
    """Returns the seeds seed, seed + 1, ..., `seeds` of them."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UserError(f"seeds={seeds!r}: the number of seeds is a whole number, 1 or greater")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else math.inf
    if FILES_A_SEED * seeds > limit >= 0:
        raise UserError(
            f"seeds={seeds}: each run keeps {FILES_A_SEED} files open, and this process may open {limit}; lower seeds, "
            "or raise the limit with ulimit -n"
        )
    return range(check_seed(seed), seed + seeds)


def _shorten_warmup(config: Any, run: RunSettings) -> tuple[Any, list[str]]:
    """Returns the settings with a warm-up that leaves half of the run, where all of it would be warm-up; and notes."""
    per_round, notes = config.num_envs * config.rollout_length, []
    if config.warmup_steps and config.warmup_steps + per_round > run.steps:
        shorter = run.steps // 2 // config.num_envs * config.num_envs
        notes.append(f"warm-up shortened: warmup_steps={shorter}, not {config.warmup_steps}, for steps={run.steps}")
        config = dataclasses.replace(config, warmup_steps=shorter)
    if per_round > run.steps:
        notes.append(
            f"a round has {per_round} env steps ({config.num_envs} envs * {config.rollout_length}): the run ends after "
            f"one, not after steps={run.steps}; lower num_envs or rollout_length for fewer"
        )
    return config, notes


def _folders(out: str | os.PathLike | None, name: str, env_id: str, every: Sequence[int]) -> list[Path]:
    """Returns the run folder of every seed. Raises UserError before any is made if one is not free."""
    if len(every) == 1:
        folders = [Path(out) if out else default_folder(name, env_id, every[0])]
    else:
        parent = Path(out) if out else default_folder(name, env_id, every[0], last=every[-1])
        folders = [parent / f"seed{each}" for each in every]
    for folder in folders:
        check_free(folder)
    return folders


def _entry(agent: str | Agent | agents.AgentEntry) -> tuple[agents.AgentEntry, str]:
    """Returns the entry of an agent and its name."""
    if isinstance(agent, Agent):
        return agents.AgentEntry(OutsideConfig, lambda config, spec, network=None: agent, {}, {}), "agent"
    if isinstance(agent, agents.AgentEntry):
        return agent, next((name for name, known in agents.REGISTRY.items() if known is agent), "agent")
    return agents.entry_of(agent), agent
