"""Audit: what a checkpoint has forgotten, what it has kept, and what an attacker gets back."""

from chip.audit.exam import Exam, Sitting, set_exam, sit
from chip.audit.formulas import Measured, Metrics
from chip.audit.published import metrics_of, paper_metrics

__all__ = ["Exam", "Measured", "Metrics", "Sitting", "metrics_of", "paper_metrics", "set_exam", "sit"]
