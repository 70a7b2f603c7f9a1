"""Training of networks: recipes, loop, checkpoints."""

from snp_lib.training.loop import Recipe, TrainingError, accuracy, predict, train

__all__ = ["Recipe", "TrainingError", "accuracy", "predict", "train"]
