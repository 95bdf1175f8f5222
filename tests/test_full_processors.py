"""Families whose processors need torchvision, through those processors; skipped where torchvision is not installed."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torchvision")

import tiny_families
import torch
from edits import run_edit
from full_processors import FULL

from chip.collect import Wanted, collect
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model
from chip.models.prompts import Prompts
from chip.records import read_records

FAMILIES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "smolvlm" and importlib.util.find_spec("num2words") is None, reason="num2words is not installed"
        ),
    )
    for name in FULL
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_families.write_records(tmp_path_factory.mktemp("families-data"))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_full_processor_makes_what_stands_in_for_it(tmp_path: Path, data: Path, name: str) -> None:
    model = tiny_families.build(name, tmp_path / "model")
    FULL[name]().save_pretrained(model)
    loaded = load_model(Checkpoint(model), "cpu")
    spelled = Prompts(tiny_families.FAMILIES[name].stands_in(), loaded.prompts.image_token_id, loaded.family.inputs)
    for record in read_records(data).records:
        full, other = loaded.prompts.encode(record), spelled.encode(record)
        assert (full.image_lengths, full.image_rows) == (other.image_lengths, other.image_rows)
        assert full.sequence.keys() == other.sequence.keys()
        assert {key: value.shape for key, value in full.pixels.items()} == {
            key: value.shape for key, value in other.pixels.items()
        }
        assert torch.equal(full.answer_ids, other.answer_ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_records_are_counted_and_edited(tmp_path: Path, data: Path, name: str) -> None:
    model = tiny_families.build(name, tmp_path / "model")
    FULL[name]().save_pretrained(model)
    loaded = load_model(Checkpoint(model), "cpu")
    records, wanted = read_records(data).records, Wanted(tuple(site.name for site in loaded.sites))
    alone, together = (collect(loaded, records, wanted, batch_tokens=size) for size in (1, 4096))
    for site, sums in alone.pooled.items():
        torch.testing.assert_close(together.pooled[site].total, sums.total, rtol=1e-4, atol=1e-4)
    done = run_edit(model, data, tmp_path / "out", "patient_1")
    assert done.changed == done.planned
