"""An exam: what an audit asks, and what a model makes of it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from chip.audit.formulas import FORGOTTEN_LEVEL, KEPT_LEVELS, Tokens
from chip.audit.nonmembers import Nonmembers, counterfactuals, strangers
from chip.duolearn.concepts import Concepts
from chip.duolearn.labels import label_tokens
from chip.duolearn.lexicon import read_lexicon
from chip.errors import ChipError
from chip.hierarchy import Hierarchy, Record, Split
from chip.measure import Answer, Answers, Group, audit_groups, measure_answers, sample, teacher_forced
from chip.models.loading import LoadedModel
from chip.models.prompts import Encoded
from chip.progress import Track, silent
from chip.records import read_records

UTILITY = "utility"
"""The group of further records that a user gives, to see what else a model can do."""


@dataclass(frozen=True)
class Exam:
    """What is asked: the groups of an audit, the records that an attacker holds against the target, and the concepts
    by which words have their levels."""

    hierarchy: Hierarchy
    split: Split
    groups: tuple[Group, ...]
    nonmembers: Nonmembers
    concepts: Concepts

    @property
    def target(self) -> Group:
        return next(group for group in self.groups if group.phrasing == 1)

    @property
    def questions(self) -> tuple[Record, ...]:
        """The target's records that ask something; its plain documents are left out."""
        return tuple(record for record in self.target.records if record.text is None)

    @property
    def retained(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if not group.phrasing and group.name != UTILITY)


@dataclass(frozen=True)
class Sitting:
    """What a model made of an exam: its answers, the losses of the non-members, and by level its answer tokens, of the
    retained records (1 to 3) and of the target (4); `obstacle` says why words have no levels, if so.

    choices: of records with options, by group and place, whether the right one is the likeliest of them.
    """

    answers: Answers
    nonmember_losses: tuple[float, ...]
    tokens: Mapping[int, Tokens]
    obstacle: str = ""
    choices: Mapping[tuple[str, int], bool] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "answers": [[*key, asdict(answer)] for key, answer in self.answers.items()],
            "nonmember_losses": list(self.nonmember_losses),
            "tokens": {str(level): asdict(tokens) for level, tokens in self.tokens.items()},
            "obstacle": self.obstacle,
            "choices": [[*key, right] for key, right in self.choices.items()],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Sitting":
        answers = {(g, p): Answer(**{**one, "hits": tuple(one["hits"])}) for g, p, one in content["answers"]}
        tokens = {int(level): Tokens(**one) for level, one in content["tokens"].items()}
        choices = {(group, place): right for group, place, right in content["choices"]}
        return cls(answers, tuple(content["nonmember_losses"]), tokens, content["obstacle"], choices)


def set_exam(
    hierarchy: Hierarchy,
    split: Split,
    *,
    lexicon: Path | None = None,
    nonmembers: Path | None = None,
    utility: Path | None = None,
    records: int = 200,
    seed: int = 0,
) -> Exam:
    """The exam on what was to be forgotten. records: how many retained records are asked of a group, and non-members in
    all; nonmembers: a data directory of records that the model never saw, counterfactuals where None; utility: another
    one, of what the model shall still be able to do; lexicon: a file, chip's own where None. Raises ChipError where one
    of them cannot be read."""
    concepts = Concepts(read_lexicon(lexicon), hierarchy, split)
    others = (
        counterfactuals(hierarchy, split, records, seed)
        if nonmembers is None
        else strangers(nonmembers, hierarchy, records, seed)
    )
    groups = audit_groups(hierarchy, split, limit=records, seed=seed)
    if utility is not None:
        groups += (sample(UTILITY, _utility(utility), records, seed),)
    return Exam(hierarchy, split, groups, others, concepts)


def sit(loaded: LoadedModel, exam: Exam, *, batch_size: int, track: Track = silent, doing: str = "") -> Sitting:
    """Ask a model everything in an exam: each group's records by generation, the non-members by one pass."""
    asked = [(group, place) for group in exam.groups for place in range(len(group.records))]
    records = [group.records[place] for group, place in asked]
    said = doing or "asking the model"
    encoded = loaded.prompts.encode_all(records)
    answers = measure_answers(loaded, records, encoded=encoded, batch_size=batch_size, track=track, doing=said)
    found = {(group.name, place): one for (group, place), one in zip(asked, answers, strict=True)}
    strange = loaded.prompts.encode_all(exam.nonmembers.records)
    losses = tuple(one.loss for one in teacher_forced(loaded, strange, batch_size=batch_size))
    chosen = _choices(loaded, exam, batch_size)
    try:
        told = {(group.name, place): one for (group, place), one in zip(asked, encoded, strict=True)}
        return Sitting(found, losses, _tokens(loaded, exam, found, told), choices=chosen)
    except ChipError as problem:
        # Some tokenizers and templates do not tell which tokens are which words: the other metrics need no words.
        return Sitting(found, losses, {}, str(problem), chosen)


def _utility(directory: Path) -> list[Record]:
    if not (directory / "records.jsonl").is_file():
        raise ChipError(f"--utility {directory} holds no records.jsonl; give a data directory")
    return list(read_records(directory).records)


def _choices(loaded: LoadedModel, exam: Exam, batch_size: int) -> dict[tuple[str, int], bool]:
    """Of records with options, whether the right one has the lowest loss a token of them all."""
    asked = [
        (group.name, place, option, record)
        for group in exam.groups
        for place, record in enumerate(group.records)
        for option in record.options
    ]
    encoded = loaded.prompts.encode_all([replace(record, answer=option) for _, _, option, record in asked])
    best: dict[tuple[str, int], tuple[float, bool]] = {}
    for (name, place, option, record), one in zip(
        asked, teacher_forced(loaded, encoded, batch_size=batch_size), strict=True
    ):
        found = one.loss, " ".join(option.split()) == " ".join(record.answer.split())
        best[name, place] = min(best.get((name, place), found), found)
    return {key: right for key, (_, right) in best.items()}


def _tokens(
    loaded: LoadedModel, exam: Exam, answers: Answers, told: Mapping[tuple[str, int], Encoded]
) -> dict[int, Tokens]:
    """The answer tokens of the retained records by level, and those of level 4 of the target."""
    found: dict[int, Tokens] = defaultdict(Tokens)
    for group in (exam.target, *exam.retained):
        wanted = (FORGOTTEN_LEVEL,) if group.phrasing else KEPT_LEVELS
        weight = group.of / len(group.records)
        for place, record in enumerate(group.records):
            encoded = told[group.name, place]
            labels = label_tokens(exam.concepts, loaded.prompts, record, encoded, target=bool(group.phrasing))
            levels = labels.levels[encoded.answer_start :].tolist()
            for level, hit in zip(levels, answers[group.name, place].hits, strict=True):
                if level in wanted:
                    found[level] = Tokens(found[level].right + weight * hit, found[level].count + weight)
    return dict(found)
