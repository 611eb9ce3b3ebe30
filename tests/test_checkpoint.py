"""Laws of checkpoints: what is saved comes back, damage is refused, and a kill or a full disk costs nothing."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from jaxql.errors import UserError
from jaxql.lab import checkpoint


class State(NamedTuple):
    params: Any
    key: jax.Array
    data: Any


DTYPES = (
    "bool int8 int16 int32 uint8 uint16 uint32 float16 bfloat16 float32 complex64 float8_e4m3fn float8_e5m2".split()
)


def make_state(seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    arrays = {name: jnp.array(rng.integers(0, 2, (3, 2)), name) for name in DTYPES}
    odd = {"": jnp.float32(seed), "a/b": {"~1": jnp.arange(5)}, "a": {"b": [jnp.zeros((0, 4)), jnp.ones(())]}}
    keys = [jax.random.key(seed), jax.random.split(jax.random.key(seed, impl="rbg"), 3)]
    return State(
        params=arrays | {"odd": odd}, key=keys, data=(rng.random((2, 3)), np.int64(2**40 + seed), 7, 0.5, True)
    )


def assert_same(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert type(a) is type(b) and np.shape(a) == np.shape(b)
        assert not hasattr(a, "dtype") or a.dtype == b.dtype
        raw = (jax.random.key_data(x) if checkpoint._is_key(x) else x for x in (a, b))
        assert np.asarray(next(raw)).tobytes() == np.asarray(next(raw)).tobytes()


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def arrays_file(folder: Path, name: str = "last") -> Path:
    (path,) = folder.glob(f"{name}.*.safetensors")
    return path


def test_what_is_saved_comes_back_bit_for_bit_and_kind_for_kind(tmp_path):
    state, metadata = make_state(), {"env_steps": np.int64(3), "best": -np.inf, "name": "é", "list": [1, {"a": None}]}
    checkpoint.save(tmp_path / "new" / "last.v1", state, metadata)
    tree, read = checkpoint.load(tmp_path / "new" / "last.v1", like=state)
    assert_same(tree, state)
    assert read == metadata == checkpoint.read_metadata(tmp_path / "new" / "last.v1")


def test_shapes_alone_are_enough_to_restore(tmp_path):
    def init(key):
        return State(params={"w": jax.random.normal(key, (4, 3)), "b": jnp.bfloat16(2)}, key=key, data=())

    state = init(jax.random.key(5))
    checkpoint.save(tmp_path / "last", state, {})
    assert_same(checkpoint.load(tmp_path / "last", like=jax.eval_shape(init, jax.random.key(0)))[0], state)


def test_without_a_structure_it_is_nested_dicts(tmp_path):
    tree = {"a": {"x/y": jnp.arange(3), "~0": jnp.ones(2)}, "k": jax.random.key(1)}
    checkpoint.save(tmp_path / "last", tree, {})
    assert_same(checkpoint.load(tmp_path / "last")[0], tree)
    checkpoint.save(tmp_path / "last", jnp.arange(4), {})
    assert_same(checkpoint.load(tmp_path / "last")[0], jnp.arange(4))


def test_the_arrays_are_a_file_that_safetensors_reads(tmp_path):
    state = {name: jnp.array([[1, 0, 1]], name) for name in ("bool", "int8", "uint16", "float32", "complex64")}
    checkpoint.save(tmp_path / "last", state, {})
    with safe_open(arrays_file(tmp_path), framework="np") as file:
        assert set(file.keys()) == set(state)
        for name, value in state.items():
            np.testing.assert_array_equal(file.get_tensor(name), value, strict=True)


def test_loaded_arrays_may_be_donated(tmp_path):
    state = {"w": jnp.arange(1024.0), "n": jnp.int32(1)}
    checkpoint.save(tmp_path / "last", state, {})
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    for _ in range(2):  # the second time shows that the first one left file and `like` alone
        loaded, _ = checkpoint.load(tmp_path / "last", like=state)
        assert_same(step(loaded), {"w": jnp.arange(1024.0) + 1, "n": jnp.int32(2)})
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(loaded))
    assert_same(state, {"w": jnp.arange(1024.0), "n": jnp.int32(1)})


F32 = jnp.float32


@pytest.mark.parametrize(
    "like, words",
    [
        ({"a": {"w": jnp.zeros(3, F32)}, "k": jax.random.key(0)}, 'leaf "a/w" is float32[2, 3], expected float32[3]'),
        ({"a": {"w": jnp.zeros((2, 3), int)}, "k": jax.random.key(0)}, 'leaf "a/w" is float32[2, 3], expected int'),
        (
            {"a": {"w": jnp.zeros((2, 3), F32)}, "k": jax.random.key(0, impl="rbg")},
            'leaf "k" is key<fry>[], expected key<rbg>',
        ),
        ({"a": {"w": jnp.zeros((2, 3), F32)}, "k": jnp.zeros(2, jnp.uint32)}, 'leaf "k" is key<fry>[]'),
        ({"a": {"v": jnp.zeros((2, 3), F32)}, "k": jax.random.key(0)}, 'no leaf "a/v" (did you mean "a/w"?)'),
        ({"a": {}, "k": jax.random.key(0)}, 'leaf "a/w" that is not expected'),
    ],
)
def test_another_structure_is_refused_by_leaf(tmp_path, like, words):
    checkpoint.save(tmp_path / "last", {"a": {"w": jnp.zeros((2, 3), F32)}, "k": jax.random.key(0)}, {})
    with pytest.raises(UserError) as error:
        checkpoint.load(tmp_path / "last", like=like)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_wide_leaf_is_never_narrowed_silently(tmp_path):
    checkpoint.save(tmp_path / "last", {"w": np.float64(0.1)}, {})
    like = {"w": jax.ShapeDtypeStruct((), np.float64)}
    assert float(checkpoint.load(tmp_path / "last")[0]["w"]) == 0.1
    if jax.config.jax_enable_x64:
        assert checkpoint.load(tmp_path / "last", like)[0]["w"].dtype == jnp.float64
    else:
        with pytest.raises(UserError, match="JAX_ENABLE_X64=1"):
            checkpoint.load(tmp_path / "last", like)


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path):
    bad = [
        ({"f": print}, {}),
        ({"f": "text"}, {}),
        ({"f": 1 + 2j}, {}),
        ({"a/b": 1, "a": {"b": 1}}, {}),
        ({}, {"f": print}),
    ]
    for tree, metadata in bad[:3] + bad[4:] + [({"__metadata__": 1}, {}), ({"f": 2**70}, {})]:
        with pytest.raises(UserError):
            checkpoint.save(tmp_path / "last", tree, metadata)
    assert files(tmp_path) == {}
    checkpoint.save(tmp_path / "last", bad[3][0], {})  # a slash in a name is no path
    assert checkpoint.load(tmp_path / "last")[0] == bad[3][0]


@pytest.mark.trust(19)
def test_every_flipped_or_missing_byte_is_noticed(tmp_path):
    state = {"w": jnp.arange(6.0), "k": jax.random.key(0)}
    checkpoint.save(tmp_path / "last", state, {"env_steps": 1000})
    rng = np.random.default_rng(0)
    for path in (arrays_file(tmp_path), tmp_path / "last.json"):
        whole = path.read_bytes()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            try:  # a flip may only turn one blank of the manifest into another
                tree, metadata = checkpoint.load(tmp_path / "last", like=state)
            except UserError as error:
                assert str(tmp_path) in str(error) and "\n" not in str(error)
            else:
                assert path.suffix == ".json" and json.loads(flipped) == json.loads(whole)
                assert_same((tree, metadata), (state, {"env_steps": 1000}))
        for length in [0, 1, 7, 8, len(whole) // 2, len(whole) - 1]:
            path.write_bytes(whole[:length])
            with pytest.raises(UserError, match=path.name):
                checkpoint.load(tmp_path / "last", like=state)
        path.write_bytes(whole + b"x")
        with pytest.raises(UserError):
            checkpoint.load(tmp_path / "last")
        path.unlink()
        with pytest.raises(UserError, match="missing|No such file"):
            checkpoint.load(tmp_path / "last")
        path.write_bytes(whole)
    assert_same(checkpoint.load(tmp_path / "last", like=state)[0], state)


@pytest.mark.trust(22)
def test_a_newer_format_and_a_foreign_file_are_named(tmp_path):
    checkpoint.save(tmp_path / "last", {"w": jnp.ones(1)}, {})
    manifest = tmp_path / "last.json"
    record = json.loads(manifest.read_text())
    for change, words in (
        ({"version": 2}, "format 2"),
        ({"format": "zip"}, "not the manifest"),
        (None, "not the manifest"),
    ):
        manifest.write_text(json.dumps([] if change is None else record | change))
        with pytest.raises(UserError, match=words):
            checkpoint.load(tmp_path / "last")


CALLS = ("open", "write", "fsync", "replace", "unlink")


def patched(monkeypatch, before):
    """Calls `before(number, name)` in front of each call by which a save touches the disk."""
    count = iter(range(10**6))
    for name in CALLS:
        valid = getattr(os, name)

        def call(*args, _real=valid, _name=name, **kwargs):
            before(next(count), _name)
            return _real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)


class Killed(BaseException):
    pass


def crash_everywhere(tmp_path, monkeypatch, failure):
    """Saves 1, then 2 with `failure(number, fatal, name)` at each disk call in turn: 1 or 2 must be there whole."""
    seen = []
    for fatal in range(20):
        folder = tmp_path / str(fatal)
        checkpoint.save(folder / "last", {"w": jnp.full(4, 1)}, {"i": 1})
        with monkeypatch.context() as patch:
            patched(patch, lambda number, name, fatal=fatal: failure(number, fatal, name))
            try:
                checkpoint.save(folder / "last", {"w": jnp.full(4, 2)}, {"i": 2})
                survived = True
            except (Killed, UserError):
                survived = False
        tree, metadata = checkpoint.load(folder / "last")
        assert metadata["i"] in ((2,) if survived else (1, 2))
        assert_same(tree, {"w": jnp.full(4, metadata["i"])})
        seen.append(metadata["i"])
        checkpoint.save(folder / "last", {"w": jnp.full(4, 3)}, {"i": 3})  # and the next save cleans up
        assert_same(checkpoint.load(folder / "last")[0], {"w": jnp.full(4, 3)})
        assert len(files(folder)) == 2
    return seen


def kill(number, fatal, name):
    if number >= fatal:  # nothing works any more: no clean-up runs in a killed process
        raise Killed


def fail_once(number, fatal, name):
    if number == fatal and name != "unlink":
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def full_disk(number, fatal, name):
    if number >= fatal and name in ("write", "fsync"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failure", [kill, fail_once, full_disk])
@pytest.mark.trust(18, 20)
def test_a_failure_at_any_disk_call_leaves_the_old_or_the_new(tmp_path, monkeypatch, failure):
    seen = crash_everywhere(tmp_path, monkeypatch, failure)
    assert seen[0] == 1 and seen[-1] == 2 and len(seen) > 6


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
@pytest.mark.trust(20)
def test_a_refusing_disk_is_one_line_and_keeps_the_previous(tmp_path, monkeypatch, code, name):
    checkpoint.save(tmp_path / "last", {"w": jnp.ones(3)}, {})
    kept = files(tmp_path)

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, refuse)
        with pytest.raises(UserError, match=os.strerror(code)) as error:
            checkpoint.save(tmp_path / "last", {"w": jnp.zeros(3)}, {})
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    assert files(tmp_path) == kept


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    valid = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: valid(fd, memoryview(data)[:5]))
    checkpoint.save(tmp_path / "last", {"w": jnp.arange(9)}, {})
    assert_same(checkpoint.load(tmp_path / "last")[0], {"w": jnp.arange(9)})


@pytest.mark.trust(18)
def test_bytes_are_on_disk_before_a_name_points_at_them(tmp_path, monkeypatch):
    calls = []
    patched(monkeypatch, lambda number, name: calls.append(name))
    checkpoint.save(tmp_path / "last", {"w": jnp.arange(9)}, {})
    once = ["open", "write", "fsync", "replace", "open", "fsync"]  # file, then folder; a sync before and after the name
    assert [name for name in calls if name != "unlink"][:-6] == once[:2] + ["write"] + once[2:]
    assert [name for name in calls if name != "unlink"][-6:] == once


def test_checkpoints_beside_each_other_do_not_touch(tmp_path):
    names = ["last", "last.v2", "last-2", "best", "las", "l.st"]
    for i, name in enumerate(names):
        checkpoint.save(tmp_path / name, {"w": jnp.full(2, i)}, {"i": i})
    (tmp_path / "last.notes.safetensors").write_bytes(b"mine")
    for i, name in enumerate(names):
        checkpoint.save(tmp_path / name, {"w": jnp.full(2, i + 10)}, {"i": i + 10})
    for i, name in enumerate(names):
        assert checkpoint.load(tmp_path / name)[1] == {"i": i + 10}
    assert (tmp_path / "last.notes.safetensors").exists() and len(files(tmp_path)) == 2 * len(names) + 1


def test_a_reader_beside_a_writer_sees_one_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "last", {"w": jnp.full(2, 1)}, {"i": 1})
    valid = checkpoint._read_manifest

    def then_replaced(folder, name):
        record = valid(folder, name)
        monkeypatch.setattr(checkpoint, "_read_manifest", valid)
        checkpoint.save(tmp_path / "last", {"w": jnp.full(2, 2)}, {"i": 2})
        return record

    monkeypatch.setattr(checkpoint, "_read_manifest", then_replaced)
    assert_same(checkpoint.load(tmp_path / "last"), ({"w": jnp.full(2, 2)}, {"i": 2}))


def test_a_sharded_leaf_comes_back_sharded(tmp_path):
    mesh = jax.make_mesh((len(jax.devices()),), ("x",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    state = {"w": jax.device_put(jnp.arange(8.0 * len(jax.devices())), sharding)}
    checkpoint.save(tmp_path / "last", state, {})
    loaded, _ = checkpoint.load(tmp_path / "last", like=state)
    assert_same(loaded, state)
    assert loaded["w"].sharding.device_set == state["w"].sharding.device_set


WRITER = """
import os, signal, sys
import numpy as np
from jaxql.lab import checkpoint  # no array reaches JAX here: its threads would not survive the fork
folder, rounds, rng = sys.argv[1], int(sys.argv[2]), np.random.default_rng(0)
import shutil, time
done = 0
for kill in range(rounds):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            done += 1
            tree = {"a": np.full(20_000, done), "b": [np.full(3, done, np.int16)]}
            checkpoint.save(folder + "/last", tree, {"i": done})
            os.write(write, done.to_bytes(4, "little"))
    os.close(write)
    os.read(read, 4)  # it has saved once
    time.sleep(rng.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    rest = b""
    while more := os.read(read, 1 << 16):
        rest += more
    os.close(read)
    done = int.from_bytes(rest[-4:], "little") if rest else done + 1
    shutil.copytree(folder, f"{folder}-{kill}-{done}")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.trust(18)
def test_kill_9_at_random_moments_loses_nothing_that_was_saved(tmp_path):
    rounds = 60
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-W", "ignore", "-c", WRITER, str(tmp_path / "run"), str(rounds)]
    subprocess.run(command, check=True, timeout=60, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    torn = 0
    for folder in tmp_path.glob("run-*"):
        committed = int(folder.name.split("-")[-1])
        tree, metadata = checkpoint.load(folder / "last")
        assert metadata["i"] in (committed, committed + 1)  # the save under way may have been finished
        assert {int(x) for leaf in jax.tree.leaves(tree) for x in np.unique(leaf)} == {metadata["i"]}
        torn += len(files(folder)) > 2
    assert torn > rounds // 4  # most kills fell inside a save
