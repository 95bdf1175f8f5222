"""What is built of an export: the same bytes from the same export, nothing in it that the files do not bear out, and
whatever is wrong with the export told by its ids."""

import csv
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from command_line import chip, chip_here
from mimic import WrittenStudy, draw_film, write_mimic, write_table
from mimic_reports import draw_report
from PIL import Image
from processes import start, until

from chip.errors import ChipError, UsageError
from chip.files import hidden
from chip.hierarchy import Record
from chip.medforget import kinds
from chip.medforget.metadata import hidden_parts
from chip.records import read_records

SECRET = "confidential carcinoma"
SIDE = 40
"""Pixels that pictures have at most; those of the exports have more."""


def build(export: Path, out: Path, *flags: Any) -> Result:
    return chip_here("medforget", "build", export, "--out", out, *flags)


def done(result: Result) -> str:
    """What a build that came to its end said."""
    assert result.exit_code == 0, result.exception
    return " ".join(result.output.split())


def content(directory: Path) -> dict[str, bytes]:
    """Every file of a directory, by name."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def lines(directory: Path, name: str = "records.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / name).read_text(encoding="utf-8").splitlines()]


def manifest(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of ten patients, two of whose images are DICOM."""
    folder = tmp_path_factory.mktemp("mimic") / "export"
    write_mimic(folder, patients=10, studies=3)
    return folder


@pytest.fixture(scope="module")
def built(mimic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "data"
    done(build(mimic, out, "--institutions", 2, "--image-size", SIDE, "--patients", 8, "--parquet"))
    return out


def write_plain(table: Path, seed: int = 0) -> Path:
    """A table of two institutions of four patients of two studies, of two images each that are called alike; its rows
    in an order that is drawn by seed."""
    rng = random.Random("plain")
    rows: list[dict[str, Any]] = []
    for patient in range(8):
        for study in range(2):
            drawn = draw_report(rng, "usual")
            for folder in ("a", "b"):
                path = table.parent / f"images/{patient}_{study}/{folder}/film.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((draw_film(rng) * 255).astype(np.uint8)).save(path)
                ids = {"patient_id": f"case-{patient}", "study_id": f"visit-{patient}-{study}"}
                more = {"institution_id": f"clinic-{patient % 2}", "view": "PA", "label:Edema": patient % 2}
                rows.append({**ids, **more, "image": str(path.relative_to(table.parent)), "report": drawn.text})
    random.Random(seed).shuffle(rows)
    if table.suffix == ".csv":
        write_table(table, tuple(rows[0]), [tuple(row.values()) for row in rows])
    else:
        table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return table


class TestTheSameExport:
    def test_files_and_rows_in_another_order_give_the_same_bytes(self, mimic: Path, tmp_path: Path) -> None:
        for name, path in sorted(content(mimic).items(), reverse=True):
            there = tmp_path / "export" / name
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(_shuffled(path, packed=name.endswith(".gz")) if ".csv" in name else path)
        done(build(mimic, tmp_path / "one", "--patients", 6))
        done(build(tmp_path / "export", tmp_path / "two", "--patients", 6))
        assert content(tmp_path / "one") == content(tmp_path / "two")

    def test_a_table_in_another_order_or_form_gives_the_same_bytes(self, tmp_path: Path) -> None:
        found = []
        for place, name in enumerate(("export.csv", "export.csv", "export.jsonl")):
            table = write_plain(tmp_path / str(place) / name, seed=place)
            done(build(table, tmp_path / f"built-{place}"))
            found.append(content(tmp_path / f"built-{place}"))
        assert found[0] == found[1]
        kinds = [json.loads(one.pop("manifest.json"))["export"] for one in found]
        assert kinds == ["CSV", "CSV", "JSONL"]
        assert found[0] == found[2]

    def test_another_seed_gives_others(self, mimic: Path, tmp_path: Path) -> None:
        for seed in (1, 2):
            done(build(mimic, tmp_path / str(seed), "--patients", 6, "--seed", seed))
        patients = [{line["path"][1] for line in lines(tmp_path / str(seed)) if line["path"][1:]} for seed in (1, 2)]
        assert patients[0] != patients[1]


def _shuffled(table: bytes, *, packed: bool) -> bytes:
    """A table's rows in another order."""
    header, *rows = (gzip.decompress(table) if packed else table).splitlines(keepends=True)
    random.Random(3).shuffle(rows)
    found = b"".join([header, *rows])
    return gzip.compress(found, mtime=0) if packed else found


class TestWhatIsBuilt:
    def test_every_record_is_valid_and_counted_as_it_stands_there(self, built: Path) -> None:
        records, said = read_records(built), manifest(built)
        assert records.levels == ("institution", "patient", "study", "section")
        by_level = Counter(records.levels[len(path) - 1] for path in records.paths)
        assert said["records"] == by_level
        assert said["tasks"] == Counter(line["task"] for line in lines(built))
        assert said["nodes"] == Counter(records.levels[len(node) - 1] for node in records.nodes)
        letters = Counter(line["answer"][0] for line in lines(built) if line["task"] == "classification")
        assert said["answer_places"] == letters
        patients = {node for node in records.nodes if len(node) == 2}
        assert said["patients"]["chosen"] == len(patients) == 8
        assert said["patients"]["in the export"] == 10

    def test_training_holds_the_same_records_in_wordings_of_its_own(self, built: Path) -> None:
        editing, training = lines(built), lines(built, "training.jsonl")
        wordings = ("question", "paraphrases")
        for one, other in zip(editing, training, strict=True):
            assert {k: v for k, v in one.items() if k not in wordings} == {
                k: v for k, v in other.items() if k not in wordings
            }
        assert _worded(editing).isdisjoint(_worded(training))
        asked = {line["question"] for line in editing}
        assert asked.isdisjoint(wording for line in editing for wording in line["paraphrases"])

    def test_pictures_are_small_bear_nothing_beside_themselves_and_are_shown(self, built: Path) -> None:
        pictures = sorted((built / "images").iterdir())
        assert {f"images/{path.name}" for path in pictures} == {line["image"] for line in lines(built)} - {None}
        for path in pictures:
            assert hidden_parts(path.read_bytes()) == ()
            with Image.open(path) as image:
                assert max(image.size) == SIDE

    def test_institutions_are_dealt_by_the_rule_that_the_manifest_states(self, built: Path) -> None:
        said = manifest(built)
        assert "SHA-256 of 'SEED patient ID'" in said["institutions"]
        seed, count = said["settings"]["seed"], said["settings"]["institutions"]
        found = {tuple(line["path"][:2]) for line in lines(built) if len(line["path"]) > 1}
        drawn = sorted((name for _, name in found), key=lambda name: _sha(f"{seed} patient {name}"))
        assert found == {(f"institution_{place % count + 1}", name) for place, name in enumerate(drawn)}

    def test_institutions_that_the_export_names_are_kept(self, tmp_path: Path) -> None:
        (tmp_path / "export").mkdir()
        done(build(write_plain(tmp_path / "export" / "table.csv").parent, tmp_path / "built"))
        found = {tuple(line["path"][:2]) for line in lines(tmp_path / "built") if len(line["path"]) > 1}
        assert found == {(f"clinic-{patient % 2}", f"case-{patient}") for patient in range(8)}
        assert manifest(tmp_path / "built")["institutions"] == "named by the export"

    def test_a_patient_who_is_passed_over_leaves_no_picture(self, mimic: Path, tmp_path: Path) -> None:
        shutil.copytree(mimic, tmp_path / "export")
        for path in sorted((tmp_path / "export").glob("files/*/*/s*.txt"))[::3]:
            path.unlink()  # one report of each patient, whose other two studies are too few
        path = next((tmp_path / "export").glob("files/*/*"))
        for number in range(3):
            (path / f"s9000000{number}.txt").write_text("FINDINGS: Clear lungs.")
            shutil.copytree(sorted(path.glob("s*/"))[0], path / f"s9000000{number}")
        done(build(tmp_path / "export", tmp_path / "built", "--min-studies", 3))
        shown = {line["image"] for line in lines(tmp_path / "built")} - {None}
        assert {f"images/{one.name}" for one in (tmp_path / "built" / "images").iterdir()} == shown
        assert manifest(tmp_path / "built")["patients"] == {
            "in the export": 10, "with too few studies": 9, "chosen": 1,
        }  # fmt: skip

    def test_dicom_alone_gives_records(self, tmp_path: Path) -> None:
        write_mimic(tmp_path / "export", patients=3, studies=2, dicom=100, shape="usual")
        assert not list((tmp_path / "export").rglob("*.jpg"))
        done(build(tmp_path / "export", tmp_path / "built", "--strict"))
        records = read_records(tmp_path / "built").records
        assert sum(bool(record.images) for record in records) > 50
        for path in (tmp_path / "built" / "images").iterdir():
            assert np.ptp(np.asarray(Image.open(path))) > 100

    def test_parquet_holds_the_same_records_and_forget_sets(self, built: Path, tmp_path: Path) -> None:
        unpacked = tmp_path / "unpacked"
        assert chip_here("medforget", "unpack", built, "--out", unpacked, "--strict").exit_code == 0
        for name in ("records.jsonl", "training.jsonl"):
            ours, theirs = (sorted(map(_said, read_records(one, name).records)) for one in (built, unpacked))
            assert ours == theirs
        ours, theirs = (json.loads((one / "splits.json").read_text())["levels"] for one in (built, unpacked))
        for level, sets in theirs.items():
            assert [one["forget"] for one in sets] == [one["forget"] for one in ours[level]]
        assert {level for level, sets in ours.items() if sets} == set(theirs)

    def test_what_was_built_has_no_identifier_that_can_be_found(self, built: Path) -> None:
        assert chip_here("medforget", "check", built).exit_code == 0


def _worded(found: Sequence[Mapping[str, Any]]) -> set[str]:
    return {wording for line in found for wording in (line["question"], *line["paraphrases"])}


def _sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _said(record: Record) -> tuple[Any, ...]:
    images = tuple(hashlib.sha256(image.read_bytes()).hexdigest() for image in record.images)
    return record.path, record.question, record.answer, record.paraphrases, record.options, images


Damage = Callable[[Path, Sequence[WrittenStudy]], str]
"""Does something to an export, and returns what it should be told by."""


def _report(text: str | bytes) -> Damage:
    def damage(export: Path, studies: Sequence[WrittenStudy]) -> str:
        path = export / "files" / studies[0].folder / f"{studies[0].name}.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return studies[0].name

    return damage


def _broken_image(export: Path, studies: Sequence[WrittenStudy]) -> str:
    path = studies[0].images[0].path
    path.write_bytes(path.read_bytes()[:300])
    return studies[0].name


def _labels(change: Callable[[list[list[str]]], str]) -> Damage:
    """Change the rows of CheXpert's table; NegBio's goes."""

    def damage(export: Path, studies: Sequence[WrittenStudy]) -> str:
        (export / "mimic-cxr-2.0.0-negbio.csv").unlink()
        path = export / "mimic-cxr-2.0.0-chexpert.csv.gz"
        header, *rows = csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines())
        told = change(rows)
        write_table(path, header, rows)
        return told

    return damage


def _absent(rows: list[list[str]]) -> str:
    rows.append([rows[0][0], "59999999", *rows[0][2:]])
    return "s59999999"


def _unnamed(rows: list[list[str]]) -> str:
    return f"s{rows.pop()[1]}"


def _given_away(rows: list[list[str]]) -> str:
    rows[0][0] = rows[-1][0]
    return f"s{rows[0][1]}"


def _shared_study(export: Path, studies: Sequence[WrittenStudy]) -> str:
    theirs = export / "files" / studies[-1].folder
    (theirs / f"{studies[0].name}.txt").write_text(f"FINDINGS: {SECRET}.")
    return studies[0].name


def _leaving(export: Path, studies: Sequence[WrittenStudy]) -> str:
    outside = export.parent / "outside.jpg"
    inside = export / "files" / studies[0].folder / studies[0].name / "outside.jpg"
    shutil.copy(studies[-1].images[0].path, outside)
    inside.symlink_to(outside)
    return str(inside.relative_to(export))


BAD = {
    "no sections": (kinds.NO_SECTIONS, _report(f"AP chest. {SECRET}.")),
    "two findings": (kinds.REPEATED_SECTION, _report(f"FINDINGS: {SECRET}.\n\nFINDINGS: clear.\n\nIMPRESSION: none.")),
    "encoding": (kinds.OTHER_ENCODING, _report(f"FINDINGS: {SECRET} of 3 cm², naïve.".encode("latin-1"))),
    "empty": (kinds.EMPTY_REPORT, _report("\n \n")),
    "5 MB": (kinds.LONG_REPORT, _report(f"FINDINGS: {SECRET} " * 200_000)),
    "image": (kinds.UNREADABLE_IMAGE, _broken_image),
    "labels of what is absent": (kinds.STUDY_NOT_THERE, _labels(_absent)),
    "no labels": (kinds.STUDY_WITHOUT_LABELS, _labels(_unnamed)),
    "labels of another patient": (kinds.OTHER_PATIENT, _labels(_given_away)),
    "one study of two patients": (kinds.SHARED_STUDY, _shared_study),
    "a link that leaves": (kinds.OUTSIDE, _leaving),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_counted_and_named_and_under_strict_an_error(name: str, tmp_path: Path) -> None:
    kind, damage = BAD[name]
    export = tmp_path / "export"
    told = damage(export, write_mimic(export, patients=3, studies=2, dicom=0, shape="usual"))
    said = done(build(export, tmp_path / "built", "--min-studies", 1))
    found = manifest(tmp_path / "built")["problems"]
    assert found[kind]["count"] == 1
    assert told in found[kind]["examples"][0]
    assert f"1 {kind}: {found[kind]['examples'][0]}" in said
    assert not [word for word in SECRET.split() if word in said + json.dumps(found)]
    before = sorted(tmp_path.iterdir())
    strict = build(export, tmp_path / "strict", "--strict")
    assert isinstance(strict.exception, ChipError)
    assert not isinstance(strict.exception, UsageError)
    assert str(strict.exception).startswith(f"{kind}: {found[kind]['examples'][0]}; ")
    assert SECRET not in str(strict.exception) + strict.output
    assert sorted(tmp_path.iterdir()) == before


def test_a_row_that_leaves_a_plain_export_is_named_by_its_line(tmp_path: Path) -> None:
    table = write_plain(tmp_path / "export" / "export.csv")
    header, first, *rows = csv.reader(table.read_text().splitlines(keepends=True))
    Image.new("L", (8, 8)).save(tmp_path / "outside.png")
    first[header.index("image")] = "../outside.png"
    write_table(table, header, [first, *rows])
    said = done(build(table, tmp_path / "built"))
    assert f"1 {kinds.OUTSIDE}: export.csv, line " in said
    strict = chip("medforget", "build", table, "--out", tmp_path / "strict", "--strict")
    assert strict.returncode == 1
    assert strict.stderr.startswith(f"chip: {kinds.OUTSIDE}: export.csv, line ")
    assert strict.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "export", "outside.png"]


class TestTheOutput:
    def test_files_that_chip_did_not_build_are_never_replaced(self, mimic: Path, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        for out, why in ((tmp_path, "did not build"), (tmp_path / "thesis.txt", "is a file")):
            for force in ((), ("--force",)):
                refused = build(mimic, out, *force)
                assert isinstance(refused.exception, ChipError)
                assert why in str(refused.exception)
        assert content(tmp_path) == {"thesis.txt": b"years of work"}

    def test_a_benchmark_is_replaced_with_force_alone(self, mimic: Path, tmp_path: Path) -> None:
        out = tmp_path / "data"
        done(build(mimic, out, "--patients", 3))
        before = content(out)
        refused = build(mimic, out, "--patients", 4)
        assert "replace it with --force" in str(refused.exception)
        assert content(out) == before
        done(build(mimic, out, "--patients", 4, "--force"))
        assert manifest(out)["patients"]["chosen"] == 4
        assert not set(before) - set(content(out)) - {name for name in before if name.startswith("images/")}
        assert [path.name for path in tmp_path.iterdir()] == ["data"]

    def test_an_export_inside_what_would_be_replaced_is_safe(self, mimic: Path, tmp_path: Path) -> None:
        out = tmp_path / "data"
        done(build(mimic, out, "--patients", 3))
        shutil.copytree(mimic, out / "export")
        refused = build(out / "export", out, "--force")
        assert "holds the export" in str(refused.exception)
        assert (out / "export" / "files").is_dir()

    def test_a_build_that_is_interrupted_says_so_and_leaves_nothing(self, mimic: Path, tmp_path: Path) -> None:
        out, said = tmp_path / "data", tmp_path / "said"
        with said.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "chip", "medforget", "build", str(mimic), "--out", str(out)],
                stdout=output,
                stderr=output,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        while not any(hidden(out, "partial").glob("images/*")):
            assert process.poll() is None, said.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        last = said.read_text().splitlines()[-1]
        assert last == "chip: interrupted; nothing half-written is left, long work goes on if run again"
        assert [path.name for path in tmp_path.iterdir()] == ["said"]

    def test_a_build_that_was_killed_leaves_nothing_and_the_next_one_ends_alike(
        self, mimic: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "data"
        done(build(mimic, tmp_path / "whole"))
        running = start(tmp_path / "said", "medforget", "build", mimic, "--out", out)
        until(lambda: any(hidden(out, "partial").glob("images/*")), running)
        running.kill()
        assert running.wait()[0] == -signal.SIGKILL
        assert not os.path.lexists(out)
        done(build(mimic, out))
        assert content(out) == content(tmp_path / "whole")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "said", "whole"]
