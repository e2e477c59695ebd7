"""`python -m kameleon` is `kameleon`, for a shell that does not find the command."""

from kameleon.cli import main

main()
