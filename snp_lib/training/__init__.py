"""Training of networks: recipes, loop, checkpoints."""

from snp_lib.training.loop import TrainingError as TrainingError, train as train
from snp_lib.training.prediction import accuracy as accuracy, predict as predict
from snp_lib.training.recipe import Recipe as Recipe
from snp_lib.training.stopping import Stopped as Stopped
