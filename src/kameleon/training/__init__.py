"""Training runs. They know bases, adapters and data, but neither serving nor the command line."""

from kameleon.settings import Recipe, Watch
from kameleon.training.checkpoint import has_checkpoint, resumed_compute, saved_identity
from kameleon.training.further import FIXED, find_parent, recipe_from, require_free
from kameleon.training.log import draw_loss_curve, read_log
from kameleon.training.loop import Run
from kameleon.training.recipe import derived_learning_rate, lowest_layer, settled, target_modules
from kameleon.training.report import Forecast, RunResult, StepReport
from kameleon.training.schedule import Schedule

__all__ = [
    "FIXED",
    "Forecast",
    "Recipe",
    "Run",
    "RunResult",
    "Schedule",
    "StepReport",
    "Watch",
    "derived_learning_rate",
    "draw_loss_curve",
    "find_parent",
    "has_checkpoint",
    "lowest_layer",
    "read_log",
    "recipe_from",
    "require_free",
    "resumed_compute",
    "saved_identity",
    "settled",
    "target_modules",
]
