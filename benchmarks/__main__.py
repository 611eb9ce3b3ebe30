"""Measures jaxql on whatever device is here.

python -m benchmarks [PART ...] [--quick] [--out FILE]     rows of JSON, one a line, to FILE
python -m benchmarks --compare A.json B.json [--plot FILE.png]   the same rows of two files, side by side
python -m benchmarks evidence --agent AGENT --env ENV             a cell of the parity table; see evidence.py
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

PARTS = (
    "equations",
    "planning",
    "tabular",
    "replay",
    "learner",
    "profile",
    "seeds",
    "emulator",
    "overhead",
    "end_to_end",
    "time_to_solve",
)
MEASURES = (  # what a row measures, in the order of preference, and whether more is better
    ("env_steps_per_second", True),
    ("million_updates_per_second", True),
    ("million_per_second", True),
    ("updates_per_second", True),
    ("milliseconds", False),
    ("seconds_with_compilation", False),
    ("seconds", False),
    ("wall_seconds", False),
)
SETTINGS = "part", "name", "setting", "batch", "capacity", "agents", "seeds", "envs", "states", "seed"


def measure(parts, quick: bool, out: Path | None) -> None:
    """Runs the parts and adds their rows to a file as they come; a part that cannot run here says so."""
    from benchmarks.measure import about
    from jaxql.lab.machine import keep_freed_memory

    keep_freed_memory()  # as the command line does
    common = about()
    for part in parts:
        module = importlib.import_module(f"benchmarks.{part}")
        try:
            for row in module.rows(quick):
                print(json.dumps(row), flush=True)
                if out:
                    with out.open("a") as file:
                        file.write(json.dumps(row | common) + "\n")
        except ImportError as error:
            print(f"{part}: skipped ({error})", file=sys.stderr)


def read(path: str) -> dict:
    """The rows of a file by what they measure."""
    rows = map(json.loads, Path(path).read_text().splitlines())
    return {tuple(row.get(name) for name in SETTINGS): row for row in rows}


def measured(row: dict) -> tuple[str, float, bool] | None:
    return next(((name, row[name], more) for name, more in MEASURES if name in row), None)


def compare(a: str, b: str, plot: str | None) -> None:
    """A table of what both files have, with how many times better the second is."""
    first, second = read(a), read(b)
    names, ratios = [], []
    print(f"{'':60} {Path(a).stem:>14} {Path(b).stem:>14}  better by")
    for key, row in first.items():
        if key not in second or not measured(row) or not measured(second[key]):
            continue
        (unit, x, more), (_, y, _) = measured(row), measured(second[key])
        ratio = y / x if more else x / y
        name = " ".join(str(part) for part in key if part is not None)
        print(f"{name[:60]:60} {x:14.4g} {y:14.4g}  {ratio:6.2f}x  {unit}")
        names.append(name)
        ratios.append(ratio)
    if plot:
        _draw(names, ratios, plot, f"{Path(b).stem} over {Path(a).stem}")


def _draw(names, ratios, path, title):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.25 * len(names) + 1), layout="constrained")
    axes.barh(names[::-1], ratios[::-1])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xlabel="times better", title=title, xscale="log")
    figure.savefig(path, dpi=120)


def main() -> None:
    if sys.argv[1:2] == ["evidence"]:
        from benchmarks import evidence

        return evidence.main(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all where none is named")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    parser.add_argument("--out", type=Path, help="file to which rows are added")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"))
    parser.add_argument("--plot", help="with --compare: draw the ratios")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if given.compare:
        compare(*given.compare, given.plot)
    else:
        measure(given.parts or PARTS, given.quick, given.out)


if __name__ == "__main__":
    main()
