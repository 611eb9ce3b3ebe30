"""Rough handling that takes long: kills at random moments, fuzzed files and commands, memory over time.

python benchmarks/endurance.py kills CASE [--kills 200]      SIGKILL, half of them inside a save; the run must equal
                                                             the one that was never killed
python benchmarks/endurance.py fuzz TARGET [--minutes 10]    damaged and forged input; no traceback, no hang
python benchmarks/endurance.py hour CASE [--minutes 60]      training; no growth of memory, nothing compiled again

Each adds a row to benchmarks/results/trust.json and exits with 1 if something went wrong.
"""

import argparse
import contextlib
import datetime
import faulthandler
import gc
import hashlib
import io
import json
import math
import os
import random
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "trust.json"
HANG_SECONDS = 90
COMMON = ["--solved-at", "inf", "--eval-episodes", "1"]
TABLE = ["--env", "FrozenLake-v1", "--steps", "20000", "--checkpoint-every", "500", "--log-every", "250",
         "--eval-every", "5000", *COMMON]  # fmt: skip
KILLED = {  # case -> (arguments of `jaxql train`, its checkpoint interval and its rows' in env steps)
    "table": (["q-learning", *TABLE], 500, 250),
    "seeds": (["q-learning", *TABLE, "--seeds", "4"], 500, 250),
    "dqn": (
        ["dqn", "--env", "CartPole-v1", "--steps", "6000", "--checkpoint-every", "200", "--log-every", "100",
         "--eval-every", "2000", "--capacity", "1500", "--hidden", "16", "--warmup-steps", "200", "--prioritised",
         "--n-step", "3", *COMMON],
        200, 100,
    ),
    "pong": (
        ["dqn", "--env", "PongNoFrameskip-v4", "--steps", "2400", "--checkpoint-every", "200", "--log-every", "100",
         "--eval-every", "100000", "--capacity", "1000", "--warmup-steps", "400", "--num-envs", "2",
         "--hidden", "16", "--gradient-steps", "1", "--batch-size", "8", *COMMON],
        200, 100,
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- kills
def _child(argv: list[str], log: Path, pipe: int) -> int:
    """Starts `jaxql` in a forked process that tells of its saves, and returns its number.

    It writes "s" when a save begins, "e" when it ends and "c" when a snapshot of the whole state is on disk. The parent
    has imported everything but started no JAX backend, so that a child is up in less than a second.
    """
    child = os.fork()
    if child:
        return child
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        from jaxql import cli
        from jaxql.lab import checkpoint, snapshots

        save, write = checkpoint.save, snapshots.Snapshots._write

        def told_save(*args: Any) -> None:
            os.write(pipe, b"s")
            save(*args)
            os.write(pipe, b"e")

        def told_write(*args: Any) -> None:
            write(*args)
            os.write(pipe, b"c")

        if pipe >= 0:
            checkpoint.save, snapshots.Snapshots._write = told_save, told_write  # type: ignore[assignment, method-assign]
        code = cli.main(argv)
        sys.stdout.flush()
        os._exit(code)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(99)


def _snapshot_steps(folder: Path) -> int:
    """Returns the env steps of the newest snapshot of a run; 0 where there is none."""
    from jaxql.lab import checkpoint

    if not (folder / "state" / "last.json").exists():
        return 0
    recorders = checkpoint.read_metadata(folder / "state" / "last")["run"]["recorders"]
    return max(int(each["env_steps"]) for each in recorders)


def _last_row(folder: Path) -> int:
    """Returns the env steps of the last whole row of metrics, of the seed that is furthest."""
    from jaxql.lab.files import read_metrics

    files = [folder, *sorted(folder.glob("seed*"))]
    steps = [read_metrics(each).get("env_steps", []) for each in files if (each / "metrics.csv").exists()]
    return int(max((each[-1] for each in steps if len(each)), default=0))


def _difference(one: Path, other: Path) -> str | None:
    """Returns what is different in two finished runs, or None."""
    from jaxql.lab import checkpoint

    seeds = [each.name for each in sorted(one.glob("seed*"))] or ["."]
    for seed in seeds:
        a, b = one / seed, other / seed
        if (a / "metrics.csv").read_bytes() != (b / "metrics.csv").read_bytes():
            return f"{seed}/metrics.csv"
        for name in "best", "last":
            paths = a / "checkpoints" / name, b / "checkpoints" / name
            if paths[0].with_suffix(".json").exists() != paths[1].with_suffix(".json").exists():
                return f"{seed}/{name}.json is missing"
            if not paths[0].with_suffix(".json").exists():
                continue
            records = [checkpoint._read_manifest(path.parent, name) for path in paths]
            if [(each["sha256"], each["metadata"]) for each in records[:1]] != [
                (each["sha256"], each["metadata"]) for each in records[1:]
            ]:
                return f"{seed}/checkpoints/{name}"
    if litter := [str(path) for path in other.rglob("*.tmp")]:
        return f"litter: {litter}"
    return None


def kills(case: str, count: int, seconds: float = math.inf, seed: int = 0) -> dict[str, Any]:
    """Kills a run `count` times, or until the time is up, and others after it where it finishes; returns what was seen.

    Every other kill is aimed at a save: up to 4 ms after one has begun. The others come at any moment, also while the
    process starts, compiles or loads.
    """
    import jaxql.cli.train
    import jaxql.lab.training  # noqa: F401

    warnings.filterwarnings("ignore", message=".*fork", category=RuntimeWarning)
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
    argv, interval, row_interval = KILLED[case]
    rng, seen = random.Random(seed), Counter()
    faults: list[str] = []
    lost: list[int] = []
    began = time.monotonic()

    def wants_more() -> bool:
        return seen["kills"] < count and time.monotonic() - began < seconds

    with tempfile.TemporaryDirectory() as work, _variables(JAXQL_COMPILATION_CACHE=f"{work}/programs"):
        run_number = -1
        finished = True
        while ((more_kills := wants_more()) or not finished) and len(faults) < 5:
            if finished:
                run_number, finished = run_number + 1, False
                command = ["train", *argv, "--seed", str(run_number * 10)]
                whole, parts = Path(work, f"whole{run_number}"), Path(work, f"parts{run_number}")
                log = Path(work, "log")
                if os.waitpid(_child([*command, "--out", str(whole)], log, -1), 0)[1]:
                    faults.append(f"the run that is not killed failed: {log.read_text()[-500:]}")
                    break
            committed = _snapshot_steps(parts)
            read, write = os.pipe()
            child = _child([*command, "--out", str(parts), "--resume-or-start"], log, write)
            os.close(write)
            told, hung = _wait(read, rng, aimed=bool(seen["kills"] % 2)) if more_kills else (b"", False)
            if more_kills:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            while more := os.read(read, 1 << 16):
                told += more
            os.close(read)
            if hung:
                faults.append(f"no save and no end within {HANG_SECONDS} s: {log.read_text()[-500:]}")
            elif os.WIFSIGNALED(status):
                seen["kills"] += 1
                seen["inside a save"] += told.count(b"s") > told.count(b"e")
                seen["before the first save of its process"] += b"s" not in told
                kept = _snapshot_steps(parts)
                lost.append(_last_row(parts) - kept)
                if lost[-1] > interval + row_interval:
                    faults.append(f"{lost[-1]} env steps lost")
                if kept < committed or (b"c" in told and kept == 0):
                    faults.append(f"the snapshot of {committed} env steps is gone: there is one of {kept}")
            elif os.WEXITSTATUS(status):
                faults.append(f"exit {os.WEXITSTATUS(status)}: {log.read_text()[-500:]}")
            else:
                finished = True
                if different := _difference(whole, parts):
                    faults.append(f"differs from the run that was not killed: {different}")
    return {
        "what": "kills",
        "case": case,
        "settings": argv,
        "seed": seed,
        **seen,
        "runs compared bit for bit": run_number + bool(finished),
        "checkpoint interval": interval,
        "most env steps lost": max(lost, default=0),
        "faults": faults,
        "seconds": round(time.monotonic() - began, 1),
    }


def _wait(read: int, rng: random.Random, aimed: bool) -> tuple[bytes, bool]:
    """Waits for the moment of a kill; returns what the process told until then, and whether it hung."""
    told, limit = b"", time.monotonic() + HANG_SECONDS
    if not aimed:
        moment = time.monotonic() + rng.uniform(0, 10)
        while (left := moment - time.monotonic()) > 0:
            if select.select([read], [], [], left)[0]:
                more = os.read(read, 1)
                told += more
                if not more:  # it has ended
                    break
        return told, False
    save = rng.randint(1, 6)
    while told.count(b"s") < save:
        if not select.select([read], [], [], max(0, limit - time.monotonic()))[0]:
            return told, True
        more = os.read(read, 1)
        told += more
        if not more:
            return told, False
    time.sleep(rng.uniform(0, 0.004))
    return told, False


# -------------------------------------------------------------------------------------------------------------- fuzz
VALUES = [None, True, -1, 0, 1, 2**31, 2**63, 10**40, 0.5, -0.0, 1e308, math.nan, math.inf, "", "x", "a\nb\0",
          "\ud800", [], [[]], [1, 2], {}, {"a": 1}, "dqn:x", "../x", "x" * 400]  # fmt: skip


def mutated(value: Any, rng: random.Random) -> Any:
    """Returns a copy of JSON with one value, anywhere, replaced, renamed or left out."""
    value = json.loads(json.dumps(value))
    node, holder, place = value, None, None
    while isinstance(node, dict | list) and node and (holder is None or rng.random() < 0.8):
        holder = node
        place = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node = holder[place]
    if holder is None or rng.random() < 0.03:
        return rng.choice(VALUES)
    kind = rng.random()
    if kind < 0.8:
        holder[place] = rng.choice(VALUES)
    elif isinstance(holder, dict) and kind < 0.9:
        holder[str(rng.choice(VALUES))] = holder.pop(place)
    else:
        del holder[place]
    return value


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Returns bytes with a few of them flipped, cut off, repeated, inserted or replaced."""
    data, kind = bytearray(data), rng.randrange(6)
    place = rng.randrange(len(data) + 1)
    if kind == 0:
        return bytes(data[:place])
    if kind == 1:
        return bytes(data[:place] + data[max(0, place - rng.randrange(64)) :])
    if kind == 2:
        return bytes(data[:place] + rng.randbytes(rng.randrange(1, 16)) + data[place:])
    if kind == 3:
        return rng.choice([b"", b"\0", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b"\x80\x04.", data * 3])
    for _ in range(rng.randint(1, 4)):
        if data:
            at = rng.randrange(min(len(data), 4_000) if kind == 4 else len(data))
            data[at] = rng.randrange(256)
    return bytes(data)


def _sealed(record: Any) -> Any:
    """Returns a manifest with the checksum that belongs to it."""
    from jaxql.lab import checkpoint

    if isinstance(record, dict):
        with contextlib.suppress(ValueError, TypeError):
            record = {key: value for key, value in record.items() if key != "checksum"}
            record["checksum"] = checkpoint._checksum(json.loads(json.dumps(record)))
    return record


def _forge(folder: Path, name: str, rng: random.Random) -> None:
    """Damages the checkpoint `name` in a folder: bytes, or values under checksums that are right."""
    manifest = folder / f"{name}.json"
    (arrays,) = folder.glob(f"{name}.*.safetensors")
    kind = rng.randrange(4)
    if kind == 0:
        path = rng.choice([manifest, arrays])
        path.write_bytes(damaged(path.read_bytes(), rng))
    elif kind == 1:
        rng.choice([manifest, arrays]).unlink()
    elif kind == 2:
        manifest.write_text(json.dumps(_sealed(mutated(json.loads(manifest.read_text()), rng))))
    else:
        record, raw = json.loads(manifest.read_text()), arrays.read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.dumps(mutated(json.loads(raw[8 : 8 + length]), rng)).encode()
        raw = struct.pack("<Q", len(header)) + header + raw[8 + length :]
        digest = hashlib.sha256(raw).hexdigest()
        arrays.unlink()
        (folder / f"{name}.{digest[:16]}.safetensors").write_bytes(raw)
        record |= {"sha256": digest, "bytes": len(raw), "arrays": f"{name}.{digest[:16]}.safetensors"}
        manifest.write_text(json.dumps(_sealed(record)))


class Bench:
    """Runs of two agents whose copies are damaged."""

    def __init__(self, work: Path):
        import jaxql
        from jaxql.lab.export import export

        self.work = work
        small = dict(quiet=True, steps=300, eval_every=100, eval_episodes=1, keep_state=True, solved_at=math.inf)
        self.table = work / "table"
        self.deep = work / "deep"
        jaxql.train("q-learning", "FrozenLake-v1", out=self.table, **small)
        jaxql.train("dqn", "CartPole-v1", out=self.deep, hidden=(8,), capacity=200, warmup_steps=50, num_envs=2,
                    gradient_steps=1, rollout_length=2, batch_size=8, **small)  # fmt: skip
        self.policy = work / "policy.safetensors"
        export(jaxql.open_run(self.deep), self.policy)
        (work / "current").mkdir()

    def copy(self, rng: random.Random) -> Path:
        """Returns a fresh copy of one of the runs."""
        folder = self.work / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(rng.choice([self.table, self.deep]), folder)


def fuzz_checkpoint(bench: Bench, rng: random.Random) -> None:
    from jaxql.lab import checkpoint

    folder, name = bench.copy(rng), rng.choice(["best", "last"])
    _forge(folder / "checkpoints", name, rng)
    checkpoint.load(folder / "checkpoints" / name)


def fuzz_resume(bench: Bench, rng: random.Random) -> None:
    import jaxql

    folder = bench.copy(rng)
    names = sorted(path.stem for path in (folder / "state").glob("*.json"))
    _forge(folder / "state", rng.choice(names), rng)
    jaxql.resume(folder, steps=320, quiet=True)


def fuzz_run(bench: Bench, rng: random.Random) -> None:
    import jaxql
    from jaxql.lab import files

    folder = bench.copy(rng)
    path = folder / rng.choice(["config.json", "config.json", "result.json"])
    if rng.random() < 0.3:
        path.write_bytes(damaged(path.read_bytes(), rng))
    else:
        record = mutated(json.loads(path.read_text()), rng)
        if isinstance(record, dict) and rng.random() < 0.5:
            with contextlib.suppress(ValueError):
                record["checksum"] = files._checksum(json.loads(json.dumps(record)))
        path.write_text(json.dumps(record))
    rng.choice([jaxql.open_run, lambda x: jaxql.resume(x, quiet=True)])(folder)


def fuzz_metrics(bench: Bench, rng: random.Random) -> None:
    from jaxql.lab.collect import find_runs
    from jaxql.lab.files import read_metrics

    folder = bench.copy(rng)
    path = folder / rng.choice(["metrics.csv", "timing.csv", "result.json", "config.json"])
    path.write_bytes(damaged(path.read_bytes(), rng))
    find_runs([folder])
    read_metrics(folder)


def fuzz_policy(bench: Bench, rng: random.Random) -> None:
    import numpy as np

    import jaxql

    path, raw = bench.work / "damaged.safetensors", bench.policy.read_bytes()
    if rng.random() < 0.5:
        raw = damaged(raw, rng)
    else:
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + length])
        if rng.random() < 0.6:
            about = json.loads(header["__metadata__"]["jaxql"])
            header["__metadata__"]["jaxql"] = json.dumps(mutated(about, rng))
        else:
            header = mutated(header, rng)
        text = json.dumps(header).encode()
        raw = struct.pack("<Q", len(text)) + text + raw[8 + length :]
    path.write_bytes(raw)
    jaxql.load_policy(path)(np.zeros((2, 4), np.float32))


WORDS = ["", "-1", "0", "1", "2", "3.5", "nan", "inf", "-inf", "1e400", "1e-400", "abc", "True", "none", "None", "[]",
         "{}", "99999999999999999999", "-9223372036854775809", "\u00e9\u4e2d", "a b", "\t", "x" * 300, "--", "-", "=",
         "../..", "/dev/null", "/proc/self/mem", "%s%n", "$(id)", "os:system", ":", "a:", ":b", "a\nb"]  # fmt: skip
OPTIONS = ["--steps", "--seed", "--seeds", "--learning-rate", "--discount", "--epsilon", "--env-arg", "--num-envs",
           "--capacity", "--batch-size", "--n-step", "--hidden", "--network", "--preset", "--log-every", "--solved-at",
           "--eval-every", "--eval-episodes", "--checkpoint-every", "--checkpoint-minutes", "--init-from", "--loss",
           "--head", "--backup", "--prioritised", "--double", "--warmup-steps", "--rollout-length", "--out", "--format",
           "--json", "--episodes", "--trust", "--resume-or-start", "--where", "--by", "--score", "--fps", "--kind",
           "--x", "--y", "--help", "--stepz", "--unroll", "--keep-state", "--no-save-replay"]  # fmt: skip
ENVS = ["FrozenLake-v1", "CartPole-v1", "jax:catch", "jax:nothing", "Pendulum-v1", "CartPole-v99", "gymnax:X", "x/y-v0"]


def _argv(bench: Bench, rng: random.Random) -> list[str]:
    """Returns words that a person might type, or a hostile one."""
    from jaxql import cli

    command = rng.choice([*cli.COMMANDS, "train", "train", rng.choice(WORDS)])
    argv = [command]
    folders = [str(bench.table), str(bench.deep), str(bench.work), "nowhere", rng.choice(WORDS), str(bench.policy)]
    if command == "train":
        agents = ["q-learning", "dqn", "c51", "value-iteration", "pqn", "r2d2", rng.choice(WORDS)]
        argv += [rng.choice(agents), "--env", rng.choice([*ENVS[:3], *ENVS, rng.choice(WORDS)])]
        argv += ["--steps", "40", "--out", rng.choice(["run", "run", rng.choice(WORDS)])]
    elif rng.random() < 0.9:
        argv += [rng.choice(folders)]
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        option = rng.choice(OPTIONS)
        argv += rng.choice([[option, rng.choice(WORDS)], [option], [f"{option}={rng.choice(WORDS)}"]])
    if rng.random() < 0.2:
        rng.shuffle(argv)
    return argv


def fuzz_commands(bench: Bench, rng: random.Random) -> None:
    """Runs a command in a folder of its own; a training that goes on for 4 seconds is sent SIGTERM.

    One that does not end then is a hang. The patience of a run is longer than that, or the run would end this process.
    """
    from jaxql import cli
    from jaxql.errors import UserError
    from jaxql.lab import signals

    current = bench.work / "current"
    shutil.rmtree(current)
    current.mkdir()
    argv = _argv(bench, rng)
    out, err = io.StringIO(), io.StringIO()
    patience = signals.catching_signals.__wrapped__  # type: ignore[attr-defined]
    patience.__defaults__ = (2.0 * HANG_SECONDS,)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    signal.signal(signal.SIGTERM, _stop)
    signal.setitimer(signal.ITIMER_REAL, 4 if argv[0] in ("train", "resume") else 60)
    try:
        with contextlib.chdir(current), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(argv)
    except _Stopped:
        code = 143
    except SystemExit as stop:
        code = stop.code
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        patience.__defaults__ = (signals.PATIENCE,)
    said = err.getvalue()
    assert code in (0, 2, 130, 143), f"{argv}: exit {code}"
    assert "Traceback" not in said + out.getvalue(), f"{argv}: {said}"
    if code == 2:
        lines = [line for line in said.splitlines() if "Warning" not in line]
        assert len(lines) <= 1 or argv[0] in ("runs", "compare", "plot"), f"{argv}: {said}"
        assert said or out.getvalue(), f"{argv}: nothing was said"
        written = [] if "settings:" in out.getvalue() else [path.name for path in current.iterdir()]
        assert not written, f"{argv}: {written}"
        raise UserError(said.strip())


class _Stopped(BaseException):
    pass


def _stop(*_: Any) -> None:
    raise _Stopped


FUZZED: dict[str, Callable[[Bench, random.Random], None]] = {
    "checkpoint": fuzz_checkpoint,
    "resume": fuzz_resume,
    "run": fuzz_run,
    "metrics": fuzz_metrics,
    "policy": fuzz_policy,
    "commands": fuzz_commands,
}


def fuzz(
    target: str, seconds: float, seed: int = 0, most: int | None = None, bench: Bench | None = None
) -> dict[str, Any]:
    """Tries cases until the time is up, or `most` of them, and returns what was seen.

    A case is refused by a UserError of one line, or taken. Anything else is a fault, which is named with its number:
    `random.Random(f"{seed}-{number}")` makes it again. A case that takes longer than 90 seconds ends the process.
    """
    from jaxql.errors import UserError

    attempt, seen, faults = FUZZED[target], Counter(), {}
    slowest = 0.0
    with tempfile.TemporaryDirectory() as work, _variables(XDG_STATE_HOME=f"{work}/state"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = bench or Bench(Path(work, "a", "b"))
        before, number, began = _memory(), 0, time.monotonic()
        while time.monotonic() - began < seconds and (most is None or number < most):
            case = time.monotonic()
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            try:
                attempt(bench, random.Random(f"{seed}-{number}"))
                seen["taken"] += 1
            except UserError as error:
                seen["refused"] += 1
                if "\n" in str(error) and target != "commands":
                    faults.setdefault("more than one line", f"case {number}: {error}")
            except Exception as error:
                seen["faults"] += 1
                faults.setdefault(_where(error), f"case {number}: {type(error).__name__}: {error}"[:600])
            finally:
                faulthandler.cancel_dump_traceback_later()
            slowest, number = max(slowest, time.monotonic() - case), number + 1
        grown = _memory() - before
    return {
        "what": "fuzz",
        "case": target,
        "seed": seed,
        "cases": number,
        **seen,
        "faults": [f"{where}: {what}" for where, what in faults.items()],
        "slowest seconds": round(slowest, 2),
        "memory grown by MB": round(grown / 1e6, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def _where(error: BaseException) -> str:
    """Returns the innermost place in jaxql, or the innermost of all, at which an error was raised."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "/jaxql/" in frame.filename] or frames
    return f"{Path(inside[-1].filename).name}:{inside[-1].lineno}"


# -------------------------------------------------------------------------------------------------------------- hour
LONG = {
    "cartpole": ("dqn", "CartPole-v1", dict(capacity=5_000, log_every=5_000, checkpoint_every=20_000)),
    "pong": ("dqn", "PongNoFrameskip-v4", dict(capacity=2_000, warmup_steps=1_000, log_every=500, num_envs=4,
                                               checkpoint_every=2_000)),
}  # fmt: skip


def hour(case: str, seconds: float, seed: int = 0, rows: int | None = None) -> dict[str, Any]:
    """Trains until the time is up, or for so many rows, and returns memory and compilations over time.

    The first quarter of the rows is the warm-up: replay fills, programs compile. After it resident memory may grow by
    2 % and nothing may be traced.
    """
    import jax

    import jaxql

    agent, env, settings = LONG[case]
    traced: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: traced.append(time.monotonic()) if "trace_duration" in name else None
    )
    samples: list[dict[str, float]] = []
    began = time.monotonic()

    def sample(row: dict[str, Any]) -> bool:
        gc.collect()
        arrays = sum(1 for _ in jax.live_arrays())
        samples.append({"env_steps": row["env_steps"], "seconds": round(time.monotonic() - began, 1),
                        "resident_mb": round(_memory() / 1e6, 1), "arrays": arrays, "traces": len(traced)})  # fmt: skip
        if time.monotonic() - began > seconds or len(samples) == rows:
            raise _Enough
        return False

    with tempfile.TemporaryDirectory() as work, contextlib.suppress(_Enough):
        jaxql.train(agent, env, seed=seed, quiet=True, callback=sample, out=Path(work, "run"), steps=10**9,
                    eval_every=10**9, solved_at=math.inf, **settings)  # fmt: skip
    settled = samples[len(samples) // 4 :]
    quarters = [settled[i * (len(settled) - 1) // 4] for i in range(5)]
    return {
        "what": "hour",
        "case": case,
        "settings": settings,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "env_steps": samples[-1]["env_steps"],
        "rows": len(samples),
        "memory growth after the first quarter": round(settled[-1]["resident_mb"] / settled[0]["resident_mb"] - 1, 4),
        "samples": quarters,
        "faults": growth_faults(settled),
    }


def growth_faults(samples: list[dict[str, float]]) -> list[str]:
    """Returns what grew from the first sample to the last: memory by more than 2 %, arrays, or traces."""
    first, last = samples[0], samples[-1]
    growth = last["resident_mb"] / first["resident_mb"] - 1
    faults = [f"resident memory grew by {growth:.1%}"] if growth > 0.02 else []
    faults += ["traced again"] if last["traces"] > first["traces"] else []
    return faults + (["arrays grew in number"] if last["arrays"] > first["arrays"] else [])


class _Enough(Exception):
    pass


def _memory() -> int:
    """Returns the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _variables(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def record(row: dict[str, Any], about: dict[str, Any]) -> None:
    """Puts a row into the results, in the place of an older one of the same case."""
    row = {"date": datetime.date.today().isoformat()} | row | about
    row["command"] = "python benchmarks/endurance.py " + " ".join(sys.argv[1:])
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [each for each in rows if (each["what"], each["case"]) != (row["what"], row["case"])]
    rows = sorted([*rows, row], key=lambda each: (each["what"], each["case"]))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def main() -> int:
    from benchmarks import measure

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills", "fuzz", "hour"])
    parser.add_argument("case", choices=[*KILLED, *FUZZED, *LONG])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    commit = measure.commit()
    if options.what == "kills":
        row = kills(options.case, options.kills, 60 * (options.minutes or math.inf), options.seed)
    elif options.what == "fuzz":
        row = fuzz(options.case, 60 * (options.minutes or 10), options.seed)
    else:
        row = hour(options.case, 60 * (options.minutes or 60), options.seed)
    record(row, measure.about() | {"commit": commit})
    print(json.dumps(row, indent=1))
    return 1 if row["faults"] else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main())
