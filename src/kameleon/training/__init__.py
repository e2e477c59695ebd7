"""Training runs and scores. It knows bases, adapters and data, but neither serving nor the command line."""

from kameleon.settings import Recipe, Watch
from kameleon.training.evaluation import GENERAL_TEXT, Score, TestSet, evaluate, make_test_set
from kameleon.training.log import draw_loss_curve, read_log
from kameleon.training.loop import Run, RunResult, StepReport
from kameleon.training.recipe import derived_learning_rate, target_modules

__all__ = [
    "GENERAL_TEXT",
    "Recipe",
    "Run",
    "RunResult",
    "Score",
    "StepReport",
    "TestSet",
    "Watch",
    "derived_learning_rate",
    "draw_loss_curve",
    "evaluate",
    "make_test_set",
    "read_log",
    "target_modules",
]
