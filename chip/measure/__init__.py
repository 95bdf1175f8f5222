"""Measuring what a model answers: exact match by greedy generation, and answer loss, by group of records."""

from chip.measure.answers import Answer, measure_answers, on_answers, teacher_forced
from chip.measure.groups import Group, Score, audit_groups, sample, score
from chip.measure.halves import SURPRISED, Answers, Outcome, Part, halves, outcome, wholes

__all__ = [
    "SURPRISED",
    "Answer",
    "Answers",
    "Group",
    "Outcome",
    "Part",
    "Score",
    "audit_groups",
    "halves",
    "measure_answers",
    "on_answers",
    "outcome",
    "sample",
    "score",
    "teacher_forced",
    "wholes",
]
