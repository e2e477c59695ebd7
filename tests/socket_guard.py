"""Only this machine can be reached: any other host, and the question for its address, is refused and noted.

As a module on the path named `sitecustomize` it guards every Python process that a test starts.
"""

import ipaddress
import os
import sys

NOTES = "KAMELEON_TEST_SOCKETS"
"""The environment variable with the file in which refused hosts are noted. Nothing is refused without it."""
_HOST_FIRST = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_ADDRESS_SECOND = ("socket.connect", "socket.sendto", "socket.sendmsg")


def _is_here(host):
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(os.fsdecode(host)).is_loopback
    except ValueError:
        return False


def _guard(event, arguments):
    notes = os.environ.get(NOTES)
    if notes is None:
        return
    if event in _HOST_FIRST:
        host = arguments[0]
    elif event in _ADDRESS_SECOND and isinstance(arguments[1], tuple):  # a socket of Unix has a path
        host = arguments[1][0]
    else:
        return
    if not _is_here(host):
        with open(notes, "a") as file:
            file.write(f"{event} {host}\n")
        raise OSError(f"a test may not reach {host}")


sys.addaudithook(_guard)
