"""`resume`: a run goes on in its folder, as if it had never stopped."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxql import agents
from jaxql.errors import UserError
from jaxql.lab import checkpoint
from jaxql.lab.devices import Devices, check_resumable, mesh_of
from jaxql.lab.environments import EnvMaker
from jaxql.lab.files import as_json, lock_folder, read_config, read_result
from jaxql.lab.runs import Run, network_named, open_run, opening, seed_folders
from jaxql.lab.settings import RunSettings, plain, settings as resolve
from jaxql.lab.snapshots import Snapshots
from jaxql.lab.training import Plan, play

Callback = Callable[[dict[str, Any]], Any]


def resume(
    folder: str | os.PathLike,
    *,
    steps: int | None = None,
    callback: Callback | None = None,
    quiet: bool = False,
    trust: bool = False,
    devices: Devices | None = None,
) -> Run | list[Run]:
    """Goes on with a run that was interrupted or killed, and returns its Run, or those of all its seeds.

    The run goes on from its newest snapshot. On one machine and version it then equals the run that was never stopped:
    the same parameters, metrics and checkpoints. A finished run is returned as it is.

    Args:
      folder: of the run; of a run with many seeds, the folder of their folders.
      steps: more env steps than the run was to have. A finished run needs the state that `keep_state` keeps.
      callback: as in `jaxql.train`.
      quiet: print nothing.
      trust: as in `jaxql.lab.runs.open_run`.
      devices: as in `jaxql.train`; None: as many as before. With another number the run is equal up to rounding.

    Raises:
      UserError: no such run, one whose agent or env cannot be made again, fewer steps than it had, or a finished run
        without its state; one line.
    """
    check_resumable()
    folders = seed_folders(folder)
    plan = _plan_of(folders, plain(steps), trust, devices)
    raised = plan.settings.steps > _planned_steps(plan, read_config(folders[0])["config"]["settings"])
    if all(read_result(each) for each in folders):
        if not raised:
            if not plan.settings.keep_state:
                Snapshots(plan.state_folder).remove()  # a kill may have come in the middle of it
            return _finished(folders, quiet, trust)
        if not os.path.exists(plan.state_folder / "last.json"):
            raise UserError(
                f"{folder} is finished and its state was not kept, so it cannot have more steps: train with "
                "--keep-state for that, or start a new run from it with --init-from"
            )
    return play(plan, resume=True, callback=callback, quiet=quiet)


def resume_if_begun(
    out: str | os.PathLike,
    record: dict[str, Any],
    seeds: Sequence[int],
    *,
    devices: Devices | None = None,
    callback: Callback | None = None,
    quiet: bool = False,
) -> Run | list[Run] | None:
    """Returns what `resume` returns of the run in `out`, or None if no run has begun there.

    Args:
      out: the run folder, or that of the folders of many seeds.
      record: the settings that the command asks for.
      seeds: that the command asks for.
      devices, callback, quiet: as in `resume`.

    Raises:
      UserError: the run there has another setting, which is named; otherwise as `resume` does.
    """
    folders = [Path(out)] if len(seeds) == 1 else [Path(out) / f"seed{seed}" for seed in seeds]
    begun = [each for each in folders if os.path.exists(each / "config.json")]
    if not begun:
        for each in folders:
            _remove_unborn(each)
        return None
    for each, seed in zip(folders, seeds, strict=True):
        if each in begun:
            _check_same(each, record | {"seed": seed})
    if len(begun) < len(folders):  # killed while the folders were made, before the first step
        for each in begun:
            if (lock := lock_folder(each)) is not None:  # raises if another process is making them now
                os.close(lock)
        if any(map(_has_rows, begun)):
            missing = next(each for each in folders if each not in begun)
            raise UserError(f"{missing} is missing: restore it, or give the seeds that {out} holds, or another folder")
        for each in folders:
            _remove_unborn(each)
        return None
    trust = True  # its modules are those of the command
    return resume(out, devices=devices, callback=callback, quiet=quiet, trust=trust)


def _remove_unborn(folder: Path) -> None:
    """Removes what a run leaves that was killed before its first step."""
    left = list(folder.iterdir()) if os.path.isdir(folder) else []
    names = {"metrics.csv", "timing.csv", "config.json", "config.json.tmp", "tracking.json"}
    if all(each.name in names for each in left) and not _has_rows(folder):
        for each in left:
            each.unlink()


def _has_rows(folder: Path) -> bool:
    """Returns whether the run in a folder has written to metrics.csv."""
    path = folder / "metrics.csv"
    return path.exists() and path.stat().st_size > 0


def _check_same(folder: Path, asked: dict[str, Any]) -> None:
    """Raises UserError, which names the first setting that the run in the folder has otherwise."""
    there = read_config(folder)["config"]
    pairs = [(name, asked[name], there.get(name)) for name in asked if name not in ("settings", "init_from", "devices")]
    old = there.get("settings", {})
    pairs += [(name, value, old.get(name)) for name, value in asked["settings"].items()]
    for name, new, before in pairs:
        if as_json(new) != as_json(before):
            raise UserError(
                f"{name} is {new}, and the run in {folder} has {before}: use its settings, or another folder"
            )


def _plan_of(folders: Sequence[Path], steps: int | None, trust: bool, devices: Devices | None) -> Plan:
    """Returns the plan of the runs in these folders, with as many steps as were last asked for, or more."""
    with opening(folders[0], trust) as record:
        entry, make_env = agents.entry_of(record["agent"]), EnvMaker.from_record(record)
        config, settings = resolve(entry, record["env"], **record["settings"])
        name = record["network"]

        def make_agent(spec: Any) -> Any:
            return entry.make(config, spec, network_named(name, spec) if name else None)

        seeds = [read_config(each)["config"]["seed"] for each in folders]
        plan = Plan(
            make_agent,
            make_env,
            config,
            settings,
            range(seeds[0], seeds[0] + len(seeds)),
            folders,
            record,
            reopens=True,
            mesh=mesh_of(record["devices"] if devices is None else devices, config.num_envs),
        )
        if list(plan.seeds) != seeds:
            raise UserError(f"{folders[0].parent} lacks the folder of a seed: it has {seeds}")
        before = _planned_steps(plan, record["settings"])
        if steps is not None and steps < before:
            raise UserError(f"steps is {steps}, and the run is to have {before}: give more, or none")
        return dataclasses.replace(plan, settings=dataclasses.replace(settings, steps=steps or before))


def _planned_steps(plan: Plan, settings: dict[str, Any]) -> int:
    """Returns the env steps that the run is to have: those of its settings, or of the `resume` that raised them."""
    try:
        return int(checkpoint.read_metadata(plan.state_folder / "last")["run"]["steps"])
    except (UserError, KeyError, TypeError, ValueError):
        return RunSettings(steps=settings["steps"]).steps


def _finished(folders: Sequence[Path], quiet: bool, trust: bool) -> Run | list[Run]:
    """Returns the finished runs in these folders, and says that they are."""
    runs = [open_run(each, trust=trust) for each in folders]
    for run in runs:
        if not quiet:
            print(f"{run.folder} is finished: {run.card()[1].get('best mean return', 'no')} is its best mean return")
    return runs if len(runs) > 1 else runs[0]
