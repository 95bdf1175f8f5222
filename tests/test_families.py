"""Families: every one in the table is edited end to end, and what flows through its sites is counted rightly."""

from pathlib import Path

import pytest
import tiny_families
import torch
from checkpoint_files import digests, stored_tensors
from edits import run_edit
from tiny_families import FAMILIES, TEXT_FAMILIES
from torch import Tensor

from chip.collect import Wanted, collect
from chip.models import loading
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.models.sites import ROLES, Site, stored_sites
from chip.records import read_records

EVERY = (*FAMILIES, *TEXT_FAMILIES)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_families.write_records(tmp_path_factory.mktemp("families-data"))


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the family's processor without torchvision, where it would need that."""
    family = FAMILIES.get(name)
    if family is not None and family.stands_in is not None:
        made = family.stands_in()
        monkeypatch.setattr(loading, "_load_processor", lambda *_: made)


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = tiny_families.build(request.param, tmp_path_factory.mktemp("family") / "model")
    with pytest.MonkeyPatch.context() as monkeypatch:
        stand_in(request.param, monkeypatch)
        return load_model(Checkpoint(directory), "cpu")


class TestSites:
    def test_every_role_is_there(self, loaded: LoadedModel) -> None:
        assert {site.role for site in loaded.sites} == set(ROLES)
        assert loaded.family.known
        assert sum(site.role == "projector" and site.last for site in loaded.sites) == 1
        layers = {site.layer for site in loaded.sites if site.role == "language"}
        assert {site.layer for site in loaded.sites if site.role == "attention"} == layers
        assert {site.layer for site in loaded.sites if site.role == "language" and site.last} == layers

    def test_they_are_linear_and_stand_in_forward_order(self, loaded: LoadedModel, data: Path) -> None:
        """At every site what leaves is W times what enters, and bias; and sites are passed in their order."""
        passed: list[str] = []

        def watcher(site: Site):
            def check(given: Tensor, output: Tensor) -> None:
                passed.append(site.name)
                bias = site.bias(loaded.model)
                expected = given @ site.weight(loaded.model).T + (0 if bias is None else bias)
                torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
                assert (given.shape[-1], output.shape[-1]) == site.widths(loaded.model)

            return check

        watches = [site.watch(loaded.model, watcher(site)) for site in loaded.sites]
        records = [record for record in read_records(data).records if record.images]
        batch = loaded.prompts.collate([loaded.prompts.encode(record) for record in records], loaded.device)
        with torch.no_grad():
            loaded.model(**batch.inputs, use_cache=False)
            for watch in watches:
                watch.remove()
            loaded.model(**batch.inputs, use_cache=False)
        assert passed == [site.name for site in loaded.sites]


class TestBatches:
    @pytest.mark.parametrize("order", ["as written", "text last", "reversed"])
    def test_mixed_records_are_counted_as_one_by_one(self, loaded: LoadedModel, data: Path, order: str) -> None:
        records = list(read_records(data).records)
        if order == "text last":
            records.sort(key=lambda record: not record.images)
        if order == "reversed":
            records.reverse()
        every = tuple(site.name for site in loaded.sites)
        answer = tuple(site.name for site in loaded.sites if site.role in ("language", "attention"))
        image = tuple(site.name for site in loaded.sites if site.role == "projector" and site.last)
        wanted = Wanted(every, answer, image)
        alone = collect(loaded, records, wanted, batch_size=1)
        together = collect(loaded, records, wanted, batch_size=len(records))
        for name in every:
            assert torch.equal(alone.pooled[name].count, together.pooled[name].count)
            assert_near(together.pooled[name].total, alone.pooled[name].total)
            assert_near(together.pooled[name].absolute, alone.pooled[name].absolute)
        for mine, theirs in ((together.answer, alone.answer), (together.image, alone.image)):
            for name, moments in theirs.items():
                assert moments.count == mine[name].count > 0
                assert_near(mine[name].outer, moments.outer)


class TestEndToEnd:
    @pytest.mark.parametrize("method", ["oblique", "chip"])
    @pytest.mark.parametrize("name", EVERY)
    def test_an_edit_changes_the_planned_tensors_and_nothing_else(
        self, tmp_path: Path, data: Path, text_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str
    ) -> None:
        model = tiny_families.build(name, tmp_path / "model")
        stand_in(name, monkeypatch)
        records, sites = (data, ",".join(ROLES)) if name in FAMILIES else (text_data, "language,attention")
        before = digests(model)
        done = run_edit(model, records, tmp_path / "out", "patient_1", method=method, top_k=50.0, sites=sites)
        moved = [done.prepared.stored[report.site] for report in done.result.sites if report.rank]
        tensors = {one.weight.name for one in moved}
        if method == "chip":
            tensors |= {one.bias.name for one in moved if one.bias is not None}
        assert done.changed == done.planned == tensors
        roles = {one.site.role for one in moved}
        assert roles == (set(sites.split(",")) if method == "chip" else roles & {"language", "projector"})
        assert digests(model) == before
        assert all(torch.isfinite(values).all() for values in stored_tensors(done.out).values())
        reloaded = load_model(Checkpoint(done.out), "cpu")
        assert len(stored_sites(reloaded.model, Checkpoint(done.out), reloaded.sites)) == len(reloaded.sites)


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal relative to the expected tensor's norm."""
    assert float((found - expected).norm()) <= tolerance * max(float(expected.norm()), 1e-30)
