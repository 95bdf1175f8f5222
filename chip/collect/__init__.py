"""Collecting: passes over the model that leave sums behind, and the file that keeps them."""

from chip.collect.collector import Collector, collect
from chip.collect.keys import answer_inputs, answer_outputs, image_inputs
from chip.collect.parts import collect_parts, part_of, without
from chip.collect.sketch import FrequentDirections, Sketch
from chip.collect.statistics import Moments, PooledSums, SecondMoments, Statistics, Wanted

__all__ = [
    "Collector",
    "FrequentDirections",
    "Moments",
    "PooledSums",
    "SecondMoments",
    "Sketch",
    "Statistics",
    "Wanted",
    "answer_inputs",
    "answer_outputs",
    "collect",
    "collect_parts",
    "image_inputs",
    "part_of",
    "without",
]
