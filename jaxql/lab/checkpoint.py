"""Checkpoints: the arrays of any pytree in one safetensors file, and a JSON manifest that vouches for them.

`NAME.json` is the checkpoint. It names the arrays file, `NAME.<start of its SHA-256>.safetensors`, never the one in
use: a kill at any moment leaves the previous checkpoint or the new one, never neither and never a mixture. Every file
is written under a temporary name, synced, renamed, and its folder synced.
"""

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError, nearest
from jaxql.lab.disk import publish, write_file, write_synced

FORMAT, VERSION = "jaxql checkpoint", 1
MANIFEST = {"keys": dict, "metadata": dict, "sha256": str, "bytes": int, "arrays": str}  # fields beside those
ARRAYS = r"\.[0-9a-f]{16}\.safetensors"  # ends the name of an arrays file
MAX_RANK = 32  # of an array that NumPy 1 can hold
_NAMES = {"BOOL": "bool", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64"}
_NAMES |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_NAMES |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
_DTYPES = {code: jnp.dtype(name) for code, name in _NAMES.items()}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


def save(path: str | os.PathLike, tree: Any, metadata: dict[str, Any]) -> None:
    """Writes `tree` and `metadata` as the checkpoint `path`, replacing the previous one only when all of it is on disk.

    Args:
      path: folder and name without a suffix, `runs/a/checkpoints/last`. One process at a time may save to it.
      tree: pytree of arrays (JAX of any dtype safetensors has, typed PRNG keys, NumPy) and Python numbers.
      metadata: values that JSON can hold. NumPy and JAX scalars become numbers; tuples come back as lists.

    Raises:
      UserError: a leaf or the metadata cannot be stored, or the disk refuses; the previous checkpoint stays loadable.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/last", {"w": jnp.arange(3, dtype="int32")}, {"env_steps": 7})
    ...     load(f"{folder}/last")
    ({'w': Array([0, 1, 2], dtype=int32)}, {'env_steps': 7})
    """
    folder, name = Path(path).parent, Path(path).name
    arrays, keys = named_arrays(tree)
    record: dict[str, Any] = {"format": FORMAT, "version": VERSION, "keys": keys, "metadata": _plain(metadata)}
    before = _arrays_in_use(folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{name}.safetensors.tmp"
        record["sha256"], record["bytes"] = write_synced(temporary, _chunks(arrays))
        record["arrays"] = f"{name}.{record['sha256'][:16]}.safetensors"
        publish(temporary, folder / record["arrays"])
        record["checksum"] = _checksum(record)
        write_file(folder / f"{name}.json", json.dumps(record, indent=1).encode())
    except OSError as error:
        _sweep(folder, name, {before, _arrays_in_use(folder, name)})
        raise UserError(f"cannot write checkpoint {path}: {error.strerror or error}; the one before is kept") from error
    _sweep(folder, name, {record["arrays"]})


def load(path: str | os.PathLike, like: Any = None) -> tuple[Any, dict[str, Any]]:
    """Returns `(tree, metadata)` of the checkpoint `path`: all of it, verified, or an error.

    Args:
      path: as given to `save`.
      like: pytree of arrays or `jax.ShapeDtypeStruct`s to restore into. Leaves become fresh JAX arrays, safe to donate,
        sharded as in `like` where that has several devices; NumPy arrays and Python numbers come back as such.
        Without it the tree is nested dicts, and a 64-bit leaf is NumPy where JAX_ENABLE_X64 is off.

    Raises:
      UserError: missing, damaged, of a newer format, or of another structure, shape or dtype than `like`.
    """
    manifest, arrays = _read(path)
    if unknown := manifest["keys"].keys() - arrays.keys():
        raise _damaged(path, f"the manifest names a key {min(unknown)!r:.60}, and there is no such array")
    leaves = {name: _with_key(path, name, array, manifest["keys"].get(name)) for name, array in arrays.items()}
    return (_nested(path, leaves) if like is None else restored(path, leaves, like)), manifest["metadata"]


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the metadata of the checkpoint `path` without its arrays. Raises UserError as `load` does."""
    return _read_manifest(Path(path).parent, Path(path).name)["metadata"]


# Writing


def _leaf_name(path: tuple) -> str:
    """Returns `params/Dense_0/kernel`; a "/" inside a key is escaped as in JSON Pointer (RFC 6901)."""
    parts = (jax.tree_util.keystr((entry,), simple=True) for entry in path)
    return "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def named_arrays(tree: Any) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the leaves by name, and the implementation of those that are PRNG keys.

    Raises:
      UserError: as `save` does.
    """
    arrays, keys = {}, {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = _leaf_name(path)
        if name in arrays or name == "__metadata__":
            raise UserError(f'cannot store two leaves named "{name}", or one named "__metadata__": rename a dict key')
        if _is_key(leaf):
            keys[name], leaf = str(jax.random.key_impl(leaf)), jax.random.key_data(leaf)
        array = np.asarray(leaf)
        if array.dtype not in _CODES:
            allowed = ", ".join(_NAMES.values())
            raise UserError(f'cannot store leaf "{name}" of {type(leaf).__name__} {array.dtype}; allowed: {allowed}')
        arrays[name] = array
    return arrays, keys


def _chunks(arrays: dict[str, np.ndarray]) -> Iterator[Any]:
    """Yields a safetensors file piece by piece, without a copy of the whole: header length, header, arrays."""
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # widest first keeps every array aligned
    header, offset = {}, 0
    for name, array in ordered:
        span = [offset, offset := offset + array.nbytes]
        header[name] = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": span}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for _, array in ordered:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _plain(metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns metadata as JSON reads it back."""
    try:
        return json.loads(json.dumps(metadata, default=lambda value: value.item()))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"checkpoint metadata must be numbers, strings, lists and dicts: {error}") from error


def _checksum(record: dict[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _arrays_in_use(folder: Path, name: str) -> str | None:
    try:
        return _read_manifest(folder, name)["arrays"]
    except UserError:
        return None


def _sweep(folder: Path, name: str, keep: set[str | None]) -> None:
    """Removes files of earlier saves and failures. Removes none if `keep` has None: the files in use are not known."""
    ours = re.compile(re.escape(name) + rf"({ARRAYS}|\.safetensors\.tmp|\.json\.tmp)")
    with suppress(OSError):
        for file in folder.iterdir() if None not in keep else ():
            if ours.fullmatch(file.name) and file.name not in keep:
                file.unlink(missing_ok=True)


# Reading


def _read(path: str | os.PathLike, attempts: int = 3) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the manifest and the leaves by name. A save between the two reads replaces both: then reads again."""
    folder, name = Path(path).parent, Path(path).name
    manifest = _read_manifest(folder, name)
    try:
        return manifest, _read_arrays(folder / manifest["arrays"], manifest)
    except FileNotFoundError as error:
        if attempts > 1:
            return _read(path, attempts - 1)
        raise _damaged(path, f"{manifest['arrays']} is missing") from error


def _damaged(path: Any, reason: str) -> UserError:
    return UserError(f"checkpoint {path} cannot be used: {reason}; restore it from a copy or use another checkpoint")


def _read_manifest(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"no checkpoint {folder / name}: {path.name}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "the manifest is not JSON (truncated or overwritten)") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise _damaged(path, "this is not the manifest of a jaxql checkpoint")
    if record.get("version") != VERSION:
        version = f"format {record.get('version')}, and this jaxql reads {VERSION}"
        raise UserError(f"checkpoint {path} has {version}: load it with the jaxql that wrote it, or a newer one")
    if record.get("checksum") != _checksum(record):
        raise _damaged(path, "the manifest's checksum is wrong, so it was changed after it was written")
    for field, kind in MANIFEST.items():
        if not _is(record.get(field), kind):
            raise _damaged(path, f"its {field} is {record.get(field)!r:.60}, not a {kind.__name__}")
    if not re.fullmatch(re.escape(name) + ARRAYS, record["arrays"]):
        raise _damaged(path, f"its arrays are {record['arrays']!r:.60}, which is not the name of their file")
    for leaf, implementation in record["keys"].items():
        if not isinstance(implementation, str):
            raise _damaged(path, f"the key {leaf!r:.60} has the generator {implementation!r:.60}, which is not a name")
    return record


def _is(value: Any, kind: type) -> bool:
    """Returns whether a value of JSON has this type; a truth value is no number."""
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _read_arrays(path: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the leaves by name, after size and SHA-256 are found right. Raises FileNotFoundError or UserError."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != manifest["bytes"]:
                raise _damaged(path, f"{size} bytes where {manifest['bytes']} were written")
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"]:
                raise _damaged(path, "its SHA-256 is not the manifest's, so bytes were changed")
            start, entries = _read_header(path, file, size)
            return {name: _read_array(file, start, *entry) for name, entry in entries.items()}
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


Entry = tuple[Any, tuple[int, ...], int, int]  # of an array: dtype, shape, first byte, byte after the last


def _read_header(path: Path, file: Any, size: int) -> tuple[int, dict[str, Entry]]:
    """Returns where the arrays begin, and the entry of each by name.

    Raises:
      UserError: the entries do not fill the rest of the file one after another, as the format requires.
    """
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\xff"))
    if length > size - 8:
        raise _damaged(path, "its header is longer than the file")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    entries = {name: _entry(path, name, entry) for name, entry in header.items() if name != "__metadata__"}
    end = 0
    for name, (_, _, first, last) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if first != end:
            raise _damaged(path, f"its array {name!r:.60} begins at byte {first}, and the one before ends at {end}")
        end = last
    if 8 + length + end != size:
        raise _damaged(path, f"its arrays take {end} bytes of {size - 8 - length}")
    return 8 + length, entries


def _entry(path: Path, name: str, entry: Any) -> Entry:
    """Returns the checked entry of one array in the header."""
    wrong = _damaged(path, f"the entry of its array {name!r:.60} is {entry!r:.80}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong
    code, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    lists = isinstance(shape, list) and isinstance(span, list) and len(span) == 2 and len(shape) <= MAX_RANK
    if not lists or not all(_is(n, int) and 0 <= n < 2**63 for n in [*shape, *span]):
        raise wrong
    if not isinstance(code, str) or code not in _DTYPES:
        raise wrong
    if math.prod(shape) * _DTYPES[code].itemsize != span[1] - span[0]:
        raise wrong
    return _DTYPES[code], tuple(shape), span[0], span[1]


def _read_array(file: Any, start: int, dtype: Any, shape: tuple[int, ...], first: int, last: int) -> np.ndarray:
    raw = np.empty(last - first, np.uint8)
    file.seek(start + first)
    if file.readinto(raw) != len(raw):
        raise OSError("the file became shorter while it was read")
    return raw.view(dtype).reshape(shape)


def _with_key(path: Any, name: str, array: np.ndarray, implementation: str | None) -> Any:
    """Returns the array, or the PRNG keys whose data it is."""
    if implementation is None:
        return array
    try:
        return jax.random.wrap_key_data(jnp.array(array), impl=implementation)
    except (TypeError, ValueError) as error:
        found = f"{array.dtype}{list(array.shape)}"
        raise _damaged(path, f"its leaf {name!r:.60}, {found}, is no key of {implementation!r:.60}") from error


def _holds(dtype: Any) -> bool:
    return jax.dtypes.canonicalize_dtype(dtype) == dtype


def _nested(path: Any, leaves: dict[str, Any]) -> Any:
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in name.split("/"))
        node: Any = tree
        for parent in parents:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last in node:
            raise _damaged(path, f"its leaf {name!r:.60} lies inside another leaf")
        node[last] = value if _is_key(value) or not _holds(value.dtype) else jnp.array(value)
    return tree[""] if list(leaves) == [""] else tree


def restored(path: Any, leaves: dict[str, Any], like: Any) -> Any:
    """Returns the leaves by name as a tree like `like`. Raises UserError as `load` does."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    wanted = [(_leaf_name(keys), leaf) for keys, leaf in paths]
    for name, _ in wanted:
        if name not in leaves:
            raise UserError(f'checkpoint {path} has no leaf "{name}"{nearest(name, leaves)}: use the settings it has')
    if extra := sorted(set(leaves) - {name for name, _ in wanted}):
        raise UserError(f'checkpoint {path} has a leaf "{extra[0]}" that is not expected: use the settings it has')
    return jax.tree.unflatten(structure, [_leaf(path, name, leaves[name], leaf) for name, leaf in wanted])


def widened(leaves: dict[str, Any], like: Any) -> dict[str, Any]:
    """Returns the leaves by name; floating-point numbers narrower than those of `like` get its type."""
    wanted = {_leaf_name(keys): leaf.dtype for keys, leaf in jax.tree_util.tree_flatten_with_path(like)[0]}

    def widen(name: str, leaf: Any) -> Any:
        dtype = wanted.get(name, leaf.dtype)
        both = jnp.issubdtype(dtype, jnp.floating) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if both and leaf.dtype.itemsize < dtype.itemsize else leaf

    return {name: widen(name, leaf) for name, leaf in leaves.items()}


def _leaf(path: Any, name: str, value: Any, like: Any) -> Any:
    """Returns `value` as the kind of leaf that `like` is. Raises UserError if shape or dtype differ."""
    target = like if hasattr(like, "dtype") else np.asarray(like)
    if value.shape != target.shape or value.dtype != target.dtype:
        found, expected = f"{value.dtype}{list(value.shape)}", f"{target.dtype}{list(target.shape)}"
        raise UserError(f'checkpoint {path}: leaf "{name}" is {found}, expected {expected}: use the settings it has')
    if isinstance(like, np.ndarray):
        return value
    if target is not like or isinstance(like, np.generic):
        return value.item() if target is not like else value[()]
    if not _is_key(value):
        if not _holds(value.dtype):
            raise UserError(f'checkpoint {path}: leaf "{name}" is {value.dtype}: set JAX_ENABLE_X64=1 to load it')
        value = jnp.array(value)
    sharding = getattr(like, "sharding", None)
    return jax.device_put(value, sharding) if sharding is not None and len(sharding.device_set) > 1 else value
