"""`pytest -m trust`: thirty acceptance checks, and a line on each at the end.

A test belongs to a check by `@pytest.mark.trust(NUMBER, ...)`. `-m "trust and not slow"` leaves the long ones out.
"""

from collections import Counter

CHECKS = {
    1: "losses equal a loop over rows, jitted or not; shapes that do not fit are refused",
    2: "truncation bootstraps, termination does not",
    3: "learned values of five probe envs are right",
    4: "every step of every episode can be sampled, and no reset row",
    5: "n-step windows equal a roll-out and stay within their episode",
    6: "replay equals a list under random operations",
    7: "priorities: sums do not drift, nothing empty is drawn, poison is kept out",
    8: "bytes stay bytes and are scaled once; replay that cannot fit is refused",
    9: "epsilon follows its formula; 0 never explores; every env has its own coin",
    10: "the target network follows exactly when it should",
    11: "ties are broken evenly and reproducibly",
    12: "illegal actions are neither taken nor bootstrapped from",
    13: "spaces of every kind work or are refused in one line",
    14: "rewards and observations that are not finite or of another shape end the run",
    15: "divergence ends the run with an error",
    16: "the same seed gives the same bytes; seeds and purposes share nothing",
    17: "a resumed run equals the run that was never stopped",
    18: "kill -9 loses at most one checkpoint interval",
    19: "damaged files are refused with their path and the reason",
    20: "a full or refusing disk keeps the checkpoint before",
    21: "untrusted files run no code and take no memory",
    22: "checkpoints of every format load; newer ones are named",
    23: "signals save and end in time; a watchdog ends what hangs",
    24: "nothing is compiled again; memory is flat",
    25: "the emulator is guarded against actions and settings that hang it",
    26: "Atari observations, rewards and returns are the true ones",
    27: "a lost life bootstraps nothing and ends no game",
    28: "bad input on the command line is one line and writes nothing",
    29: "logs survive a kill, and say what was run and where",
    30: "the package imports cheaply, and what its README shows runs",
}


class TrustReport:
    """Counts the outcomes of the checks' tests and prints a line a check."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Counter[str]] = {number: Counter() for number in CHECKS}

    def pytest_collection_modifyitems(self, items):
        for item in items:
            for mark in item.iter_markers("trust"):
                unknown = set(mark.args) - CHECKS.keys()
                assert mark.args and not unknown, f"{item.nodeid}: the checks are numbered 1 to {len(CHECKS)}"
                item.user_properties += [("trust", number) for number in mark.args]

    def pytest_runtest_logreport(self, report):
        outcome = "failed" if report.failed else report.outcome if report.when == "call" or report.skipped else None
        if outcome:
            for name, value in report.user_properties:
                if name == "trust":
                    self.outcomes[value][outcome] += 1

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("acceptance checks")
        for number, seen in self.outcomes.items():
            verdict = ", ".join(f"{seen[each]} {each}" for each in ("failed", "passed", "skipped") if seen[each])
            terminalreporter.line(f"{number:2}  {CHECKS[number]}: {verdict or 'no test was run'}")
