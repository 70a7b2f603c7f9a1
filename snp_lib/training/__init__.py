"""Training of networks: recipes, loop, checkpoints."""

from snp_lib.training.loop import TrainingError as TrainingError, accuracy as accuracy, predict as predict, train as train
from snp_lib.training.recipe import Recipe as Recipe
from snp_lib.training.stopping import Stopped as Stopped
