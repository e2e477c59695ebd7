"""Speed of training and serving beside other programs and beside the bare multiplications. Nothing is printed here."""

from kameleon.bench.cases import CASES, Case, find_cases
from kameleon.bench.contenders import CONTENDERS, Contender, find_contenders
from kameleon.bench.machine import machine
from kameleon.bench.measure import Event
from kameleon.bench.profile import OperatorTime, operator_times, profile_steps
from kameleon.bench.result import losses_agree, run_bench
from kameleon.bench.settings import BenchSettings

__all__ = [
    "CASES",
    "CONTENDERS",
    "BenchSettings",
    "Case",
    "Contender",
    "Event",
    "OperatorTime",
    "find_cases",
    "find_contenders",
    "losses_agree",
    "machine",
    "operator_times",
    "profile_steps",
    "run_bench",
]
