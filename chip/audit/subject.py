"""Who is attacked: one of the models of an audit, loaded, with the exam that it has sat."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chip.audit.exam import Exam, Sitting
from chip.audit.finding import Finding
from chip.hierarchy import Record
from chip.measure import Answer, measure_answers
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel
from chip.models.prompts import Encoded
from chip.progress import Counted, Item, Track

Role = Literal["base", "edited", "gold"]


@dataclass(frozen=True)
class Subject:
    """A model under attack. An attack leaves its weights as they were, to the bit.

    checkpoint: where it lies. base: where the model before the edit lies. quick: attacks make do with less.
    """

    role: Role
    loaded: LoadedModel
    checkpoint: Checkpoint
    base: Checkpoint
    exam: Exam
    sitting: Sitting
    batch_size: int
    seed: int
    quick: bool
    track: Track

    def tracked(self, items: Counted[Item], doing: str) -> Iterable[Item]:
        """The items, while it is told what is done with this model."""
        return self.track(items, f"{self.role}: {doing}")

    def ask(self, records: Sequence[Record], doing: str, encoded: Sequence[Encoded] | None = None) -> list[Answer]:
        """What the model answers to records, in order; `encoded` is how they are asked, if not as they are."""
        said = f"{self.role}: {doing}"
        return measure_answers(
            self.loaded, records, encoded=encoded, batch_size=self.batch_size, track=self.track, doing=said
        )


@dataclass(frozen=True)
class Attack:
    """One attack: its name, the question that it answers for a reader who knows no machine learning, and how it is
    made. `quick` says whether a quick audit makes it too. `run` yields the same findings, by name, for every model."""

    name: str
    question: str
    run: Callable[[Subject], tuple[Finding, ...]]
    quick: bool = True
