"""Real records: public data sets are read and collected whole, and a slice of real radiographs is edited end to end."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
from checkpoint_files import digests
from collecting import calls
from edits import request, run_edit

from chip.records import read_records
from chip.records.digests import image_digest
from chip.settings import CollectSettings
from chip.workflow import CollectRequest, carry_out, carry_out_collection, prepare_collection, prepare_edit

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {"hannover": "patient", "vqa_rad": "", "medmcqa": "", "tofu": ""}


def real(name: str) -> Path:
    """A real data directory; the test is skipped where it is not."""
    directory = DATA / name
    if not (directory / "records.jsonl").is_file():
        pytest.skip(f"{directory} is not there")
    return directory


@pytest.mark.parametrize("name", SETS)
def test_every_record_is_read(name: str) -> None:
    directory = real(name)
    hierarchy = read_records(directory)
    lines = (directory / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(hierarchy.records) == len(lines)
    for record, line in zip(hierarchy.records, lines, strict=True):
        source = json.loads(line)
        assert (list(record.path), record.question, record.answer) == (
            source["path"],
            source["question"],
            source["answer"],
        )
        assert len(record.images) == bool(source.get("image"))


@pytest.mark.parametrize("name", SETS)
def test_every_node_can_be_named_and_forgotten(name: str) -> None:
    hierarchy = read_records(real(name))
    first_of_level = {len(node): node for node in sorted(hierarchy.nodes, reverse=True)}
    for node in first_of_level.values():
        assert hierarchy.resolve("/".join(node)) == node
        split = hierarchy.split([node])
        assert len(split.target) + len(split.retain) == len(hierarchy.records)


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of a few real patients, with their images."""
    source, data = real("hannover"), tmp_path_factory.mktemp("radiographs")
    lines = (source / "records.jsonl").read_text(encoding="utf-8").splitlines()
    patients = sorted({json.loads(line)["path"][0] for line in lines})[:6]
    kept = [line for line in lines if json.loads(line)["path"][0] in patients]
    (data / "records.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    (data / "dataset.json").write_bytes((source / "dataset.json").read_bytes())
    for image in {record["image"] for record in map(json.loads, kept) if record.get("image")}:
        (data / image).parent.mkdir(exist_ok=True)
        (data / image).write_bytes((source / image).read_bytes())
    return data


@pytest.mark.parametrize(
    "values",
    [{}, {"method": "chip"}, {"unknown_images": 2}, {"keys": "image"}, {"keys": "answer", "toward": "mean"}],
    ids=str,
)
def test_a_real_patient_is_taken_out_of_a_random_model(
    tmp_path: Path, radiographs: Path, llava_directory: Path, values: dict[str, object]
) -> None:
    patient = read_records(radiographs).paths[0][0]
    before = digests(radiographs)
    asked = request(llava_directory, radiographs, tmp_path / "dry", patient, dry_run=True, **values)
    solved = carry_out(prepare_edit(asked))
    assert any(site.rank for site in solved.sites)
    assert not list(tmp_path.iterdir())
    done = run_edit(llava_directory, radiographs, tmp_path / "out", patient, **values)
    assert done.changed == done.planned
    assert [site.rank for site in done.result.sites] == [site.rank for site in solved.sites]
    assert digests(radiographs) == before


@pytest.mark.parametrize("name", ["hannover", "vqa_rad"])
def test_all_of_it_is_collected(tmp_path: Path, llava_directory: Path, name: str) -> None:
    """Every record at its node, every answer token, and every picture once, however many questions it is asked."""
    data = real(name)
    settings = CollectSettings(workers=0)
    prepared = prepare_collection(CollectRequest(str(llava_directory), data, tmp_path / "kept", settings, device="cpu"))
    with calls(prepared.loaded.model.get_submodule("model.vision_tower")) as given:
        found = carry_out_collection(prepared)
    records = prepared.hierarchy.records
    nodes = Counter(record.path for record in records)
    for site, sums in found.pooled.items():
        reached = nodes if "language" in site else Counter(record.path for record in records if record.images)
        assert dict(zip(found.nodes, sums.count.tolist(), strict=True)) == {node: reached[node] for node in nodes}
        assert bool(sums.total.isfinite().all())
    pictures = {image_digest(path) for record in records for path in record.images}
    assert {moments.count for moments in found.image.values()} == {len(pictures) * tiny_models.IMAGE_TOKENS}
    assert sum(map(len, given)) == len(pictures)
    tokens = sum(len(prepared.loaded.prompts.encode(replace(record, images=())).answer_ids) for record in records)
    assert {moments.count for moments in found.answer.values()} == {tokens}
