"""The idea of LoRA in two minutes, on toy layers: numbers, words and pictures. It knows no language model."""

from kameleon.lab.pictures import draw
from kameleon.lab.story import tell
from kameleon.lab.toy import Curve, LabReport, run_lab

__all__ = ["Curve", "LabReport", "draw", "run_lab", "tell"]
