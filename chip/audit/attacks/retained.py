"""What an attack costs: how much of what is retained a model still answers, so that a recovery can be weighed."""

import random
from collections.abc import Collection

from chip.audit.subject import Subject
from chip.hierarchy import Record
from chip.measure import teacher_forced
from chip.models.loading import LoadedModel

ASKED = 32
"""Retained records that are asked about, drawn by seed: enough to see a model that an attack has wrecked."""


class RetainedSample:
    """Some of the exam's retained records, and how many of them the model answers as it is."""

    def __init__(self, subject: Subject, without: Collection[Record] = ()) -> None:
        places = [
            (group.name, place)
            for group in subject.exam.retained
            for place, record in enumerate(group.records)
            if record not in without
        ]
        chosen = sorted(random.Random(f"{subject.seed} retained").sample(places, min(ASKED, len(places))))
        groups = {group.name: group.records for group in subject.exam.retained}
        self._subject = subject
        self._records = [groups[name][place] for name, place in chosen]
        self._before = sum(subject.sitting.answers[key].likeliest for key in chosen)

    def lost(self, attacked: LoadedModel) -> str:
        """In words, what became of them under attack."""
        count = len(self._records)
        if not count:
            return "no other retained record was left to see what the attack costs"
        encoded = [attacked.prompts.encode(record) for record in self._records]
        answers = teacher_forced(attacked, encoded, batch_size=self._subject.batch_size)
        after = sum(one.likeliest for one in answers)
        return (
            f"of {count} other retained records it then answers {after / count:.0%}, {self._before / count:.0%} before"
        )
