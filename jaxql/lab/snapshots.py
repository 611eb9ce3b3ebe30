"""The whole state of a run on disk, from which the run goes on exactly.

`last` is a checkpoint (see `jaxql.lab.checkpoint`) of everything but the rows of replay. Rows lie in segments beside
it, `rows-0-<first tick>-<end tick>`: a snapshot writes only rows that are new since the one before. Segments whose rows
were all overwritten in the replay are removed. A kill at any moment leaves the previous snapshot or the new one.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.lab import checkpoint
from jaxql.replay.ring import Ring
from jaxql.types import Step

MOST_SEGMENTS = 64  # more are written anew as one


class Snapshots:
    """The newest snapshot of a run in a folder.

    `save` copies the arrays to the host and hands them to a thread, which writes them while the run goes on.

    Args:
      folder: made by the first `save`.
      seeds: whether arrays of the agents have a leading axis of seeds.
    """

    def __init__(self, folder: str | os.PathLike, seeds: bool = False):
        self.folder, self._axis = Path(folder), int(seeds)
        self._segments: list[list[dict[str, Any]]] = []  # of every ring, in order of their ticks: name, first, end
        self._thread: threading.Thread | None = None
        self._error: UserError | None = None

    def save(self, tree: Any, arrays: dict[str, np.ndarray], metadata: dict[str, Any]) -> None:
        """Begins to write a snapshot. The snapshot before is replaced when all of the new one is on disk.

        Args:
          tree: pytree of JAX arrays, among them `jaxql.replay.ring.Ring`s.
          arrays: NumPy arrays by name, whose shapes need not be known when they are loaded.
          metadata: values that JSON can hold.

        Raises:
          UserError: the snapshot before could not be written. This one is being written.
        """
        error = self._finished()
        rest, rings = _without_rows(tree)
        self._segments = self._segments or [[] for _ in rings]
        new: dict[str, Step] = {}
        segments = [
            self._new_segment(i, ring, known, new)
            for i, (ring, known) in enumerate(zip(rings, self._segments, strict=True))
        ]
        shapes = {name: [list(x.shape), x.dtype.str] for name, x in arrays.items()}
        own = {"arrays": shapes, "segments": segments}
        everything = {"tree": _on_host(rest), "arrays": {name: np.array(x) for name, x in arrays.items()}}
        self._start(lambda: self._write(new, everything, {"run": metadata, **own}, segments))
        if error:
            raise error

    def _new_segment(
        self, i: int, ring: Ring, known: list[dict[str, Any]], new: dict[str, Step]
    ) -> list[dict[str, Any]]:
        """Adds the new rows of a ring to `new`, and returns its segments: those that are still needed, and the new."""
        end, slots = int(np.asarray(ring.num_steps).flat[0]), ring.rows.valid.shape[self._axis]
        oldest = max(end - slots, 0)
        kept = [segment for segment in known if segment["end"] > oldest] if len(known) < MOST_SEGMENTS else []
        first = max(kept[-1]["end"] if kept else 0, oldest)
        if first == end and kept:
            return kept
        name = f"rows-{i}-{first}-{end}"
        new[name] = _map_rows(ring.rows, lambda x, slots: _take(x, slots, self._axis), first, end, slots)
        return [*kept, {"name": name, "first": first, "end": end}]

    def _write(self, new: dict[str, Step], everything: Any, metadata: dict[str, Any], segments: list) -> None:
        for name, rows in new.items():
            checkpoint.save(self.folder / name, rows, {})
        checkpoint.save(self.folder / "last", everything, metadata)
        self._segments = segments
        self._remove_others({segment["name"] for ring in segments for segment in ring})

    def _remove_others(self, names: set[str]) -> None:
        for file in self.folder.glob("rows-*"):
            if file.name.split(".")[0] not in names:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)

    def _start(self, work: Callable[[], None]) -> None:
        def attempt() -> None:
            try:
                work()
            except UserError as error:
                self._error = error

        self._thread = threading.Thread(target=attempt, name="jaxql snapshot", daemon=False)
        self._thread.start()

    def _finished(self) -> UserError | None:
        """Waits for the snapshot that is being written, and returns its error."""
        if self._thread:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        return error

    def wait(self) -> None:
        """Waits until the snapshot is on disk. Raises UserError if it could not be written."""
        if error := self._finished():
            raise error

    def settle(self) -> None:
        """Waits until nothing is being written; an error is dropped."""
        self._finished()

    def exists(self) -> bool:
        """Returns whether there is a snapshot."""
        return (self.folder / "last.json").exists()

    def load(self, like: Any) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
        """Returns (tree, arrays, metadata) of the snapshot; later saves add to its segments.

        Args:
          like: the tree, with arrays or `jax.ShapeDtypeStruct`s as leaves.

        Raises:
          UserError: there is none, or it is damaged or of another structure.
        """
        path = self.folder / "last"
        record = checkpoint.read_metadata(path)
        rest, rings = _without_rows(like)
        try:
            arrays = {name: np.empty(shape, np.dtype(kind)) for name, (shape, kind) in record["arrays"].items()}
            segments, run = record["segments"], record["run"]
        except (AttributeError, KeyError, MemoryError, OverflowError, TypeError, ValueError) as error:
            raise UserError(f"{path}.json is not the snapshot of a run: {error}") from error
        loaded, _ = checkpoint.load(path, {"tree": rest, "arrays": arrays})
        filled = iter([self._read_rows(ring.rows, of_ring) for ring, of_ring in zip(rings, segments, strict=True)])
        self._segments = segments
        tree = jax.tree.map(
            lambda node: node._replace(rows=next(filled)) if _is_ring(node) else node, loaded["tree"], is_leaf=_is_ring
        )
        return tree, loaded["arrays"], run

    def _read_rows(self, like: Step, segments: list[dict[str, Any]]) -> Step:
        """Returns the rows of a ring, zeros where no segment has any."""
        rows, axis = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like), self._axis
        for segment in segments:
            span = segment["first"], segment["end"], like.valid.shape[axis]
            if not 0 <= span[1] - span[0] <= span[2]:
                raise UserError(f"{self.folder / 'last.json'} is damaged: a segment of {span[1] - span[0]} ticks")
            shapes = _map_rows(
                rows, lambda x, slots: np.empty((*x.shape[:axis], len(slots), *x.shape[axis + 1 :]), x.dtype), *span
            )
            part, _ = checkpoint.load(self.folder / segment["name"], shapes)
            places = _map_rows(rows, lambda x, slots: slots, *span)
            jax.tree.map(lambda store, slots, x: _put(store, slots, x, axis), rows, places, part)
        return jax.tree.map(jnp.array, rows)

    def remove(self) -> None:
        """Removes the folder."""
        self._finished()
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_ring(node: Any) -> bool:
    return isinstance(node, Ring)


def _without_rows(tree: Any) -> tuple[Any, list[Ring]]:
    """Returns the tree with the rows of its rings taken out, and the rings."""
    rings = [node for node in jax.tree.leaves(tree, is_leaf=_is_ring) if _is_ring(node)]
    rest = jax.tree.map(lambda node: node._replace(rows=()) if _is_ring(node) else node, tree, is_leaf=_is_ring)
    return rest, rings


def _map_rows(rows: Step, f: Callable[[Any, np.ndarray], Any], first: int, end: int, num_slots: int) -> Step:
    """Returns f(leaf, slots) of every leaf of a ring's rows: the slots that ticks [first, end) lie in.

    Observations are one tick ahead: those of ticks [first, end] are stored once `end` ticks were added.
    """
    slots = np.arange(first, end) % num_slots
    ahead = np.arange(max(first, end - num_slots + 1), end + 1) % num_slots
    others = jax.tree.map(lambda x: f(x, slots), rows._replace(obs=()))
    return others._replace(obs=jax.tree.map(lambda x: f(x, ahead), rows.obs))


def _take(x: Any, slots: np.ndarray, axis: int) -> np.ndarray:
    """Returns a copy of some slots on the host."""
    if jax.default_backend() == "cpu":
        return np.take(np.asarray(x), slots, axis)  # without a copy of the whole
    return np.asarray(jnp.take(x, slots, axis))


def _put(store: np.ndarray, slots: np.ndarray, part: np.ndarray, axis: int) -> None:
    store[(slice(None),) * axis + (slots,)] = part


def _on_host(tree: Any) -> Any:
    """Returns a copy that shares no memory with arrays that may be donated later."""
    return jax.tree.map(lambda x: jnp.copy(x) if _is_key(x) else np.array(x), tree)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
