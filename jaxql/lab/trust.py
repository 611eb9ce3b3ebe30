"""Which code a run's config.json may name: a module is imported only if the user confirmed it.

A run that this user made in the folder where it still lies is signed with a key that only this user can read. Whoever
else writes a folder cannot sign it, and a copy of a signed folder is no longer signed.
"""

import contextlib
import hashlib
import hmac
import importlib
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxql.errors import UserError

SCHEMES = ("jax", "gymnax")  # of env ids whose colon follows no module
GYMNASIUM = ("gymnasium.envs.", "gymnasium.wrappers.")  # modules whose classes any run may use


def allow_current_folder() -> None:
    """Lets modules of the current folder be imported, for a command on which the user typed their names."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def import_object(name: str) -> Any:
    """Returns the object "module:attribute".

    Raises:
      UserError: no such module or attribute, or the module cannot be imported.

    >>> import_object("math:pi")
    3.141592653589793
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise UserError(f'"{name}" is not MODULE:NAME, as in mine:Net')
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise UserError(f'{name}: the module has no "{attribute}"') from None
    except Exception as error:  # a module may raise anything while it is imported
        raise UserError(f"{name}: {type(error).__name__}: {error}") from error


def modules_of(config: dict[str, Any]) -> list[str]:
    """Returns the modules that the settings of a run name, of its agent, env and network, without Gymnasium's envs.

    >>> modules_of({"agent": "mine:Agent", "env": "highway_env:highway-v0", "network": None})
    ['mine', 'highway_env']
    >>> modules_of({"agent": "dqn", "env": "jax:catch", "network": "passed in"})
    []
    """
    env = config.get("env")
    by_module = isinstance(env, str) and env.partition(":")[0] not in SCHEMES
    named = [config.get("agent"), env if by_module else None, config.get("network")]
    named += [each for each in _entry_points(config.get("env_spec")) if not _is_gymnasium(each)]
    return list(dict.fromkeys(name.rpartition(":")[0] for name in named if isinstance(name, str) and ":" in name))


def _entry_points(spec: Any) -> list[Any]:
    """Returns every "entry_point" in a Gymnasium spec: of the env, its vector version and its wrappers."""
    if isinstance(spec, list):
        return [name for each in spec for name in _entry_points(each)]
    if not isinstance(spec, dict):
        return []
    own = [value for key, value in spec.items() if key.endswith("entry_point")]
    return own + _entry_points(list(spec.values()))


def _is_gymnasium(entry_point: Any) -> bool:
    """Returns whether an entry point is an env or a wrapper of Gymnasium's."""
    module = str(entry_point).partition(":")[0]
    return module.startswith(GYMNASIUM) and module != "gymnasium.envs.registration"  # whose functions import others


def homes_of(modules: Iterable[str]) -> dict[str, str]:
    """Returns the folder in which each imported module, or its outermost package, was found."""
    homes = {}
    for module in modules:
        top = sys.modules.get(module.partition(".")[0])
        file = getattr(top, "__file__", None)
        if file:
            path = Path(file).resolve()
            homes[module] = str(path.parents[1] if path.stem == "__init__" else path.parent)
    return homes


def sign(folder: Path, checksum: str) -> str | None:
    """Returns this user's signature of a run with this checksum in this folder; None where no key can be kept."""
    key = _key(make=True)
    return None if key is None else _signature(key, folder, checksum)


def is_signed(folder: Path, checksum: Any, signature: Any) -> bool:
    """Returns whether this user made the run with this checksum in this folder."""
    key = _key(make=False)
    if key is None or not isinstance(signature, str) or not isinstance(checksum, str):
        return False
    return hmac.compare_digest(_signature(key, folder, checksum).encode(), signature.encode(errors="replace"))


@contextlib.contextmanager
def restricted_imports(folder: str | os.PathLike, homes: Iterable[str] = ()) -> Iterator[None]:
    """Leaves the current folder and a run's folder out of the search path, unless PYTHONPATH names them.

    Args:
      folder: of the run.
      homes: folders in which modules are looked for last; they stay in the search path.
    """
    asked = {os.path.realpath(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each}
    hidden = {os.path.realpath(os.getcwd()), os.path.realpath(folder)} - asked
    before, homes = sys.path[:], list(dict.fromkeys(homes))
    sys.path[:] = [each for each in before if os.path.realpath(each or os.getcwd()) not in hidden] + homes
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before + [home for home in homes if home not in before]


def import_modules(folder: str | os.PathLike, modules: Iterable[str], *, confirmed: bool) -> None:
    """Imports the modules that a run names, if the user confirmed them.

    Those in use need confirmation too: a forged run may call what they have.

    Raises:
      UserError: a module is not confirmed, or cannot be imported.
    """
    for module in modules:
        if not confirmed:
            raise UserError(
                f"{folder}: the run names the module {module!r:.80}, whose code is run only if you ask for it: "
                "add --trust (in Python: trust=True) if you know who made the run"
            )
        try:
            importlib.import_module(module)
        except Exception as error:  # a module may raise anything while it is imported
            raise UserError(
                f"{folder}: the module {module!r:.80} cannot be imported: {type(error).__name__}: {error}; "
                "it must be installed, or lie in a folder that PYTHONPATH names"
            ) from error


def _signature(key: bytes, folder: Path, checksum: str) -> str:
    return hmac.new(key, f"{os.path.realpath(folder)}\0{checksum}".encode(errors="replace"), hashlib.sha256).hexdigest()


def _key(make: bool) -> bytes | None:
    """Returns this user's secret key, which is made if there is none; None where it cannot be kept."""
    state = os.environ.get("XDG_STATE_HOME")
    try:
        path = (Path(state) if state else Path.home() / ".local" / "state") / "jaxql" / "key"
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"key.{secrets.token_hex(8)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
            with suppress(FileExistsError):  # of two processes one wins
                os.link(temporary, path)
            temporary.unlink()
        key = path.read_bytes()
    except (OSError, RuntimeError):  # no home folder, or one that cannot be written
        return None
    return key if len(key) == 32 and _is_private(path) else None


def _is_private(path: Path) -> bool:
    """Returns whether this user alone can write the file."""
    about = path.stat()
    return not hasattr(os, "getuid") or about.st_uid == os.getuid() and not about.st_mode & 0o077
