"""For tests beside other threads: what must come is waited for, however busy the machine is."""

import time


def wait_until(holds, within_s=20.0):
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"not within {within_s:g} s"
        time.sleep(0.001)
