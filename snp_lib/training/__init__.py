"""Training of networks: recipes, loop, checkpoints."""

from snp_lib.training.loop import TrainingError, accuracy, predict, train
from snp_lib.training.recipe import Recipe
from snp_lib.training.stopping import Stopped

__all__ = ["Recipe", "Stopped", "TrainingError", "accuracy", "predict", "train"]
