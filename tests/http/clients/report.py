"""What the script of each client prints: its version, and for each ability True or what went wrong."""

import json
import sys
import traceback
from importlib.metadata import version

BASE_URL, MODEL = sys.argv[1:3] if len(sys.argv) > 2 else ("", "")
HELLO = "Hello there"
FEW, ENOUGH = 24, 200
"""Tokens of an answer, and of an object or a call: a token of the tests' base is one byte."""


def report(package, **checks):
    """Run the checks and print one line of JSON."""
    results = {}
    for ability, check in checks.items():
        try:
            check()
            results[ability] = True
        except BaseException as error:  # noqa: BLE001 (every failure of a client is a result)
            where = traceback.extract_tb(error.__traceback__)[1:2]
            results[ability] = f"{type(error).__name__}: {error}"[:600] + f" ({where[0].lineno if where else '?'})"
    print("\n" + json.dumps({"version": version(package), "results": results}))
