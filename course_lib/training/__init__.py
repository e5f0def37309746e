"""Training: `evaluate`, `fit`, and recipes for retraining."""

from course_lib.training.fitting import SCHEDULES, History, evaluate, fastest_precision, fit
from course_lib.training.recipes import Recipe, Retrain, call, recipe

__all__ = ["SCHEDULES", "History", "Recipe", "Retrain", "call", "evaluate", "fastest_precision", "fit", "recipe"]
