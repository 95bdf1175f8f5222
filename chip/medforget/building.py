"""Building the benchmark: an export's studies become records at every level, with pictures, splits and a manifest."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chip.duolearn.lexicon import Lexicon
from chip.medforget.charting import BuildSettings, chart
from chip.medforget.export import Export, Problems
from chip.medforget.layout import FORMAT, MANIFEST, TRAINING
from chip.medforget.questions import CLASSIFICATION, Question, questions
from chip.medforget.selection import DEALT
from chip.medforget.wording import wordings
from chip.progress import Track, silent
from chip.records import write_records
from chip.records.jsonl import DEFAULT_LEVELS, RECORDS
from chip.version import VERSION


@dataclass(frozen=True)
class Built:
    """What was built: records by level and by task, nodes by level, and the manifest."""

    records: Mapping[str, int]
    tasks: Mapping[str, int]
    nodes: Mapping[str, int]
    manifest: Mapping[str, Any] = field(default_factory=dict)


def build(
    export: Export, out: Path, settings: BuildSettings, lexicon: Lexicon, problems: Problems, track: Track = silent
) -> Built:
    """Write a benchmark's records, pictures and manifest into the empty directory `out`. The same export, settings and
    lexicon give the same bytes. Raises ChipError where no patient has enough studies."""
    found = chart(export, out, settings, problems, track)
    asked = questions(found.charts, lexicon, options=settings.options, seed=settings.seed, dealt=not found.named)
    _write(out, asked)
    built = _counted(asked)
    manifest = {
        "format": FORMAT,
        "chip": VERSION,
        "export": export.kind,
        "settings": asdict(settings),
        "institutions": "named by the export" if found.named else DEALT,
        "patients": found.patients,
        "lexicon": hashlib.sha256(repr(sorted(lexicon.terms.items())).encode()).hexdigest(),
        "records": built.records,
        "tasks": built.tasks,
        "nodes": built.nodes,
        "answer_places": _places(asked),
        "problems": problems.as_json(),
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Built(built.records, built.tasks, built.nodes, manifest)


def _write(out: Path, asked: Sequence[Question]) -> None:
    editing, training = [], []
    for one in asked:
        words = wordings(one.kind, one.fields)
        common: dict[str, Any] = {"path": list(one.path), "image": one.image}
        end: dict[str, Any] = {"answer": one.answer, "task": one.task}
        if one.options:
            end["options"] = list(one.options)
        editing.append({**common, "question": words.editing, "paraphrases": list(words.evaluation), **end})
        first, *others = words.training
        training.append({**common, "question": first, "paraphrases": others, **end})
    write_records(out, DEFAULT_LEVELS, training)
    (out / RECORDS).rename(out / TRAINING)
    write_records(out, DEFAULT_LEVELS, editing)


def _counted(asked: Sequence[Question]) -> Built:
    records = Counter(DEFAULT_LEVELS[len(one.path) - 1] for one in asked)
    tasks = Counter(one.task for one in asked)
    nodes = {one.path[:depth] for one in asked for depth in range(1, len(one.path) + 1)}
    return Built(
        {level: records[level] for level in DEFAULT_LEVELS},
        dict(sorted(tasks.items())),
        {level: sum(len(node) == depth for node in nodes) for depth, level in enumerate(DEFAULT_LEVELS, start=1)},
    )


def _places(asked: Sequence[Question]) -> dict[str, int]:
    """How many answers of classifications stand at each place."""
    return dict(sorted(Counter(one.answer[0] for one in asked if one.task == CLASSIFICATION).items()))
