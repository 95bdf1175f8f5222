"""Measuring what a model answers: exact match by greedy generation, and answer loss, by group of records."""

from chip.measure.answers import Answer, measure_answers
from chip.measure.groups import Group, Score, audit_groups, score

__all__ = ["Answer", "Group", "Score", "audit_groups", "measure_answers", "score"]
