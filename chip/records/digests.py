"""Digests of what records hold: whether statistics still belong to the data, and whose an image is."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chip.files import file_digest
from chip.hierarchy import Hierarchy, NodePath, Record, Split, comparison_sets, is_under


def image_digest(path: Path) -> str:
    """SHA-256 of an image file's content; a file that changes on disk is read again."""
    stat = path.stat()
    return _image_digest(path, stat.st_mtime_ns, stat.st_size)


@cache
def _image_digest(path: Path, modified: int, size: int) -> str:
    return file_digest(path)


def record_digest(record: Record) -> str:
    """SHA-256 of what a record teaches a model: its path, question, answer or text, and its images' content."""
    images = [image_digest(path) for path in record.images]
    content = [record.path, record.question, record.answer, record.text, images]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def asked_digest(hierarchy: Hierarchy) -> str:
    """SHA-256 of everything that records hold to be asked: with other wordings, options and languages."""
    records = [[record_digest(one), one.paraphrases, one.options, one.translations] for one in hierarchy.records]
    return hashlib.sha256(json.dumps([hierarchy.levels, records], ensure_ascii=False).encode()).hexdigest()


def few_per_node(hierarchy: Hierarchy, digests: Sequence[str], most: int | None) -> tuple[int, ...]:
    """Positions of the records that count: all, or of the records on each node the `most` with the smallest digests.

    Which they are depends on what the records say alone, not on their order or on what stands beside them.
    """
    if most is None:
        return tuple(range(len(hierarchy.records)))
    by_node: dict[NodePath, list[int]] = {}
    for position, path in enumerate(hierarchy.paths):
        by_node.setdefault(path, []).append(position)
    chosen = (sorted(positions, key=lambda position: digests[position])[:most] for positions in by_node.values())
    return tuple(sorted(position for positions in chosen for position in positions))


@dataclass(frozen=True)
class ImageSplit:
    """Images by digest: those that are the target's own, and those that they are compared with.

    `comparison_records` are positions of the records that show the latter; `obstacle` says why the target has no image
    keys, and is empty where it has.
    """

    owned: frozenset[str]
    comparison: frozenset[str]
    comparison_records: tuple[int, ...]

    @property
    def obstacle(self) -> str:
        if not self.owned:
            return "the target owns no image: it shows none, or retained records show them too"
        return "" if self.comparison else "the records that the target is compared with show no image"


def divide_images(hierarchy: Hierarchy, split: Split) -> ImageSplit:
    """Whose the images are: a target's when no retained record at the target's depth or below shows them.

    The comparison is formed among the records that show an image, as at every site among those that reach it.
    """
    records = hierarchy.records
    owned: set[str] = set()
    for target in split.targets:
        inside = (records[i] for i in split.target if is_under(records[i].path, target))
        outside = (records[i] for i in split.retain if len(records[i].path) >= len(target))
        owned |= images_of(inside) - images_of(outside)
    showing = [i for i, record in enumerate(records) if record.images]
    found = comparison_sets([records[i].path for i in showing], split.targets)
    compared = sorted({showing[i] for one in found for i in one.comparison})
    comparison = images_of(records[i] for i in compared) - owned
    return ImageSplit(frozenset(owned), frozenset(comparison), tuple(compared))


def images_of(records: Iterable[Record]) -> set[str]:
    """The digests of all images that records show."""
    return {image_digest(path) for record in records for path in record.images}
