"""Libraries that report how they are used to their makers are told not to, before they are imported.

huggingface_hub reads HF_HUB_DISABLE_TELEMETRY, other programs that are started from here DO_NOT_TRACK. A value that a
person set stays.
"""

import os
import sys

_SWITCHES = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")


def switch_off() -> None:
    """Set the switches in the environment; a huggingface_hub that is imported already is told directly."""
    chosen = any(os.environ.get(switch) for switch in _SWITCHES)
    for switch in _SWITCHES:
        os.environ.setdefault(switch, "1")
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None and not chosen:
        constants.HF_HUB_DISABLE_TELEMETRY = True  # pyright: ignore[reportAttributeAccessIssue]
