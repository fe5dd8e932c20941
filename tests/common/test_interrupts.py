"""Signals, in processes of their own."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from subprocess import PIPE

import pytest

WAITS = """
import os, signal, sys
from clsearch.common.interrupts import ignore_interrupts, signals_as_interrupt
{before}
heard, said = 0, False
with signals_as_interrupt():
    while True:
        try:
            if not said:
                said = True
                print("ready", flush=True)
            if not os.read(0, 1):  # until the input ends
                break
        except KeyboardInterrupt:
            heard += 1
            {inside}
{after}
"""


def waiting(before: str = "", inside: str = "pass") -> subprocess.Popen[str]:
    script = WAITS.format(before=before, inside=inside, after='print("heard", heard)')
    process = subprocess.Popen([sys.executable, "-c", script], stdin=PIPE, stdout=PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def heard_by(process: subprocess.Popen[str], *signals: tuple[float, signal.Signals]) -> int:
    for seconds, number in signals:
        time.sleep(seconds)
        process.send_signal(number)
    time.sleep(0.2)  # the last one arrives before the input ends
    said, _ = process.communicate(timeout=30)
    return int(said.split()[-1])


@pytest.mark.slow
def test_signals_in_short_order_are_one_interrupt_and_a_later_one_is_another():
    process = waiting()
    assert heard_by(process, (0, signal.SIGTERM), (0.1, signal.SIGHUP), (0, signal.SIGTERM), (1.5, signal.SIGINT)) == 2


@pytest.mark.slow
def test_a_signal_that_is_ignored_stays_so_and_all_are_once_a_process_ends():
    ignored = waiting(before="signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    deaf = waiting(inside="ignore_interrupts()")
    assert heard_by(ignored, (0, signal.SIGHUP)) == 0
    assert heard_by(deaf, (0, signal.SIGTERM), (1.2, signal.SIGTERM)) == 1


@pytest.mark.slow
def test_output_to_a_terminal_that_closes_is_no_error():
    own, theirs = pty.openpty()
    script = WAITS.format(
        before="signal.signal(signal.SIGHUP, signal.SIG_DFL)",  # nohup ignores it
        inside="print('more', flush=True); break",
        after="sys.exit(7)",
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=PIPE, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert b"ready" in os.read(own, 100)
    os.close(own)
    process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 7
    assert process.stdin is not None
    process.stdin.close()
