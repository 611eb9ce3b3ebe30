"""Draws the learning curves of run folders: python benchmarks/plot_runs.py OUT.png RUN [RUN ...] (needs matplotlib)."""

import sys
from pathlib import Path

import matplotlib
import numpy as np

from jaxql.lab.files import read_config, read_metrics

matplotlib.use("Agg")
from matplotlib import pyplot


def draw(out: str, folders: list[str]) -> None:
    """Training and test returns against env steps and minutes."""
    figure, (by_steps, by_time) = pyplot.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for number, folder in enumerate(folders):
        record, metrics = read_config(folder)["config"], read_metrics(folder)
        steps, seconds, _ = np.loadtxt(Path(folder) / "timing.csv", delimiter=",", skiprows=1, unpack=True)
        minutes = np.interp(metrics["env_steps"], steps, seconds) / 60
        tested = np.isfinite(metrics["eval_return"])
        for axes, x in (by_steps, metrics["env_steps"] / 1e3), (by_time, minutes):
            axes.plot(x, metrics["return_mean"], color=f"C{number}", label=f"{record['agent']}, seed {record['seed']}")
            axes.plot(x[tested], metrics["eval_return"][tested], "o", color=f"C{number}", markersize=4)
    by_steps.set(xlabel="env steps (thousands)", ylabel="return", title=record["env"])
    by_time.set(xlabel="minutes", title="line: last 100 training games; dots: 20 test games")
    by_steps.legend(frameon=False)
    for axes in by_steps, by_time:
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2:])
