"""Collecting: the sums are those of a plain loop over records, whatever the batches, and a file keeps them whole."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from checkpoint_files import mode
from edits import request
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference, Trace, second_moment
from tiny_records import split_of, write_hospital, write_image, write_lines
from torch import Tensor

from chip.collect import Collector, Statistics, Wanted, collect, encode_all, image_inputs
from chip.collect.file import Provenance, load_statistics, save_statistics
from chip.collect.passes import run_chunk
from chip.errors import ChipError
from chip.hierarchy import NodePath, is_under
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.records import read_records
from chip.records.digests import image_digest, record_digest
from chip.workflow import CollectRequest, carry_out, carry_out_collection, prepare_collection, prepare_edit

ALPHA = 0.3
# A float32 forward pass carries 24 bits, and its reductions over at most 64 inputs in three layers are summed in
# another order when the batch changes: 2⁻²⁴ · √(64 · 3) ≈ 8e-7. The sums themselves are kept in 64 bits.
ROUNDING = 1e-6


def assert_same(found: Tensor, expected: Tensor, tolerance: float = ROUNDING) -> None:
    """Equal relative to the expected tensor's norm."""
    assert found.shape == expected.shape
    difference = float((found.double() - expected.double()).norm())
    assert difference <= tolerance * max(float(expected.double().norm()), 1e-30)


def everything(loaded: LoadedModel) -> Wanted:
    names = [site.name for site in loaded.sites if site.role != "vision"]
    projector = tuple(site.name for site in loaded.sites if site.role == "projector")
    return Wanted(tuple(names), tuple(name for name in names if name not in projector), projector)


def assert_same_statistics(found: Statistics, expected: Statistics, tolerance: float = ROUNDING) -> None:
    assert found.nodes == expected.nodes
    for name, sums in expected.pooled.items():
        assert_same(found.pooled[name].total, sums.total, tolerance)
        assert_same(found.pooled[name].absolute, sums.absolute, tolerance)
        assert torch.equal(found.pooled[name].count, sums.count)
    for mine, theirs in ((found.answer, expected.answer), (found.image, expected.image)):
        assert mine.keys() == theirs.keys()
        for name, moments in theirs.items():
            assert_same(mine[name].outer, moments.outer, tolerance)
            assert_same(mine[name].total, moments.total, tolerance)
            assert mine[name].count == moments.count


@pytest.fixture(scope="module")
def collected(llava: LoadedModel, hospital_data: Path) -> Statistics:
    return collect(llava, read_records(hospital_data).records, everything(llava), alpha=ALPHA)


@pytest.fixture(scope="module")
def traces(llava: LoadedModel, llava_directory: Path, hospital_data: Path) -> list[dict[str, Trace]]:
    reference = Reference(llava_directory)
    sites = everything(llava).pooled
    return [reference.trace(record, sites) for record in read_records(hospital_data).records]


class TestSums:
    def test_pooled_sums_equal_a_loop_over_records(
        self, llava: LoadedModel, hospital_data: Path, collected: Statistics, traces: list[dict[str, Trace]]
    ) -> None:
        records = read_records(hospital_data).records
        for site in (site for site in llava.sites if site.role != "vision"):
            sums = collected.pooled[site.name]
            for number, node in enumerate(collected.nodes):
                pooled = [
                    one[site.name].pooled(ALPHA)
                    for one, record in zip(traces, records, strict=True)
                    if record.path == node and (site.role != "projector" or record.images)
                ]
                assert int(sums.count[number]) == len(pooled)
                total = torch.stack(pooled) if pooled else torch.zeros(1, sums.total.shape[1], dtype=torch.float64)
                assert_same(sums.total[number], total.sum(0))
                assert_same(sums.absolute[number], total.abs().sum(0))

    def test_answer_moments_equal_a_loop_over_records(
        self, collected: Statistics, traces: list[dict[str, Trace]]
    ) -> None:
        for name, moments in collected.answer.items():
            keys = torch.cat([one[name].keys for one in traces])
            assert moments.count == len(keys)
            assert_same(moments.outer, keys.T @ keys)
            assert_same(moments.total, keys.sum(0))
            assert_same(moments.second_moment, second_moment(keys))
            assert_same(moments.mean, keys.mean(0))

    def test_every_distinct_image_is_counted_once(
        self, llava: LoadedModel, hospital_data: Path, collected: Statistics, traces: list[dict[str, Trace]]
    ) -> None:
        records = read_records(hospital_data).records
        first = {r.images[0]: n for n, r in reversed(list(enumerate(records))) if r.images}
        assert len(first) < sum(bool(record.images) for record in records)
        for name, moments in collected.image.items():
            rows = torch.cat([traces[number][name].given for number in first.values()])
            assert moments.count == len(rows) == len(first) * tiny_models.IMAGE_TOKENS
            assert_same(moments.outer, rows.T @ rows)
            assert_same(moments.total, rows.sum(0))

    def test_the_same_picture_under_two_names_is_one_image(self, llava: LoadedModel, tmp_path: Path) -> None:
        write_image(tmp_path / "a.png", 1)
        write_image(tmp_path / "b.png", 1)
        record = {"path": ["x"], "question": "who ?", "answer": "mild edema"}
        write_lines(tmp_path, {**record, "image": "a.png"}, {**record, "images": ["b.png", "a.png"]})
        found = collect(llava, read_records(tmp_path).records, everything(llava), batch_tokens=1)
        assert {one.count for one in found.image.values()} == {tiny_models.IMAGE_TOKENS}

    def test_image_inputs_are_those_of_each_image(
        self, llava: LoadedModel, llava_directory: Path, hospital_data: Path
    ) -> None:
        records = read_records(hospital_data).records
        site = [site for site in llava.sites if site.role == "projector"][-1]
        found = image_inputs(llava, records, site, 5)
        reference = Reference(llava_directory)
        assert set(found) == {image_digest(path) for record in records for path in record.images}
        for record in records:
            if record.images:
                expected = reference.trace(record, [site.name])[site.name].given
                assert_same(found[image_digest(record.images[0])], expected)

    def test_the_pass_ends_at_the_last_watched_site(self, llava: LoadedModel, hospital_data: Path) -> None:
        reached: list[str] = []
        after = {"lm_head", "model.language_model.layers.1"}
        hooks = [
            llava.model.get_submodule(name).register_forward_hook(lambda *_: reached.append("beyond")) for name in after
        ]
        first = next(site for site in llava.sites if site.role == "language")
        record = read_records(hospital_data).records[2]
        run_chunk(llava, encode_all(llava, [record]), 4096, [first], lambda *_: lambda *_: reached.append("site"))
        for hook in hooks:
            hook.remove()
        assert reached == ["site"]

    def test_watching_leaves_no_hook_behind(self, llava: LoadedModel, hospital_data: Path) -> None:
        def hooks() -> int:
            return sum(len(module._forward_hooks) for module in llava.model.modules())

        records = read_records(hospital_data).records[:3]
        collect(llava, records, everything(llava))
        before = hooks()
        collect(llava, records, everything(llava))
        assert hooks() == before


class TestInvariance:
    @pytest.mark.parametrize("batch_tokens", [1, 50, 200, 4096])
    def test_the_size_of_passes_does_not_show(
        self, llava: LoadedModel, hospital_data: Path, collected: Statistics, batch_tokens: int
    ) -> None:
        records = read_records(hospital_data).records
        found = collect(llava, records, everything(llava), alpha=ALPHA, batch_tokens=batch_tokens)
        assert_same_statistics(found, collected)

    @settings(max_examples=8)
    @given(st.data())
    def test_any_order_split_and_grouping_leave_the_same_sums(
        self, llava: LoadedModel, hospital_data: Path, collected: Statistics, data: st.DataObject
    ) -> None:
        records = data.draw(st.permutations(read_records(hospital_data).records))
        cuts = data.draw(st.lists(st.integers(1, len(records) - 1), max_size=6, unique=True).map(sorted))
        collector = Collector(llava, collected.nodes, everything(llava), ALPHA)
        seen: set[str] = set()
        for start, stop in itertools.pairwise([0, *cuts, len(records)]):
            part = records[start:stop]
            collector.add(encode_all(llava, part, seen), part, 4096)
            seen |= {image_digest(path) for record in part for path in record.images}
        assert_same_statistics(collector.statistics(), collected)

    def test_a_long_neighbour_and_its_padding_do_not_show(self, llava: LoadedModel, hospital_data: Path) -> None:
        records = list(read_records(hospital_data).records[:4])
        long = replace(records[0], path=("other",), question="when was this study performed ? " * 8)
        alone = collect(llava, records, everything(llava), alpha=ALPHA)
        collector = Collector(llava, sorted({*alone.nodes, long.path}), everything(llava), ALPHA)
        collector.add(encode_all(llava, [long, *records]), [long, *records], 4096)
        together = collector.statistics()
        kept = [number for number, node in enumerate(together.nodes) if node != long.path]
        for name, sums in alone.pooled.items():
            assert_same(together.pooled[name].total[kept], sums.total)

    def test_alpha_weighs_image_against_text(
        self, llava: LoadedModel, hospital_data: Path, traces: list[dict[str, Trace]]
    ) -> None:
        record = next(r for r in read_records(hospital_data).records if r.images)
        name = llava.sites[-1].name
        one = traces[record.line - 1][name]
        for alpha, expected in ((0.0, one.output[~one.image].mean(0)), (1.0, one.output[one.image].mean(0))):
            found = collect(llava, [record], Wanted(pooled=(name,)), alpha=alpha)
            assert_same(found.pooled[name].total[0], expected)


class TestAdditivity:
    @pytest.mark.parametrize("target", ["inst_0", "patient_1", "study_2_1", "study_2_1/FINDINGS"])
    def test_retained_and_target_make_the_total(
        self, llava: LoadedModel, hospital_data: Path, collected: Statistics, target: str
    ) -> None:
        hierarchy, split = split_of(hospital_data, target)
        wanted = Wanted(collected.wanted.pooled, collected.wanted.answer)
        parts = [
            collect(llava, [hierarchy.records[i] for i in positions], wanted, alpha=ALPHA)
            for positions in (split.target, split.retain)
        ]
        for name, moments in collected.answer.items():
            both = parts[0].answer[name] + parts[1].answer[name]
            assert_same(both.outer, moments.outer)
            assert_same((moments - parts[0].answer[name]).outer, parts[1].answer[name].outer, 1e-5)
            assert both.count == moments.count
        for name, sums in collected.pooled.items():
            assert_same(sum(part.pooled[name].total.sum(0) for part in parts), sums.total.sum(0))
            assert sum(int(part.pooled[name].count.sum()) for part in parts) == int(sums.count.sum())

    def test_a_parents_sum_is_the_sum_of_its_children_and_its_own(
        self, llava: LoadedModel, hospital_data: Path, collected: Statistics, traces: list[dict[str, Trace]]
    ) -> None:
        hierarchy = read_records(hospital_data)

        def below(node: NodePath, name: str) -> Tensor:
            rows = [number for number, path in enumerate(collected.nodes) if is_under(path, node)]
            return collected.pooled[name].total[rows].sum(0)

        for node in hierarchy.nodes:
            for site in (s.name for s in llava.sites if s.role == "language"):
                inside = [t[site] for t, p in zip(traces, hierarchy.paths, strict=True) if is_under(p, node)]
                assert_same(below(node, site), sum(one.pooled(ALPHA) for one in inside))

    def test_records_without_images_do_not_reach_the_projector(self, llava: LoadedModel, text_data: Path) -> None:
        found = collect(llava, read_records(text_data).records, everything(llava))
        for name in found.wanted.image:
            assert int(found.pooled[name].count.sum()) == 0
            assert found.image[name].count == 0
            assert not found.pooled[name].total.any()


class TestNotFinite:
    @pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    @pytest.mark.parametrize("kind", ["pooled", "answer"])
    def test_the_record_is_named_by_its_line(
        self, tmp_path: Path, text_data: Path, batch_tokens: int, value: float, kind: str
    ) -> None:
        records = list(read_records(text_data).records)
        records[9] = replace(records[9], question="what is Z ?")
        loaded = load_model(Checkpoint(tiny_models.text_model(tmp_path / "model", "llama")), "cpu")
        token = loaded.prompts.tokenizer.encode("Z")[0]
        with torch.no_grad():
            loaded.model.get_input_embeddings().weight[token] = value
        names = tuple(site.name for site in loaded.sites if site.linear == "down_proj")
        with pytest.raises(ChipError, match="record on line 10: its activations are not finite"):
            collect(loaded, records, Wanted(**{kind: names}), batch_tokens=batch_tokens)

    def test_a_single_token_of_an_image_is_enough(self, llava: LoadedModel, hospital_data: Path) -> None:
        """The first of an image's tokens is not finite, and those after it are."""
        records = read_records(hospital_data).records
        site = next(site for site in llava.sites if site.linear == "linear_2")

        def spoilt(_: torch.nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            rows = given[0].clone()
            rows[0, 0] = float("nan")
            return (rows,)

        hook = llava.model.get_submodule(site.name).register_forward_pre_hook(spoilt)
        try:
            with pytest.raises(ChipError, match="not finite"):
                collect(llava, [r for r in records if r.images], Wanted(image=(site.name,)), batch_tokens=64)
        finally:
            hook.remove()


class TestFile:
    @pytest.fixture
    def saved(self, tmp_path: Path, hospital_data: Path, collected: Statistics) -> tuple[Path, Provenance]:
        hierarchy = read_records(hospital_data)
        records = tuple(map(record_digest, hierarchy.records))
        provenance = Provenance("model", "torch.float32", "prompts", hierarchy.levels, records)
        save_statistics(collected, provenance, tmp_path / "statistics.safetensors")
        return tmp_path / "statistics.safetensors", provenance

    def test_round_trip_bit_by_bit_for_its_owner_only(
        self, saved: tuple[Path, Provenance], collected: Statistics
    ) -> None:
        path, provenance = saved
        assert mode(path) == 0o600
        found, theirs = load_statistics(path)
        assert theirs == provenance
        assert (found.nodes, found.alpha) == (collected.nodes, collected.alpha)
        assert {*found.wanted.pooled} == {*collected.wanted.pooled}
        assert_same_statistics(found, collected, tolerance=0.0)

    def test_the_same_statistics_are_the_same_bytes(
        self, saved: tuple[Path, Provenance], collected: Statistics, tmp_path: Path
    ) -> None:
        save_statistics(collected, saved[1], tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == saved[0].read_bytes()

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
    def test_a_truncated_file_is_one_sentence(self, saved: tuple[Path, Provenance], share: float) -> None:
        path, _ = saved
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ChipError, match="is no statistics file that chip wrote, or it is damaged"):
            load_statistics(path)

    def test_a_checkpoint_is_no_statistics_file(self, llama_directory: Path) -> None:
        with pytest.raises(ChipError, match="is no statistics file that chip wrote"):
            load_statistics(llama_directory / "model.safetensors")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model": "x"}, "another model"),
            ({"dtype": "torch.bfloat16"}, "collected in torch.bfloat16, not in torch.float32"),
            ({"prompts": "x"}, "another tokenizer, processor or chat template"),
            ({"levels": ("a", "b")}, "levels are a, b"),
            (
                {"records": ("x",)},
                "1 records in them are not in the data, or not as they were, "
                "and 30 records of the data are not in them",
            ),
        ],
    )
    def test_what_differs_is_said(
        self, saved: tuple[Path, Provenance], change: dict[str, object], message: str
    ) -> None:
        _, provenance = saved
        expected = message.replace("30", str(len(provenance.records)))
        assert expected in str(replace(provenance, **change).difference(provenance))

    def test_order_alone_is_no_difference(self, saved: tuple[Path, Provenance]) -> None:
        _, provenance = saved
        turned = replace(provenance, records=provenance.records[::-1])
        assert provenance.difference(provenance) is None
        assert turned.difference(provenance) is None

    def test_a_record_that_stands_there_twice_counts_twice(self, saved: tuple[Path, Provenance]) -> None:
        _, provenance = saved
        doubled = replace(provenance, records=(*provenance.records, provenance.records[0]))
        assert "1 records in them are not in the data, or not as they were, and 0 records" in str(
            doubled.difference(provenance)
        )


class TestReuse:
    @pytest.fixture
    def workplace(self, tmp_path: Path) -> tuple[Path, Path, Path]:
        """A model, a data directory of its own, and statistics of both."""
        model = tiny_models.llava(tmp_path / "model")
        data = write_hospital(tmp_path / "data")
        path = tmp_path / "kept.safetensors"
        carry_out_collection(prepare_collection(CollectRequest(str(model), data, path, device="cpu")))
        return model, data, path

    def test_statistics_that_fit_serve_every_request(self, workplace: tuple[Path, Path, Path], tmp_path: Path) -> None:
        model, data, path = workplace
        for number, values in enumerate(({}, {"method": "chip"}, {"keys": "both"}, {"keys": "image"})):
            asked = request(model, data, tmp_path / f"{number}", "patient_0", statistics=path, **values)
            prepared = prepare_edit(asked)
            assert prepared.supply.source.found is not None
            assert prepared.plan.statistics.endswith("(found)")

    def test_reused_statistics_give_the_same_edit(self, workplace: tuple[Path, Path, Path], tmp_path: Path) -> None:
        model, data, path = workplace
        for out, kept in ((tmp_path / "reused", path), (tmp_path / "fresh", tmp_path / "new.safetensors")):
            carry_out(prepare_edit(request(model, data, out, "patient_0", statistics=kept)))
        one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("reused", "fresh"))
        assert one == other
        assert mode(tmp_path / "new.safetensors") == 0o600

    @pytest.mark.parametrize(
        ("what", "message"),
        [
            ("model", "another model"),
            ("records", "1 records in them are not in the data, or not as they were, and 1 records of the data"),
            ("image", "records in them are not in the data, or not as they were"),
            ("tokenizer", "another tokenizer, processor or chat template"),
            ("truncated", "damaged"),
        ],
    )
    def test_what_does_not_fit_is_refused_where_it_was_named(
        self, workplace: tuple[Path, Path, Path], tmp_path: Path, what: str, message: str
    ) -> None:
        model, data, path = workplace
        if what == "model":
            tiny_models.llava(model, seed=1)
        elif what == "records":
            lines = (data / "records.jsonl").read_text()
            (data / "records.jsonl").write_text(lines.replace("director 0", "director 7"))
        elif what == "image":
            write_image(data / "images/study_0_0.png", 99, side=30)
        elif what == "tokenizer":
            template = model / "chat_template.jinja"
            template.write_text(template.read_text().replace("assistant", "answerer"))
        else:
            path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(ChipError, match=message):
            prepare_edit(request(model, data, tmp_path / "out", "patient_0", statistics=path))
        default = tmp_path / "model.statistics.safetensors"
        path.rename(default)
        prepared = prepare_edit(request(model, data, tmp_path / "out", "patient_0"))
        assert prepared.supply.source.found is None
        assert any("collected afresh" in notice for notice in prepared.plan.notices)

    def test_another_alpha_matters_to_pooled_sums_only(
        self, workplace: tuple[Path, Path, Path], tmp_path: Path
    ) -> None:
        model, data, path = workplace
        asked = {"statistics": path, "alpha": 0.9}
        oblique = prepare_edit(request(model, data, tmp_path / "a", "patient_0", **asked))
        assert oblique.supply.source.found is not None
        chip = prepare_edit(request(model, data, tmp_path / "b", "patient_0", method="chip", **asked))
        assert chip.supply.source.found is None
        assert any("alpha" in notice for notice in chip.plan.notices)
