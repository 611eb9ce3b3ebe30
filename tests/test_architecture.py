"""The layout is law: imports point one way, and only the edge touches the world."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxql

ROOT = Path(jaxql.__file__).parent
EDGE = {"envs", "lab", "cli", "__main__", "__init__"}
ROOT_MODULES = {"__init__", "__main__", "types", "errors", "loop", "mesh", "explore"}
EQUATIONS = {"bellman", "distributional", "planning", "tabular"}
MAY_IMPORT = {  # a part of the core: the parts that it may import
    "types": set(),
    "errors": set(),
    "kernels": {"types", "errors"},
    "explore": {"types", "bellman"},
    "bellman": {"types"},
    "distributional": {"types", "bellman"},
    "planning": {"types", "errors", "explore"},
    "tabular": {"types", "errors", "bellman", "explore"},
    "replay": {"types", "bellman", "kernels"},
    "losses": {"types", "replay"} | EQUATIONS,
    "networks": {"types", "errors", "distributional", "kernels"},
    "conformance": {"types", "bellman"},
    "agents": {"types", "errors", "explore", "replay", "losses", "networks", "kernels"} | EQUATIONS,
    "loop": {"types"},
    "mesh": {"types"},
    "envs": {"types", "errors", "planning", "loop", "mesh", "kernels"},
    "lab": {"types", "errors", "planning", "loop", "mesh", "agents", "envs", "kernels", "replay"},
    "cli": {"types", "errors", "agents", "envs", "lab"},
    "__main__": {"cli"},
}
ALLOWED = {"kernels/private.py": {"os"}}  # the environment variable that switches private interfaces off
WORLDLY = {"gymnasium", "ale_py", "os", "time", "pathlib", "sys", "io", "tyro", "rich", "tensorboardX", "imageio"}


def imports(path, *, toplevel=False):
    """Yields (package, part of jaxql or None) of every import in a file, or of those that run on its import."""
    tree = ast.parse(path.read_text())
    for node in tree.body if toplevel else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                yield parts[0], parts[1] if parts[0] == "jaxql" and len(parts) > 1 else None
        elif isinstance(node, ast.ImportFrom):
            parts = node.module.split(".")
            if parts == ["jaxql"]:
                yield from (("jaxql", alias.name) for alias in node.names)
            else:
                yield parts[0], parts[1] if parts[0] == "jaxql" else None


def files():
    for path in sorted(ROOT.rglob("*.py")):
        yield path, path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_part_has_its_place():
    unknown = {part for _, part in files()} - MAY_IMPORT.keys() - {"__init__"}
    assert not unknown, f"say in MAY_IMPORT what {unknown} may import"
    assert {path.stem for path in ROOT.glob("*.py")} <= ROOT_MODULES


def test_imports_point_one_way():
    for path, part in files():
        used = {module for package, module in imports(path) if package == "jaxql"}
        if part != "__init__":
            assert used <= MAY_IMPORT[part] | {part}, f"{path} imports {used - MAY_IMPORT[part]}"


def test_no_part_imports_another_in_a_circle():
    below = {part: set(allowed) for part, allowed in MAY_IMPORT.items()}
    while lowest := {part for part, allowed in below.items() if not allowed & below.keys()}:
        for part in lowest:
            del below[part]
    assert not below


def test_only_the_edge_touches_the_world():
    for path, part in files():
        if part not in EDGE:
            allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
            touched = {package for package, _ in imports(path, toplevel=True)} & WORLDLY - allowed
            assert not touched, f"{path} imports {touched}"


@pytest.mark.parametrize(("package", "home"), [("ale_py", "envs/atari.py"), ("flax", "networks/"), ("tyro", "cli/"),
                                               ("rich", "lab/progress.py")])  # fmt: skip
def test_one_place_imports(package, home):
    found = {path.relative_to(ROOT).as_posix() for path, _ in files() if package in {p for p, _ in imports(path)}}
    assert found and all(path.startswith(home) for path in found), found


@pytest.mark.trust(21)
def test_no_pickle_and_nothing_evaluated():
    for path, _ in files():
        packages = {package for package, _ in imports(path)}
        assert not packages & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "yaml"}, path
        calls = {n.func.id for n in ast.walk(ast.parse(path.read_text()))
                 if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
        assert not calls & {"eval", "exec"}, path
        assert "allow_pickle=True" not in path.read_text(), path


def fresh(code):
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return result.stdout.strip()


@pytest.mark.trust(30)
def test_import_is_cheap_and_allocates_nothing():
    code = """
import jax, flax, optax, time
start = time.process_time()
import jaxql
jaxql.bellman, jaxql.replay, jaxql.agents, jaxql.planning, jaxql.networks, jaxql.losses
took = time.process_time() - start
print(took, jax._src.xla_bridge.backends_are_initialized(), len(jax.live_arrays()))  # asking for arrays initialises
"""
    took, initialised, arrays = min((fresh(code).split() for _ in range(3)), key=lambda words: float(words[0]))
    assert (initialised, arrays) == ("False", "0")
    assert float(took) < 0.5


def test_names_and_settings_need_no_jax():
    """The command line and the names of agents are there at once: neither imports jax, flax or gymnasium."""
    code = "import sys, jaxql.agents, jaxql.cli, jaxql.cli.train, jaxql.cli.evaluate, jaxql.cli.record; "
    code += "assert 'dqn' in jaxql.agents.REGISTRY; print(*{'jax', 'flax', 'optax', 'gymnasium'} & set(sys.modules))"
    assert fresh(code) == ""


def test_a_table_agent_trains_without_flax():
    code = """
import sys, tempfile, jaxql
jaxql.train("q-learning", "FrozenLake-v1", steps=64, eval_every=10**6, quiet=True, out=tempfile.mkdtemp())
print(*{"flax", "optax", "rich", "imageio", "matplotlib", "tyro"} & set(sys.modules))
"""
    assert fresh(code) == ""


def test_every_public_name_exists_and_type_checkers_see_the_same():
    for name in jaxql.__all__:
        assert getattr(jaxql, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxql.nothing  # noqa: B018
    tree = ast.parse((ROOT / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    names = {alias.asname for node in guarded.body for alias in node.names}
    assert names == set(jaxql.__all__)


def test_every_part_of_the_core_has_its_tests():
    tests = [path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")]
    for part in {part for _, part in files()} - EDGE - {"types", "errors"}:
        modules = [part, *(path.stem for path in ROOT.glob(f"{part}/*.py"))]
        assert any(test.startswith(module) for test in tests for module in modules), f"no tests of {part}"
