"""Records of the usual kinds."""

from kameleon.data import Record


def pair(prompt, completion="Ho", **more):
    return {"prompt": prompt, "completion": completion, **more}


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def records(*values):
    return [Record(i, value) for i, value in enumerate(values, start=1)]
