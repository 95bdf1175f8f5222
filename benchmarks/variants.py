"""Variants of the training-free methods on the example hospital and its sub-word sibling, beside retrained models.

    python benchmarks/variants.py [--work DIR] [--hospital words] [--hospital sub-words]

Builds each hospital, forgets a patient, a study, a section and an institution by every method, retrains without each,
and writes `benchmarks/results/variants.md` and `.json`. What was built or retrained is kept under `--work`, so that an
interrupted run goes on where it stopped. About 25 minutes on one core, most of it retraining.
"""

import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from chip.hospital import HospitalPlan, build_hospital, train_model
from timed import timed_edit

from chip.cli.options import quiet_libraries
from chip.hierarchy import Hierarchy, NodePath, Record
from chip.measure import Answer, audit_groups, measure_answers, score
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.records import read_records
from chip.settings import EditSettings
from chip.version import VERSION
from chip.workflow import EditRequest

HOSPITALS = {
    "words": HospitalPlan(),
    "sub-words": HospitalPlan(vocabulary=400, intermediate_size=384),
}
TARGETS = {
    "patient": "patient_123",
    "study": "study_123_1",
    "section": "study_123_1/INDICATION",
    "institution": "lakeside",
}
METHODS = {
    "counterpart (default)": EditSettings(),
    "oblique, both keys, beyond unknown": EditSettings(method="oblique"),
    "oblique, answer keys, beyond unknown": EditSettings(method="oblique", keys="answer"),
    "oblique, both keys, toward unknown": EditSettings(method="oblique", toward="unknown"),
    "oblique, answer keys, toward unknown": EditSettings(method="oblique", keys="answer", toward="unknown"),
    "oblique, answer keys, toward mean": EditSettings(method="oblique", keys="answer", toward="mean"),
    "oblique, answer keys, toward mean, budget 0.02": EditSettings(
        method="oblique", keys="answer", toward="mean", retain_budget=0.02
    ),
    "oblique, both keys, toward mean, budget 0.02": EditSettings(method="oblique", toward="mean", retain_budget=0.02),
    "oblique, image keys": EditSettings(method="oblique", keys="image"),
    "chip, paper's settings": EditSettings(method="chip"),
    "chip, all layers": EditSettings(method="chip", layers="0-5"),
    "chip, all layers, k = 30": EditSettings(method="chip", layers="0-5", top_k=30),
    "chip, all layers, k = 100": EditSettings(method="chip", layers="0-5", top_k=100),
}
RETRAINED = "retrained without the target"
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Outcome:
    """One method on one target: exact match by group, answer losses, and how much of what it says is words.

    `rest` joins the shared records to the rest. `seconds` is collection of the target's and comparison records, solving
    and writing, with statistics of the data set at hand (for retraining: the training). `words` is the share of the
    words generated for the target that stand somewhere in the hospital's records.
    """

    hospital: str
    level: str
    method: str
    target: float
    rephrased: float
    siblings: float | None
    rest: float
    target_loss: float
    rest_loss: float
    words: float
    seconds: float
    sample: str


def main(
    work: Annotated[Path, typer.Option(help="Where hospitals and retrained models are kept.")] = Path(
        "build/benchmarks"
    ),
    hospital: Annotated[list[str], typer.Option(help="words or sub-words; both by default.")] = list(HOSPITALS),  # noqa: B006
) -> None:
    """Run the benchmark and write its results."""
    quiet_libraries()
    outcomes: list[Outcome] = []
    for name in hospital:
        directory = work / name
        build_hospital(directory, HOSPITALS[name])
        hierarchy = read_records(directory / "records")
        for level, node in TARGETS.items():
            outcomes += _forget(name, directory, hierarchy, level, hierarchy.resolve(node))
            _write(outcomes)


def _forget(name: str, directory: Path, hierarchy: Hierarchy, level: str, path: NodePath) -> Iterator[Outcome]:
    model = directory / "model"
    yield _outcome(name, level, "before", hierarchy, path, model, 0.0)
    retrained = directory / f"retrained-{level}"
    timing = retrained.with_suffix(".json")
    if not retrained.exists():
        summary = train_model(retrained, directory / "records", HOSPITALS[name], without=(path,))
        timing.write_text(json.dumps(asdict(summary)))
    yield _outcome(name, level, RETRAINED, hierarchy, path, retrained, json.loads(timing.read_text())["seconds"])
    for method, settings in METHODS.items():
        if settings.keys == "image" and level == "section":
            continue  # a section owns no image
        out = directory / "edited"
        request = EditRequest(
            model=str(model), data=directory / "records", forget=("/".join(path),), settings=settings, out=out,
            verify=False, force=True,
        )  # fmt: skip
        seconds = timed_edit(request)
        yield _outcome(name, level, method, hierarchy, path, out, seconds)
        shutil.rmtree(out)


def _outcome(
    name: str, level: str, method: str, hierarchy: Hierarchy, path: NodePath, model: Path, seconds: float
) -> Outcome:
    groups = {group.name: group.records for group in audit_groups(hierarchy, hierarchy.split([path]))}
    loaded = load_model(Checkpoint(model))
    answers = {group: measure_answers(loaded, records) for group, records in groups.items()}
    target, rest = answers["target"], [*answers.get("shared", []), *answers["rest"]]
    spelled = {word for record in hierarchy.records for word in _words(record)}
    said = [word for answer in target for word in answer.text.split()]
    return Outcome(
        hospital=name,
        level=level,
        method=method,
        target=score(target).exact_match,
        rephrased=score(answers["target, phrasing 2"]).exact_match,
        siblings=score(answers["siblings"]).exact_match if "siblings" in answers else None,
        rest=score(rest).exact_match,
        target_loss=score(target).loss,
        rest_loss=score(rest).loss,
        words=sum(word in spelled for word in said) / max(len(said), 1),
        seconds=seconds,
        sample=_sample(target),
    )


def _words(record: Record) -> Iterator[str]:
    yield from f"{record.question} {record.answer}".split()


def _sample(answers: Sequence[Answer]) -> str:
    return max((answer.text for answer in answers), key=len)


def _write(outcomes: Sequence[Outcome]) -> None:
    RESULTS.mkdir(exist_ok=True)
    versions = {"chip": VERSION, "torch": torch.__version__, "transformers": transformers.__version__}
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, no accelerator"
    content = {
        "machine": machine,
        "versions": versions,
        "plans": {name: asdict(plan) for name, plan in HOSPITALS.items()},
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    (RESULTS / "variants.json").write_text(json.dumps(content, indent=2) + "\n")
    lines = [
        "# The example hospital: variants of the training-free methods",
        "",
        f"Made by `python benchmarks/variants.py` with {', '.join(f'{k} {v}' for k, v in versions.items())}",
        f"on {machine}. Exact match by greedy generation; *rephrased* is a wording that the model was",
        "trained on and the edit never saw; *rest* is everything else, shared records included. Losses are nats per",
        "answer token. *Words* is the share of the words generated for the target that stand in the records at all.",
    ]
    for name in dict.fromkeys(outcome.hospital for outcome in outcomes):
        plan = HOSPITALS[name]
        lines += ["", f"## {name} (vocabulary {plan.vocabulary}, MLP {plan.intermediate_size}, seed {plan.seed})"]
        for level in dict.fromkeys(outcome.level for outcome in outcomes if outcome.hospital == name):
            lines += [
                "",
                f"### {level}: {TARGETS[level]}",
                "",
                *_table([o for o in outcomes if (o.hospital, o.level) == (name, level)]),
            ]
    (RESULTS / "variants.md").write_text("\n".join(lines) + "\n")


def _table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    headings = ("method", "target", "rephrased", "siblings", "rest", "loss on target", "on rest", "words", "seconds")
    yield f"| {' | '.join(headings)} | longest answer to the target |"
    yield "| --- " * (len(headings) + 1) + "|"
    for one in outcomes:
        numbers = (one.target, one.rephrased, one.siblings, one.rest, one.target_loss, one.rest_loss, one.words)
        cells = ["–" if number is None else f"{number:.2f}" for number in numbers]
        yield f"| {one.method} | {' | '.join(cells)} | {one.seconds:.1f} | {one.sample} |"


if __name__ == "__main__":
    typer.run(main)
