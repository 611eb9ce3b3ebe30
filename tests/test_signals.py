"""Signals end a process in time, whatever it is doing."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxql.lab.signals import catching_signals, exit_code

SLEEPING = """
import time
from jaxql.lab.signals import catching_signals
with catching_signals(lambda number: print("asked", flush=True), patience=0.5):
    print("ready", flush=True)
    {work}
"""
LONG = "time.sleep(30); time.sleep(30)"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.trust(23)
def test_a_process_that_does_not_end_is_ended(name):
    code = SLEEPING.format(work=LONG)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    process.send_signal(getattr(signal, name))
    output, error = process.communicate(timeout=20)
    assert time.monotonic() - began < 10
    assert process.returncode == exit_code(getattr(signal, name)) in (130, 143)
    assert output == "asked\n" and "without saving" in error


@pytest.mark.trust(23)
def test_a_second_signal_acts_at_once():
    code = SLEEPING.format(work=LONG).replace("patience=0.5", "patience=60")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM


def test_a_signal_in_time_ends_nothing_and_handlers_come_back():
    before, asked = signal.getsignal(signal.SIGTERM), []
    with catching_signals(asked.append, patience=0.2):
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.4)
    assert asked == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == before
    assert not [each for each in threading.enumerate() if each.name == "jaxql signals"]


def test_a_signal_that_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catching_signals(lambda number: pytest.fail("caught")):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_catch_nothing():
    def work():
        with catching_signals(lambda number: None):
            done.append(signal.getsignal(signal.SIGTERM))

    done = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGTERM)]
