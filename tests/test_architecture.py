"""The layout is law: imports point one way, and only the edge touches the env."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxql

ROOT = Path(jaxql.__file__).parent
EDGE = {"envs", "lab", "cli", "__main__", "__init__"}
EQUATIONS = {"bellman", "distributional", "losses", "planning", "tabular", "conformance"}
CORE = EQUATIONS | {"types", "explore", "replay", "sum_tree", "recurrent", "loop", "mesh"}
CORE |= {"kernels", "networks", "heads"}
MAY_IMPORT = {  # module of the core: what it may import of the package, besides its own parts
    "types": set(),
    "errors": set(),
    "bellman": {"types"},
    "distributional": {"types", "bellman"},
    "losses": {"types", "bellman", "distributional"},
    "planning": {"types", "errors"},
    "tabular": {"types", "errors", "bellman"},
    "conformance": {"types", "bellman"},
    "explore": {"types"},
    "sum_tree": {"types"},
    "replay": {"types", "sum_tree"},
    "recurrent": {"types", "bellman", "losses", "replay"},
    "loop": {"types"},
    "mesh": {"types"},
    "kernels": {"types"},
    "heads": {"types", "losses", "distributional"},
    "networks": {"types", "kernels"},
    "agents": CORE - {"loop", "mesh"} | {"errors"},
}
ALLOWED = {"kernels/private.py": {"os"}}  # the environment variable that switches private interfaces off
WORLDLY = {"gymnasium", "ale_py", "os", "time", "pathlib", "sys", "io", "tyro", "rich", "tensorboardX", "imageio"}


def imports(path, *, toplevel=False):
    """(package, module of jaxql or None) of every import in a file, or of those that run when it is imported."""
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


def test_imports_point_one_way():
    for path, part in files():
        if part in MAY_IMPORT:
            used = {module for package, module in imports(path) if package == "jaxql"}
            assert used <= MAY_IMPORT[part] | {part}, f"{path} imports {used - MAY_IMPORT[part]}"


def test_only_the_edge_touches_the_world():
    for path, part in files():
        if part not in EDGE:
            allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
            touched = {package for package, _ in imports(path, toplevel=True)} & WORLDLY - allowed
            assert not touched, f"{path} imports {touched}"


@pytest.mark.parametrize(("package", "only"), [("ale_py", {"envs/atari.py"}), ("flax", {"networks.py"})])
def test_one_file_imports(package, only):
    found = {path.relative_to(ROOT).as_posix() for path, _ in files() if package in {p for p, _ in imports(path)}}
    assert found == only


def test_no_pickle_and_nothing_evaluated():
    for path, _ in files():
        assert not {"pickle", "cloudpickle", "dill", "marshal"} & {package for package, _ in imports(path)}, path
        calls = {n.func.id for n in ast.walk(ast.parse(path.read_text()))
                 if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
        assert not calls & {"eval", "exec"}, path


def fresh(code):
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return result.stdout.strip()


def test_import_is_cheap_and_allocates_nothing():
    code = """
import jax, flax, optax, time
start = time.perf_counter()
import jaxql
jaxql.bellman, jaxql.replay, jaxql.agents, jaxql.planning
took = time.perf_counter() - start
print(took, jax._src.xla_bridge.backends_are_initialized(), len(jax.live_arrays()))  # asking for arrays initialises
"""
    took, initialised, arrays = min((fresh(code).split() for _ in range(3)), key=lambda words: float(words[0]))
    assert (initialised, arrays) == ("False", "0")
    assert float(took) < 0.5


def test_every_public_name_exists_and_type_checkers_see_the_same():
    for name in jaxql.__all__:
        assert getattr(jaxql, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxql.nothing  # noqa: B018
    tree = ast.parse((ROOT / "__init__.py").read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    names = {alias.asname for node in guarded.body for alias in node.names}
    assert names == set(jaxql.__all__)


def test_every_module_has_its_tests():
    tests = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    for module in CORE - {"types"}:
        assert f"test_{module}.py" in tests
