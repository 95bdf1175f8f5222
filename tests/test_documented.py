"""The README, the tutorial and the how-to pages, run to the letter on an example hospital that is trained once."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import chip
from documented import EXCEPTIONS, ROOT, blocks, run_page
from safetensors.numpy import load_file, save_file

from chip.records import read_records
from chip.records.parquet import ONLY, ForgetSet, write_parquet

HOW_TO = [str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs/how-to").glob("*.md"))]
PAGES = ["README.md", "docs/index.md", "docs/tutorial.md", "docs/python.md", *HOW_TO]
_PROGRAMS = re.compile(r"^ {4,}(chip|pip|python|make|torchrun|accelerate|openssl|cd) ", re.MULTILINE)


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `chip demo` leaves; not to be written to."""
    directory = tmp_path_factory.mktemp("demo") / "hospital"
    assert chip("demo", directory).returncode == 0
    return directory


def with_the_demo(name: str) -> Callable[[Path, Path], None]:
    """What `chip demo NAME` would leave, which the same command then takes for its own and keeps."""

    def bring(hospital: Path, here: Path) -> None:
        shutil.copytree(hospital, here / name)

    return bring


def with_a_model(hospital: Path, here: Path) -> None:
    """A model and its records."""
    shutil.copytree(hospital / "model", here / "model")
    shutil.copytree(hospital / "records", here / "records")


def with_a_table(hospital: Path, here: Path) -> None:
    """A model, pictures, and a table of what it was taught about them."""
    shutil.copytree(hospital / "model", here / "model")
    shutil.copytree(hospital / "records" / "images", here / "pictures")
    with (here / "visits.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["hospital", "patient", "visit", "picture", "question", "answer"])
        for record in read_records(hospital / "records").records:
            names = (*record.path, "", "")[:3]
            if len(record.path) <= len(names):
                picture = record.images[0].name if record.images else ""
                table.writerow([*names, picture, record.question, record.answer])


def with_parquet(hospital: Path, here: Path) -> None:
    """A model, and its records in the published layout."""
    shutil.copytree(hospital / "model", here / "model")
    records = read_records(hospital / "records")
    patients = (records.resolve("patient_123"), records.resolve("patient_516"))
    write_parquet(here / "MedForget", records, [ForgetSet("patient", ONLY, patients)])


def with_two_epochs(hospital: Path, here: Path) -> None:
    """A model, its records, and the weights of a later epoch: moved by a thousandth of their size."""
    with_a_model(hospital, here)
    later = shutil.copytree(hospital / "model", here / "epoch-2")
    draw = np.random.default_rng(0)
    weights = load_file(later / "model.safetensors")
    moved = {
        name: (one + 1e-3 * one.std() * draw.standard_normal(one.shape)).astype(one.dtype)
        for name, one in weights.items()
    }
    save_file(moved, later / "model.safetensors", {"format": "pt"})


# By page, what a reader brings along.
BROUGHT: dict[str, Callable[[Path, Path], None]] = {
    "README.md": with_the_demo("DIR"),
    "docs/index.md": with_the_demo("hospital"),
    "docs/tutorial.md": with_the_demo("hospital"),
    "docs/python.md": with_a_model,
    "docs/how-to/own-data.md": with_a_table,
    "docs/how-to/medforget-parquet.md": with_parquet,
    "docs/how-to/batch.md": with_a_model,
    "docs/how-to/another-epoch.md": with_two_epochs,
    "docs/how-to/many-gpus.md": with_a_model,
    "docs/how-to/adapters.md": with_a_model,
    "docs/how-to/auditing.md": with_the_demo("hospital"),
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_does_what_it_says_to_the_letter(page: str, hospital: Path, tmp_path: Path) -> None:
    BROUGHT[page](hospital, tmp_path)
    run_page(ROOT / page, tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_no_command_of_a_page_stands_outside_of_a_block_that_is_run(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not _PROGRAMS.findall(text)
    assert {block.language for block in blocks(ROOT / page)} <= {"sh", "python", "text", "json", "toml"}


@pytest.mark.parametrize("page", EXCEPTIONS)
def test_every_exception_is_still_a_command_of_its_page(page: str) -> None:
    shown = {command for block in blocks(ROOT / page) if block.language == "sh" for command in block.commands()}
    assert set(EXCEPTIONS[page]) <= shown


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_json_can_be_read(page: str) -> None:
    for block in blocks(ROOT / page):
        if block.language == "json":
            for line in block.text.splitlines():
                json.loads(line)
