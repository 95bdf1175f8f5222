"""Collecting: passes over the model that leave sums behind, and the file that keeps them."""

from chip.collect.collector import Collector
from chip.collect.gathering import collect
from chip.collect.keys import answer_inputs, answer_outputs, image_inputs
from chip.collect.statistics import Moments, PooledSums, Statistics, Wanted

__all__ = [
    "Collector",
    "Moments",
    "PooledSums",
    "Statistics",
    "Wanted",
    "answer_inputs",
    "answer_outputs",
    "collect",
    "image_inputs",
]
