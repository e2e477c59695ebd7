"""Signals that ask a run to stop."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kameleon.training import interrupt
from kameleon.training.interrupt import StopRequest

BOTH_AT_ONCE = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("interrupt", sys.argv[1])
interrupt = importlib.util.module_from_spec(spec)
spec.loader.exec_module(interrupt)
with interrupt.StopRequest():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
"""


def test_the_first_signal_is_noted_and_the_second_has_its_usual_effect():
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.made
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_two_signals_at_once_end_the_process_as_the_second_does():
    """Python refuses a waiting signal whose handler was taken away meanwhile, with an OSError from anywhere."""
    ran = subprocess.run(
        [sys.executable, "-c", BOTH_AT_ONCE, Path(interrupt.__file__)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (-signal.SIGTERM, "")
