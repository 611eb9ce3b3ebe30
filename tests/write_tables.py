"""Writes the function tables of the README.md of each equation package, from the docstrings.

    python tests/write_tables.py

A README asks for tables by a comment that names modules, `<!-- functions: jaxql.planning, jaxql.planning.regret -->`,
up to `<!-- end -->`. The tables list the public functions of these modules, a table for each file. The equation is the
first line of the docstring, the source is its Source paragraph.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- functions: ([\w., ]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
DROP_INS = set(  # functions with the name, positional order, layout and result of rlax
    """
    categorical_double_q_learning categorical_l2_project categorical_q_learning categorical_td_learning compose_tx
    discounted_returns double_q_learning expected_sarsa general_off_policy_returns_from_action_values
    general_off_policy_returns_from_q_and_v importance_corrected_td_errors lambda_returns muzero_pair
    n_step_bootstrapped_returns persistent_q_learning power q_lambda q_learning quantile_expected_sarsa
    quantile_q_learning quantile_regression_loss qv_learning qv_max retrace retrace_continuous sarsa sarsa_lambda
    signed_expm1 signed_hyperbolic signed_logp1 signed_parabolic td_lambda td_learning transform_values
    transformed_general_off_policy_returns_from_action_values transformed_lambda_returns transformed_n_step_q_learning
    transformed_n_step_returns transformed_q_lambda transformed_retrace twohot_pair unbiased_transform_pair
    """.split()
)


def readmes() -> list[Path]:
    """The READMEs of the package that ask for tables."""
    return [path for path in sorted((ROOT / "jaxql").rglob("README.md")) if BLOCK.search(path.read_text())]


def modules(path: Path) -> list[str]:
    """The modules that a README names."""
    return [name for block in BLOCK.finditer(path.read_text()) for name in re.split(r", *", block[2])]


def functions(module: ModuleType) -> Iterator[tuple[str, Callable]]:
    """The public functions of a module, by name: those defined in it or, for a package, in its files."""
    for name, f in inspect.getmembers(module, inspect.isfunction):
        if not name.startswith("_") and f.__module__.startswith(module.__name__):
            yield name, f


def source(f: Callable) -> str:
    """The Source paragraph of a docstring, its addresses as links."""
    found = re.search(r"Source: (.*?)(?:\n\n|\n>>>|$)", inspect.getdoc(f) or "", re.DOTALL)
    text = " ".join(found.group(1).split()).rstrip(".") if found else ""
    return re.sub(r"([;,] |^)([^;]*?)[,.:] (https?://[^\s;,]+)", r"\1[\2](\3)", text)


def row(name: str, f: Callable) -> str:
    """The table row of a function. A name that is also rlax's has an asterisk."""
    equation = (inspect.getdoc(f) or "").splitlines()[0].removesuffix(".").replace("|", "\\|").replace("*", "\\*")
    drop_in = name in DROP_INS and f.__module__.startswith(("jaxql.bellman", "jaxql.distributional"))
    mark = r" \*" if drop_in else ""
    return f"| `{name}`{mark} | {equation} | {source(f)} |"


def tables(names: list[str]) -> str:
    """The tables of all functions of these modules, a table for each file, in the order of the files' names."""
    by_file: dict[str, list[str]] = {}
    for module in map(importlib.import_module, names):
        for name, f in functions(module):
            by_file.setdefault(f.__module__, []).append(row(name, f))
    text = ""
    for file, rows in sorted(by_file.items()):
        title = (inspect.getdoc(importlib.import_module(file)) or "").splitlines()[0].removesuffix(".")
        text += f"\n### `{file}`\n\n{title}.\n\n| function | equation | source |\n| --- | --- | --- |\n"
        text += "\n".join(rows) + "\n"
    return text + "\n"


def filled(text: str) -> str:
    """The text of a README with the tables that it asks for."""
    return BLOCK.sub(lambda block: block[1] + tables(re.split(r", *", block[2])) + block[4], text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for readme in readmes():
        readme.write_text(filled(readme.read_text()))
