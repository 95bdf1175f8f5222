"""Digests of what records hold, so that statistics can tell whether they still belong to the data."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from chip.files import file_digest
from chip.hierarchy import Record


def image_digest(path: Path) -> str:
    """SHA-256 of an image file's content; a file that changes on disk is read again."""
    stat = path.stat()
    return _image_digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=100_000)
def _image_digest(path: Path, modified: int, size: int) -> str:
    return file_digest(path)


def record_digest(record: Record) -> str:
    """SHA-256 of what a record teaches a model: its path, question, answer or text, and its images' content."""
    images = [image_digest(path) for path in record.images]
    content = [record.path, record.question, record.answer, record.text, images]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
