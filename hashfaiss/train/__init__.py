"""Learning: data sets and splits, losses by method, the trainer."""

from hashfaiss.train.options import TrainOptions
from hashfaiss.train.trainer import TrainResult, train

__all__ = ["TrainOptions", "TrainResult", "train"]
