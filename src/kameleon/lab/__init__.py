"""The idea of LoRA in two minutes on toy layers: numbers, pictures, and the part that tutorials leave out.

It knows `kameleon.lora` and nothing of language models, files of weights or adapters.
"""

from kameleon.lab.report import LabReport, RankPoint


__all__ = ["LabReport", "RankPoint", "explain", "run_lab", "save_pictures"]
