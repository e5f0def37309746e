"""Training: `evaluate`, `fit`, and recipes for retraining."""

from course_lib.training.fitting import SCHEDULES, History, evaluate, fit
from course_lib.training.recipes import Recipe, Retrain, call, recipe, stream

__all__ = ["SCHEDULES", "History", "Recipe", "Retrain", "call", "evaluate", "fit", "recipe", "stream"]
