"""Collecting: passes over the model that leave sums behind, and the file that keeps them."""

from chip.collect.collector import Collector
from chip.collect.gathering import BATCH_TOKENS, collect
from chip.collect.keys import answer_counts, answer_inputs, answer_outputs, encode_all, image_inputs
from chip.collect.lockstep import Flow, margins, run_in_step
from chip.collect.parts import added, collect_parts, part_of, sketched_rows, taken_off, without
from chip.collect.sketch import FrequentDirections, Sketch
from chip.collect.statistics import Moments, PooledSums, SecondMoments, Statistics, Wanted

__all__ = [
    "BATCH_TOKENS",
    "Collector",
    "Flow",
    "FrequentDirections",
    "Moments",
    "PooledSums",
    "SecondMoments",
    "Sketch",
    "Statistics",
    "Wanted",
    "added",
    "answer_counts",
    "answer_inputs",
    "answer_outputs",
    "collect",
    "collect_parts",
    "encode_all",
    "image_inputs",
    "margins",
    "part_of",
    "run_in_step",
    "sketched_rows",
    "taken_off",
    "without",
]
