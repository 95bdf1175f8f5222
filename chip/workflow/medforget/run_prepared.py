"""What `chip medforget run` is asked, and a request that was read and checked: nothing is measured here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from chip.audit.attacks import ATTACKS
from chip.audit.changes import refuse_unlike
from chip.audit.judging import Judge
from chip.audit.metrics import refuse_without_libraries
from chip.collect.team import launched, own_device
from chip.errors import ChipError, UsageError
from chip.files import explained, refuse_unwritable
from chip.hierarchy import Hierarchy
from chip.medforget.contest import Contest, Method, Outcomes, contests, digest
from chip.medforget.examination import Outcome
from chip.medforget.layout import PAGE, PICTURE, SPLITS, VALUES
from chip.medforget.splits import read_splits, refuse_unsound
from chip.models.checkpoint import Checkpoint
from chip.models.folders import resolve_model
from chip.progress import Track
from chip.records import read_records
from chip.records.digests import asked_digest
from chip.training_settings import at_least
from chip.version import VERSION

Notice = Callable[[str], None]

ATTACKS_MADE = ("rephrasing", "membership", "reconstruction", "prefill")
"""Attacks of a run unless others are asked for: the paper's, and the cheap ones that break most edits."""


_OWN = frozenset({PAGE, VALUES, PICTURE, "outcomes", "work"})
"""What a run leaves in its directory."""


@dataclass(frozen=True)
class RunRequest:
    """What `chip medforget run` was asked. levels, sets: names; all where none. gold: a retrained model, or a folder of
    them by level. trials: edits that a method may try. seconds: of the processor that it may take; 0 for any. keep:
    leave edited checkpoints where they are."""

    model: str
    data: Path
    out: Path
    methods: tuple[Method, ...]
    levels: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    splits: Path | None = None
    gold: Path | None = None
    trials: int = 8
    seconds: int = 0
    attacks: tuple[str, ...] = ATTACKS_MADE
    quick: bool = True
    judge: Judge | None = None
    nonmembers: Path | None = None
    records: int = 200
    keep: bool = False
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True)
class PreparedRun:
    """A request that was read and checked: its contests, and every one that the splits have; and what this process is
    of those that share it."""

    request: RunRequest
    model: Path
    hierarchy: Hierarchy
    contests: tuple[Contest, ...]
    every: tuple[Contest, ...]
    outcomes: Outcomes
    base: str
    golds: Mapping[Path, str]
    strangers: str
    device: str
    rank: int
    size: int
    track: Track
    notice: Notice

    @property
    def work(self) -> Path:
        """Where this process's edits lie until they are examined."""
        return self.request.out.resolve() / "work"

    @property
    def statistics(self) -> Path:
        """Those of another model or other data, which an earlier run may have left there, are called otherwise."""
        return self.work / f"statistics-{digest([self.base, self.request.dtype])[:12]}.safetensors"

    def context(self, contest: Contest) -> str:
        """What outcomes of a contest are of, however the edits were made."""
        request = self.request
        judge = None if request.judge is None else [request.judge.endpoint, request.judge.model]
        asked = [request.attacks, request.quick, judge, request.records, request.seed, request.dtype, self.strangers]
        gold = self.golds[contest.gold] if contest.gold else None
        return digest([VERSION, self.base, gold, contest.chosen.forget, asked])

    def command(self, contest: Contest, method: Method) -> list[str]:
        """The flags by which a method is told what to forget and how; its own come last, and so win."""
        forget = [flag for node in contest.chosen.forget for flag in ("--forget", "/".join(node))]
        tuned = [] if "--no-tune" in method.flags else ["--trials", str(self.request.trials)]
        return ["--method", method.name, *tuned, "--seed", str(self.request.seed), *method.flags, *forget]

    def rows(self, contest: Contest) -> dict[str, Outcome]:
        """Everything that is known of a contest, but for what was asked of its methods otherwise."""
        asked = {one.said: digest(self.command(contest, one)) for one in self.request.methods}
        return self.outcomes.rows(contest, self.context(contest), asked)

    def has(self, contest: Contest, method: Method) -> bool:
        """Whether a method was measured."""
        command = digest(self.command(contest, method))
        return self.outcomes.has(contest, method.said, self.context(contest), command, self.request.seconds)


def prepare_run(request: RunRequest, track: Track, notice: Notice) -> PreparedRun:
    """Read and check everything that a run needs.

    Raises ChipError where model, data, splits and retrained models do not go together.
    """
    _refuse(request)
    refuse_without_libraries()
    if request.judge is not None:
        request.judge.refuse_unready()
    model = resolve_model(request.model).resolve()
    hierarchy = read_records(request.data)
    splits = read_splits(request.splits or request.data / SPLITS)
    chosen = contests(splits, request.levels, request.sets, request.gold)
    for contest in chosen:
        if contest.level not in hierarchy.levels:
            levels = ", ".join(hierarchy.levels)
            raise ChipError(f"the splits are of a level {contest.level!r}; the records have {levels}")
        refuse_unsound(hierarchy, contest.level, contest.chosen.forget, splits.siblings)
        if contest.gold is None and request.gold is not None:
            notice(f"{request.gold} holds no retrained model for {contest.name}, which has no such row")
    rank, size = launched()
    device = own_device(request.device) if size > 1 else request.device
    base = digest([*_identified(model), asked_digest(hierarchy)])
    one_model = request.gold is not None and (request.gold / "config.json").is_file()
    others = contests(splits, (), (), None if one_model else request.gold)
    every = tuple(next((one for one in chosen if one.name == other.name), other) for other in others)
    for one in every:
        if one.gold is not None:
            refuse_unlike(Checkpoint(model), Checkpoint(one.gold))
    golds = {one.gold: digest(_identified(one.gold)) for one in every if one.gold is not None}
    strangers = "" if request.nonmembers is None else asked_digest(read_records(request.nonmembers))
    with explained(request.out):
        request.out.mkdir(parents=True, exist_ok=True)
    outcomes = Outcomes(request.out, notice)
    return PreparedRun(
        request, model, hierarchy, chosen, every, outcomes, base, golds, strangers, device, rank, size, track, notice
    )


def _identified(model: Path) -> list[str]:
    checkpoint = Checkpoint(model)
    return [checkpoint.digest, checkpoint.prompts_digest]


def _refuse(request: RunRequest) -> None:
    for flag, value, least in (
        ("--trials", request.trials, 1),
        ("--seconds", request.seconds, 0),
        ("--verify-records", request.records, 1),
        ("--batch-size", request.batch_size, 1),
        ("--seed", request.seed, 0),
    ):
        at_least(flag, value, least)
    if unknown := [name for name in request.attacks if name not in ATTACKS]:
        raise UsageError(f"--attacks {unknown[0]!r} is none of {', '.join(ATTACKS)} or none")
    if request.out.is_file():
        raise ChipError(f"--out {request.out} is a file; name a directory")
    refuse_unwritable(request.out / "results.json")
    if request.out.is_dir() and (foreign := {path.name for path in request.out.iterdir()} - _OWN):
        raise ChipError(f"--out {request.out} holds {min(foreign)}, which is no run's; name another directory")
