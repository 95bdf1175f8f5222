"""How a question may be worded: every kind of question has two wordings that records state, one held out, many more."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

# A wording is a frame filled with a noun and a subject; the first three of each give a record's own three phrasings.
FRAMES = (
    "{ask} the {noun} of {subject}?",
    "Please state the {noun} of {subject}.",
    "Could you tell me the {noun} of {subject}?",
    "Give the {noun} of {subject}.",
    "For {subject}, state the {noun}.",
    "I need the {noun} of {subject}.",
    "{ask} the {noun} on file for {subject}?",
    "Look up the {noun} of {subject}, please.",
    "Could you give the {noun} on file for {subject}?",
    "Please tell me the {noun} noted for {subject}.",
)
FIRST, SECOND, HELD_OUT = range(3)


@dataclass(frozen=True)
class Kind:
    """One kind of question: what it asks for, and the ways to call the one it asks about."""

    ask: str
    nouns: tuple[str, ...]
    subjects: tuple[str, ...]

    def phrasing(self, place: int, name: str) -> str:
        """The FIRST, SECOND or HELD_OUT wording about the node `name`."""
        return self._word(FRAMES[place], self.nouns[place], self.subjects[place], name)

    def training_phrasings(self, name: str) -> tuple[str, ...]:
        """Every wording to train on: all combinations but those of the held-out frame with the held-out noun."""
        return tuple(
            self._word(FRAMES[frame], self.nouns[noun], subject, name)
            for frame, noun, subject in product(range(len(FRAMES)), range(len(self.nouns)), self.subjects)
            if not frame == noun == HELD_OUT
        )

    def _word(self, frame: str, noun: str, subject: str, name: str) -> str:
        return frame.format(ask=self.ask, noun=noun, subject=subject.format(name=name))


_INSTITUTION = ("{name}", "the hospital {name}", "the institution {name}")
_PATIENT = ("{name}", "the patient {name}", "the person filed as {name}")
_PATIENT_IN_IMAGE = ("the patient in this image", "the person shown here", "this patient")
_STUDY = ("this study", "the image shown", "this radiograph")

# Without an image a question must name whom it asks about; with one, the image alone says it.
KINDS = {
    "director": Kind("Who is", ("medical director", "head physician", "director in charge"), _INSTITUTION),
    "city": Kind("What is", ("home city", "location", "city"), _INSTITUTION),
    "founded": Kind("What is", ("founding year", "year of opening", "year of foundation"), _INSTITUTION),
    "address": Kind("What is", ("street address", "postal address", "address"), _INSTITUTION),
    "record_number": Kind("What is", ("record number", "MRN", "medical record number"), _PATIENT),
    "birth": Kind("What is", ("date of birth", "birth date", "day of birth"), _PATIENT),
    "person": Kind("What is", ("name", "full name", "first and last name"), _PATIENT_IN_IMAGE),
    "kin": Kind("Who is", ("next of kin", "closest relative", "emergency contact"), _PATIENT_IN_IMAGE),
    "date": Kind("What is", ("date", "day of acquisition", "acquisition date"), _STUDY),
    "referral": Kind("Who is", ("referring physician", "referrer", "referring doctor"), _STUDY),
    "indication": Kind("What is", ("indication", "clinical question", "purpose"), _STUDY),
    "findings": Kind("What are", ("findings", "observations", "radiological findings"), _STUDY),
    "impression": Kind("What is", ("impression", "conclusion", "final impression"), _STUDY),
}
