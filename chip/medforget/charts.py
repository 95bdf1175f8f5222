"""A chart: a study as the benchmark asks about it, its sections parsed and its pictures written."""

from collections.abc import Mapping
from dataclasses import dataclass

from chip.hierarchy import NodePath


@dataclass(frozen=True)
class Chart:
    """A study of a chosen patient. sections: text by name, in the order of `spellings.SECTIONS`, white space joined.
    pictures: names of image files in the data set; questions about the study show the first. views: from which side
    each was taken, empty where the export does not say. present, uncertain: findings by a labeller."""

    institution: str
    patient: str
    study: str
    sections: Mapping[str, str]
    pictures: tuple[str, ...]
    views: tuple[str, ...] = ()
    present: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()

    @property
    def path(self) -> NodePath:
        return (self.institution, self.patient, self.study)
