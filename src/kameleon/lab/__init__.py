"""The idea of LoRA in two minutes on toy layers: numbers, pictures, and the part that tutorials leave out.

It knows `kameleon.torch_modules` and nothing of language models, files of weights or adapters.
"""

from kameleon.lab.explain import explain
from kameleon.lab.pictures import PICTURES, save_pictures
from kameleon.lab.report import LabReport, RankPoint
from kameleon.lab.run import run_lab

__all__ = ["PICTURES", "LabReport", "RankPoint", "explain", "run_lab", "save_pictures"]
