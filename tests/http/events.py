"""What a stream held."""

import json


def events_of(response):
    """The documents of a stream, whose last event must be [DONE]."""
    *events, done = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]
