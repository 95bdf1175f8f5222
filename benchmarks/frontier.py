"""How near training-free edits come to a retrained model: forgetting, keeping, and what brings the target back.

    python benchmarks/frontier.py [--work DIR] [--hospital words …] [--variant NAME …] [--targets N] [--level LEVEL …]

On three hospitals (the example; one of another seed and size, on which nothing was chosen; one whose words fall into
pieces) up to five targets a level are forgotten by each variant, beside models retrained without them. One retrained
model leaves out a patient, a study and a section of three different institutions at once, which spares two trainings of
three; an institution has one to itself. Results are added to `benchmarks/results/frontier.json`, one entry for a
hospital, variant and target, and shown in `frontier.md`. About two hours on one core, most of it retraining.
"""

import json
import platform
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import transformers
import typer
from attacks import Subject, ask, relearned
from chip.hospital import HospitalPlan, build_hospital, train_model
from chip.hospital.encoding import Example, encode
from chip.hospital.model import IMAGE_TOKENS
from chip.hospital.records import HospitalRecord
from chip.hospital.records import read_records as read_hospital
from PIL import Image
from timed import timed_edit
from transformers import AutoProcessor

from chip.audit.attacks.quantisation import rounded
from chip.cli.options import quiet_libraries
from chip.hierarchy import Hierarchy, NodePath, Split
from chip.measure import measure_answers
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.records import read_records
from chip.settings import EditSettings
from chip.version import VERSION
from chip.workflow import EditRequest

HOSPITALS = {
    "words": HospitalPlan(),
    "second": HospitalPlan(institutions=5, patients=3, seed=1),
    "sub-words": HospitalPlan(vocabulary=400, intermediate_size=384),
}
LEVELS = ("patient", "study", "section", "institution")
RETRAINED, BEFORE = "retrained", "before"
DEFAULT = "counterpart (default)"
VARIANTS: dict[str, EditSettings] = {
    DEFAULT: EditSettings(),
    "counterpart, one round": EditSettings(rounds=0),
    "counterpart, strength 0.3": EditSettings(strength=0.3),
    "counterpart, strength 3": EditSettings(strength=3.0),
    "counterpart, ridge 0.01": EditSettings(ridge=0.01),
    "counterpart, 64 records held": EditSettings(held=64),
    "counterpart, last half of the layers": EditSettings(layers="3-5"),
    "oblique, both keys, beyond unknown": EditSettings(method="oblique"),
    "oblique, image keys": EditSettings(method="oblique", keys="image"),
    "oblique, both keys, toward unknown": EditSettings(method="oblique", toward="unknown"),
    "oblique, answer keys, toward mean": EditSettings(method="oblique", keys="answer", toward="mean"),
    "oblique, both keys, mean, budget 0.02": EditSettings(method="oblique", toward="mean", retain_budget=0.02),
    "oblique, beyond unknown, 256 refreshed": EditSettings(method="oblique", refresh=256),
    "chip, paper's settings": EditSettings(method="chip"),
    "chip, all layers, k = 30": EditSettings(method="chip", layers="0-5", top_k=30.0),
}
RESULTS = Path(__file__).parent / "results"
SIBLING_STEPS, THIRD_STEPS = 30, 15


@dataclass(frozen=True)
class Outcome:
    """One variant on one target. Matches are shares of records answered in full; `held_out` is a phrasing that neither
    the model was trained on nor the edit saw; `rest_rephrased` the rest in a phrasing that the edit did not see.
    `relearned_siblings` is the target after 30 steps on its siblings (on the rest, where it has none),
    `relearned_third` the other two thirds of it after 15 steps on a third; `bits_8` and `bits_4` after rounding, and
    the same of the rest. `words` is the share of the words generated for the target that stand somewhere in the
    records, and `sample` the longest answer. `seconds`: solving and writing, with statistics at hand."""

    target: float
    rephrased: float
    held_out: float
    siblings: float | None
    rest: float | None
    rest_rephrased: float | None
    loss: float
    relearned_siblings: float
    relearned_third: float | None
    bits_8: float
    bits_4: float
    rest_bits_8: float | None
    rest_bits_4: float | None
    words: float
    seconds: float
    sample: str


class Hospital:
    """A built hospital, its records encoded as it was trained on them, and its targets."""

    def __init__(self, name: str, work: Path) -> None:
        self.name, self.plan, self.directory = name, HOSPITALS[name], work / name
        build_hospital(self.directory, self.plan)
        self.hierarchy = read_records(self.directory / "records")
        records = read_hospital(self.directory / "records")
        processor = AutoProcessor.from_pretrained(self.directory / "model")
        images = sorted({record.image for record in records if record.image is not None})
        opened = [Image.open(self.directory / "records" / image).convert("RGB") for image in images]
        self.pixels = processor.image_processor(opened, return_tensors="pt")["pixel_values"]
        self.pad = processor.tokenizer.pad_token_id
        self.phrasings = [_encoded(processor, records, images, phrasing) for phrasing in range(3)]
        self.targets = choose_targets(self.hierarchy)

    def subject(self, loaded: LoadedModel) -> Subject:
        """A model of this hospital, to be asked and attacked."""
        return Subject(loaded.model, self.pixels, self.pad)

    @cached_property
    def spelled(self) -> set[str]:
        """Every word of every record."""
        return {word for record in self.hierarchy.records for word in f"{record.question} {record.answer}".split()}

    def retrained(self, level: str, number: int) -> Path:
        """A model trained without a target, made where it is not there yet."""
        alone = level == "institution"
        directory = self.directory / (f"gold-i{number}" if alone else f"gold-{number}")
        without = [self.targets[one][number] for one in (["institution"] if alone else LEVELS[:3])]
        if not directory.exists():
            train_model(directory, self.directory / "records", self.plan, without=without)
        return directory


def choose_targets(hierarchy: Hierarchy, count: int = 5) -> dict[str, list[NodePath]]:
    """By level; the patient, the study and the section of one number lie in three institutions, each in a patient of
    its own as far as there are enough."""
    institutions = sorted({path[0] for path in hierarchy.paths})
    patients = {
        one: sorted({path[1] for path in hierarchy.paths if path[0] == one and path[1:]}) for one in institutions
    }
    used = dict.fromkeys(institutions, 0)

    def patient(number: int) -> NodePath:
        institution = institutions[number % len(institutions)]
        used[institution] += 1
        return institution, patients[institution][(used[institution] - 1) % len(patients[institution])]

    def study(node: NodePath, number: int) -> NodePath:
        studies = sorted({path[2] for path in hierarchy.paths if path[:2] == node and path[2:]})
        return (*node, studies[number % len(studies)])

    found: dict[str, list[NodePath]] = {level: [] for level in LEVELS}
    found["institution"] = [(one,) for one in institutions[:count]]
    for number in range(count):
        found["patient"].append(patient(number))
        found["study"].append(study(patient(number + 1), number))
        section = ("INDICATION", "FINDINGS", "IMPRESSION")[number % 3]
        found["section"].append((*study(patient(number + 2), number + 1), section))
    return found


def main(
    work: Annotated[Path, typer.Option(help="Where hospitals and retrained models are kept.")] = Path("build/frontier"),
    hospital: Annotated[list[str], typer.Option(help="words, second, sub-words; all by default.")] = list(HOSPITALS),  # noqa: B006
    level: Annotated[list[str], typer.Option(help="Levels; all by default.")] = list(LEVELS),  # noqa: B006
    variant: Annotated[list[str], typer.Option(help="Variants; the default alone by default.")] = [DEFAULT],  # noqa: B006
    targets: Annotated[int, typer.Option(help="Targets a level, at most five.")] = 5,
    results: Annotated[Path, typer.Option(help="The results that are added to.")] = RESULTS / "frontier.json",
) -> None:
    """Run variants on targets, and retrained models beside them, as far as the results do not hold them yet."""
    quiet_libraries()
    torch.set_num_threads(1)
    for name in hospital:
        one = Hospital(name, work)
        for at in level:
            for number, node in enumerate(one.targets[at][:targets]):
                split = one.hierarchy.split([node])
                for what in (*([BEFORE] if number == 0 else []), RETRAINED, *variant):
                    key = f"{name} | {at} | {'/'.join(node)} | {what}"
                    if key not in _read(results):
                        outcome = run(one, at, number, split, what)
                        _write(results, {**_read(results), key: asdict(outcome)})
                        typer.echo(f"{key}: {asdict(outcome)}")


def run(hospital: Hospital, level: str, number: int, split: Split, what: str) -> Outcome:
    """One variant, or the model before, or the retrained one, on one target."""
    if what == BEFORE:
        return measured(hospital, split, hospital.directory / "model", 0.0)
    if what == RETRAINED:
        return measured(hospital, split, hospital.retrained(level, number), 0.0, retained=False)
    out = hospital.directory / f"edited-{level}-{number}"
    request = EditRequest(
        model=str(hospital.directory / "model"), data=hospital.directory / "records", out=out, settings=VARIANTS[what],
        forget=("/".join(split.targets[0]),), verify=False, force=True,
        statistics=hospital.directory / "statistics.safetensors",
    )  # fmt: skip
    seconds = timed_edit(request)
    outcome = measured(hospital, split, out, seconds)
    shutil.rmtree(out)
    return outcome


def measured(hospital: Hospital, split: Split, model: Path, seconds: float, *, retained: bool = True) -> Outcome:
    """Everything that is asked of one model; what is retained only where the model was trained on all of it."""
    loaded = load_model(Checkpoint(model), "cpu")
    subject = hospital.subject(loaded)
    texts = [answer.text for answer in measure_answers(loaded, [hospital.hierarchy.records[i] for i in split.target])]
    said = [word for text in texts for word in text.split()]
    first, second, third = ([one[i] for i in split.target] for one in hospital.phrasings)
    asked, rest = list(split.siblings), sorted((*split.shared, *split.rest))

    def of(places: Sequence[int], phrasing: int = 0) -> list[Example]:
        return [hospital.phrasings[phrasing][place] for place in places]

    def match(places: Sequence[int], phrasing: int = 0, by: Subject = subject) -> float | None:
        return ask(by, of(places, phrasing)).match if places and retained else None

    target = ask(subject, first)
    shuffled = random.Random(0).sample(first, len(first))
    some, others = shuffled[: len(first) // 3], shuffled[len(first) // 3 :]
    with relearned(subject, of(asked or rest), SIBLING_STEPS):
        from_siblings = ask(subject, first).match
    from_third = None
    if some:
        with relearned(subject, some, THIRD_STEPS):
            from_third = ask(subject, others).match
    bits: dict[int, tuple[float, float | None]] = {}
    for number in (8, 4):
        small = hospital.subject(rounded(loaded, number))
        bits[number] = ask(small, first).match, match(rest, by=small)
    return Outcome(
        target=target.match,
        rephrased=ask(subject, second).match,
        held_out=ask(subject, third).match,
        siblings=match(asked),
        rest=match(rest),
        rest_rephrased=match(rest, 1),
        loss=target.loss,
        relearned_siblings=from_siblings,
        relearned_third=from_third,
        bits_8=bits[8][0],
        bits_4=bits[4][0],
        rest_bits_8=bits[8][1],
        rest_bits_4=bits[4][1],
        words=sum(word in hospital.spelled for word in said) / max(len(said), 1),
        seconds=seconds,
        sample=max(texts, key=len),
    )


def _encoded(processor: Any, records: Sequence[HospitalRecord], images: Sequence[str], phrasing: int) -> list[Example]:
    turns = [
        ((r.question, *r.paraphrases)[phrasing], r.answer, None if r.image is None else images.index(r.image))
        for r in records
    ]
    return encode(processor, turns, IMAGE_TOKENS)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(path.read_text())["outcomes"] if path.exists() else {}
    return found


def _write(path: Path, outcomes: dict[str, dict[str, Any]]) -> None:
    versions = {"chip": VERSION, "torch": torch.__version__, "transformers": transformers.__version__}
    machine = f"{platform.machine()}, 1 thread, no accelerator, other work beside it"
    path.parent.mkdir(exist_ok=True)
    content = {"machine": machine, "versions": versions, "outcomes": dict(sorted(outcomes.items()))}
    path.write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".md").write_text("\n".join(_page(content)) + "\n")


COLUMNS = (
    "target", "rephrased", "held_out", "siblings", "rest", "rest_rephrased", "loss", "relearned_siblings",
    "relearned_third", "bits_8", "bits_4", "rest_bits_8", "rest_bits_4", "words", "seconds",
)  # fmt: skip


def _page(content: dict[str, Any]) -> list[str]:
    lines = [
        "# How near training-free edits come to a retrained model",
        "",
        f"Made by `python benchmarks/frontier.py` on {content['machine']}, with "
        + ", ".join(f"{name} {version}" for name, version in content["versions"].items())
        + ".",
        "Means over the targets of a level; what each column is says `Outcome` in the script. A retrained model is not",
        "asked what is retained: it leaves out three targets at once.",
    ]
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for key, outcome in content["outcomes"].items():
        hospital, level, _, what = key.split(" | ")
        groups.setdefault((hospital, level), {}).setdefault(what, []).append(outcome)
    for hospital in HOSPITALS:
        for level in LEVELS:
            found = groups.get((hospital, level))
            if not found:
                continue
            lines += ["", f"## {hospital}: {level}", ""]
            lines.append(f"| variant | targets | {' | '.join(COLUMNS)} | longest answer to a target |")
            lines.append("| --- " * (len(COLUMNS) + 3) + "|")
            order = [what for what in (BEFORE, *VARIANTS, RETRAINED) if what in found]
            lines += [_line(what, found[what]) for what in order]
    return lines


def _line(what: str, outcomes: Sequence[dict[str, Any]]) -> str:
    cells = []
    for column in COLUMNS:
        values = [value for one in outcomes if (value := one[column]) is not None]
        cells.append(f"{fmean(values):.{1 if column == 'seconds' else 2}f}" if values else "–")
    return f"| {what} | {len(outcomes)} | {' | '.join(cells)} | {outcomes[0]['sample']} |"


if __name__ == "__main__":
    typer.run(main)
