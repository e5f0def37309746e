"""The small networks of the course, and their trained weights."""

from course_lib.models.networks import NETWORKS, build, example_input, input_shape
from course_lib.models.pretraining import COMMITTED, RECIPES, checkpoint_facts, pretrained, save_checkpoint, train

__all__ = [
    "COMMITTED",
    "NETWORKS",
    "RECIPES",
    "build",
    "checkpoint_facts",
    "example_input",
    "input_shape",
    "pretrained",
    "save_checkpoint",
    "train",
]
