"""Policies on their own: one file with the parameters and all that makes the agent again.

The file is a safetensors file of the parameters. Its metadata hold one JSON object, `jaxql`: the settings of the run,
and what its env shows to the agent.
"""

import contextlib
import importlib.util
import inspect
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxql import agents, kernels, loop
from jaxql.agents.state import hyper_of
from jaxql.errors import UserError, nearest
from jaxql.lab import checkpoint, trust as confirm
from jaxql.lab.disk import write_file
from jaxql.lab.environments import EnvMaker
from jaxql.lab.evaluation import Evaluation
from jaxql.lab.files import read_config
from jaxql.lab.runs import Run, film, network_named, play
from jaxql.lab.settings import settings as resolve
from jaxql.types import Agent, EnvSpec

FORMAT, VERSION = "jaxql policy", 1
SHIPPED = Path(__file__).parent.parent / "pretrained"  # the policies that come with jaxql
SCHEME = "pretrained:"  # before the name of one of them


class Policy:
    """The greedy policy of a trained agent, without its run.

    Observations are those that the agent's envs show (`jaxql.envs.make`), one [...] or a batch [B, ...]. Actions are
    0..A-1. A recurrent policy remembers from call to call; `reset` begins an episode.

    Attributes:
      about: the settings of the run: "agent", "env", "env_args", "settings", and its "score" and "env_steps".
      spec: what the envs show to the agent.
      params: the parameters.
    """

    def __init__(self, agent: Agent, spec: EnvSpec, params: Any, about: dict[str, Any], path: Path, trust: bool):
        self.agent, self.spec, self.params, self.about = loop.jit_agent(agent), spec, params, about
        self._path, self._trust = path, trust
        self._memory: Any = None  # after the last observation; None at the start of an episode

    def reset(self) -> None:
        """Forgets what was seen: the next observation begins an episode."""
        self._memory = None

    def __call__(self, obs: Any) -> np.ndarray:
        """Returns the greedy action of an observation, or those [B] of a batch; ties go to the first."""
        return np.asarray(jnp.argmax(self.q_values(obs), axis=-1))

    def q_values(self, obs: Any) -> np.ndarray:
        """Returns the action values [A] of an observation, or [B, A] of a batch.

        Raises:
          UserError: the observation has another structure, shape or dtype; or the agent has no action values.
        """
        if self.agent.q_values is None:
            raise UserError("this agent has no action values")
        batch, alone = self._as_batch(obs)
        memory = self._memory
        if memory is None:
            shapes = jax.eval_shape(self.agent.q_values, self.params, batch, ())[1]
            memory = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        q, self._memory = self.agent.q_values(self.params, batch, memory)
        return np.asarray(q[0] if alone else q)

    def evaluate(self, episodes: int = 20, seed: int = 0) -> Evaluation:
        """Plays full episodes of the env that the agent was trained in, as `Run.evaluate` does."""
        with self._envs() as make_env:
            return play(self.agent, lambda: self.params, make_env, episodes, seed)

    def record(
        self, path: str | os.PathLike, seed: int = 0, episodes: int = 1, max_steps: int | None = None
    ) -> dict[str, Any]:
        """Writes a video of the policy at play, .mp4 or .gif; returns what `jaxql.lab.video.record` does."""
        with self._envs() as make_env:
            return film(self.agent, lambda: self.params, make_env, path, seed, episodes, max_steps)

    @contextlib.contextmanager
    def _envs(self) -> Iterator[EnvMaker]:
        """Gives the maker of the envs that the file describes; a module that it names must be confirmed."""
        record = {name: self.about.get(name) for name in ("env", "env_spec")}
        with confirm.restricted_imports(self._path.parent):
            confirm.import_modules(self._path, confirm.modules_of(record), confirmed=self._trust)
            try:
                make_env = EnvMaker.from_record(self.about)
            except UserError as error:
                raise UserError(f"{self._path}: {error}") from error
            except Exception as error:  # values that nobody checked may raise anything
                reason = f"{type(error).__name__}: {error}"
                raise UserError(f"{self._path}: its env cannot be made again: {reason:.200}") from error
            yield make_env

    def _as_batch(self, obs: Any) -> tuple[Any, bool]:
        """Returns the observations with a batch axis, and whether there was none."""
        like = self.spec.obs
        try:
            leaves = jax.tree.map(lambda want, x: np.asarray(x).astype(want.dtype, casting="same_kind"), like, obs)
        except (TypeError, ValueError) as error:
            raise UserError(f"an observation is {_shapes(like)}, not {type(obs).__name__}: {error}") from error
        ranks = {
            x.ndim - len(want.shape) for x, want in zip(jax.tree.leaves(leaves), jax.tree.leaves(like), strict=True)
        }
        alone = ranks == {-1}
        if alone:
            leaves = jax.tree.map(lambda x: x[None], leaves)
        fits = jax.tree.map(lambda x, want: x.shape[1:] == want.shape[1:], leaves, like)
        if not jax.tree.all(fits) or not (alone or ranks == {0}):
            raise UserError(f"an observation is {_shapes(like)}, not {_shapes(leaves, 0)}")
        return jax.tree.map(jnp.asarray, leaves), alone


def _shapes(tree: Any, first: int = 1) -> str:
    """Returns dtypes and shapes as text, from axis `first` on."""
    return str(jax.tree.map(lambda x: f"{x.dtype}{list(x.shape[first:])}", tree))


def is_policy(source: str | os.PathLike) -> bool:
    """Returns whether a name is that of a policy, a file or one that comes with jaxql, and not of a run folder.

    >>> is_policy("pretrained:taxi"), is_policy("mine.safetensors"), is_policy("runs/mine")
    (True, True, False)
    """
    return str(source).startswith(SCHEME) or Path(source).suffix == ".safetensors"


def pretrained() -> list[str]:
    """Returns the names of the policies that come with jaxql."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def _path_of(source: str | os.PathLike) -> Path:
    """Returns the file of a policy. Raises UserError if `source` is "pretrained:NAME" with an unknown name."""
    if not str(source).startswith(SCHEME):
        return Path(source)
    name = str(source).removeprefix(SCHEME)
    if name not in pretrained():
        known = ", ".join(SCHEME + each for each in pretrained())
        raise UserError(f"{source}: no such policy comes with jaxql{nearest(name, pretrained())}; there are {known}")
    return SHIPPED / f"{name}.safetensors"


def export(run: Run, path: str | os.PathLike, *, float16: bool = False) -> None:
    """Writes the best checkpoint of a run as one file, from which `load_policy` makes a policy.

    Args:
      run: as `jaxql.train` or `jaxql.open_run` returned it; its agent must have a name.
      path: of the file; its name ends in .safetensors.
      float16: round the parameters to float16, which halves the file; `load_policy` gives them back their type.

    Raises:
      UserError: the file cannot be written, the agent or its network came from Python, or a parameter is too large for
        float16.
    """
    path = _checked_path(path, ".safetensors")
    about = _about(run)
    arrays, keys = checkpoint.named_arrays(run.best_params())
    if keys:
        raise UserError(f"{run.folder}: its parameters hold random keys, which a policy file cannot")
    if float16:
        arrays = {name: _rounded(name, array) for name, array in arrays.items()}
    data = bytes(safetensors.numpy.save(arrays, metadata={"jaxql": json.dumps(about)}))
    try:
        write_file(path, data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _rounded(name: str, array: np.ndarray) -> np.ndarray:
    """Returns floating-point numbers as float16, others as they are. Raises UserError for a number too large."""
    if not np.issubdtype(array.dtype, np.floating):
        return array
    if np.max(np.abs(array), initial=0) > np.finfo(np.float16).max:
        raise UserError(f"the parameter {name} exceeds 65504, the largest float16: export without float16")
    return array.astype(np.float16)


def load_policy(path: str | os.PathLike, *, trust: bool = False, **changes: Any) -> Policy:
    """Returns the policy in a file that `export` wrote, or one that comes with jaxql. The run is not needed.

    Args:
      path: of the file; or "pretrained:NAME", see `pretrained`.
      trust: import the modules that the file names for its agent or network; they must be installed.
      **changes: settings that differ from those of the training run, as `convolution="xla", bfloat16=False`.

    Raises:
      UserError: no such file, a damaged one, one that names a module that is not confirmed, or a setting that is not
        known or does not fit its parameters; one line.
    """
    path = _path_of(path)
    about, arrays = _read(path)
    modules = confirm.modules_of({name: about.get(name) for name in ("agent", "network")})
    with confirm.restricted_imports(Path(path).parent):
        confirm.import_modules(path, modules, confirmed=trust)
        try:
            spec = _spec_of(about["spec"])
            entry = agents.entry_of(about["agent"])
            config, _ = resolve(entry, about["env"], **about["settings"] | changes)
            network = network_named(about["network"], spec) if about["network"] else None
            agent = entry.make(config, spec, network)
            shapes = jax.eval_shape(agent.init, jax.random.key(0), spec.obs, hyper_of(config)).params
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except Exception as error:  # values that nobody checked may raise anything
            raise UserError(f"{path}: no policy can be made of it: {type(error).__name__}: {error}") from error
    params = checkpoint.restored(path, checkpoint.widened(arrays, shapes), shapes)
    return Policy(agent, spec, params, about, path, trust)


def export_jax(run: Run, path: str | os.PathLike, batch: int | None = None) -> None:
    """Writes the greedy policy as a `jax.export` artefact for CPU, CUDA and TPU, which runs without jaxql.

    `jax.export.deserialize(bytearray(data)).call(obs)` gives (actions [B], action values [B, A]) of observations
    [B, ...] as the agent's envs show them. A recurrent policy sees every observation as the first of an episode.

    Args:
      run: as in `export`.
      path: of the file; its name ends in .jaxexport.
      batch: B; None: any.

    Raises:
      UserError: the file cannot be written, or the agent has no action values.
    """
    path = _checked_path(path, ".jaxexport")
    params, spec = run.best_params(), run.spec
    if run.agent.q_values is None:
        raise UserError(f"{run.folder}: its agent has no action values")
    q_values = inspect.unwrap(run.agent.q_values)  # traced anew, without private kernels

    def policy(obs: Any) -> tuple[Any, Any]:
        q = q_values(params, obs, ())[0]
        return jnp.argmax(q, axis=-1), q

    size = jax.export.symbolic_shape("b")[0] if batch is None else batch
    obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), spec.obs)
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("a jax file is written with flatbuffers, which is not installed: pip install flatbuffers")
    used = kernels.private_is_used()
    kernels.use_private(False)  # other versions of jaxlib lack what they call
    try:
        data = bytes(jax.export.export(jax.jit(policy), platforms=("cpu", "cuda", "tpu"))(obs).serialize())
    finally:
        kernels.use_private(used)
    try:
        write_file(path, data)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _checked_path(path: str | os.PathLike, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise UserError(f"{path}: the name of the file must end in {suffix}")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    return path


def _about(run: Run) -> dict[str, Any]:
    """Returns the metadata of a run's policy."""
    record = read_config(run.folder)["config"]
    return {
        "format": FORMAT,
        "version": VERSION,
        **{
            name: record[name]
            for name in ("agent", "env", "env_args", "env_spec", "env_options", "network", "settings", "seed")
        },
        "score": run.best_score,
        "spec": _spec_as_json(run.spec),
    }


def _spec_as_json(spec: EnvSpec) -> dict[str, Any]:
    leaves = jax.tree.leaves(spec.obs)
    names = sorted(spec.obs) if isinstance(spec.obs, dict) else None
    if len(leaves) != (1 if names is None else len(names)):
        raise UserError("a policy file holds one array as observation, or a dictionary of arrays")
    shapes = [{"shape": list(x.shape), "dtype": str(x.dtype)} for x in leaves]
    return {
        "obs": shapes[0] if names is None else dict(zip(names, shapes, strict=True)),
        "dict": names is not None,
        "num_actions": spec.num_actions,
        "num_states": spec.num_states,
        "stack": spec.stack,
    }


def _spec_of(values: dict[str, Any]) -> EnvSpec:
    def array(entry: dict[str, Any]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(entry["shape"]), jnp.dtype(entry["dtype"]))

    obs: Any = values["obs"]
    obs = {name: array(entry) for name, entry in obs.items()} if values["dict"] else array(obs)
    num_envs = len(jax.tree.leaves(obs)[0].shape) and jax.tree.leaves(obs)[0].shape[0]
    return EnvSpec(obs, values["num_actions"], num_envs, num_states=values["num_states"], stack=values["stack"])


def _read(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the metadata and the arrays of a policy file. Raises UserError, one line, for anything else."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["jaxql"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise UserError(f"no policy file {path}") from error
    except (OSError, KeyError, ValueError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is not the policy file of a jaxql run, or is damaged: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{path} is not the policy file of a jaxql run")
    if about.get("version") != VERSION:
        raise UserError(f"{path} has format {about.get('version')}, and this jaxql reads {VERSION}: use a newer one")
    return about, arrays
