"""Every command of the command line."""

from cyclopts import App


def commands(group, words=()):
    """Every command below `group` with the names of its parameters."""
    for name in group:
        if name.startswith("-"):
            continue
        command = group[name]
        assert isinstance(command, App)
        if command.default_command is None:
            yield from commands(command, (*words, name))
        else:
            arguments = command.assemble_argument_collection()
            yield " ".join((*words, name)), {given for argument in arguments for given in argument.names}
