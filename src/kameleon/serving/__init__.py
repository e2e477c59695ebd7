"""Many requests for one base: queueing and fairness, adapters that come and go, the thread that computes."""

from kameleon.serving.client import Client
from kameleon.serving.engine import Engine, Ticket
from kameleon.serving.hot_adapters import HotAdapters
from kameleon.serving.state import EDGES_S, AdapterState, Counters, EngineState, Times
from kameleon.settings import Limits

__all__ = [
    "EDGES_S",
    "AdapterState",
    "Client",
    "Counters",
    "Engine",
    "EngineState",
    "HotAdapters",
    "Limits",
    "Ticket",
    "Times",
]
