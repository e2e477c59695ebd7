"""Memory, time and disk space of a run on this machine, before it starts and before the base is here."""

from kameleon.plan.calibration import Rates, calibrate
from kameleon.plan.common_bases import COMMON_NAMES, CommonBase, common_bases, common_header
from kameleon.plan.counts import adapter_bytes, lora_parameters, parameter_table, trainable_parameters
from kameleon.plan.header import BaseHeader, StoredTensor, read_base_header
from kameleon.plan.memory import Memory, copied_bytes, process_bytes, training_memory
from kameleon.plan.planner import Option, Plan, make_plan
from kameleon.plan.workload import Pass, Workload, assumed_workload, workload_of

__all__ = [
    "COMMON_NAMES",
    "BaseHeader",
    "CommonBase",
    "Memory",
    "Option",
    "Pass",
    "Plan",
    "Rates",
    "StoredTensor",
    "Workload",
    "adapter_bytes",
    "assumed_workload",
    "calibrate",
    "common_bases",
    "common_header",
    "copied_bytes",
    "lora_parameters",
    "make_plan",
    "parameter_table",
    "process_bytes",
    "read_base_header",
    "trainable_parameters",
    "training_memory",
    "workload_of",
]
