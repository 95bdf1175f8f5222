"""Families: every one in the table is edited end to end, and what flows through its sites is counted rightly."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_families
import tiny_models
import torch
from checkpoint_files import digests, stored_tensors
from edits import run_edit
from PIL import Image
from safetensors.torch import save_file
from tiny_families import FAMILIES, TEXT_FAMILIES
from torch import Tensor

from chip.collect import Wanted, collect, image_inputs
from chip.errors import ChipError
from chip.inspection import inspect_model
from chip.measure import measure_answers
from chip.models import loading
from chip.models.checkpoint import Checkpoint
from chip.models.families import find_family
from chip.models.listing import list_sites
from chip.models.loading import LoadedModel, load_model
from chip.models.sites import Site, find_sites, stored_sites
from chip.records import read_records
from chip.records.digests import divide_images
from chip.settings import ROLES, EditSettings
from chip.solve import orthogonal
from chip.solve.problem import chosen_sites

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


def test_spans_are_those_of_the_words_that_were_said(loaded: LoadedModel, data: Path) -> None:
    """Whatever a family's processor puts in the place of images."""
    for record in read_records(data).records:
        encoded = loaded.prompts.encode(record)
        ids, spans = encoded.sequence["input_ids"].tolist(), loaded.prompts.spans(record, encoded)
        for part, said in (("question", record.question), ("answer", record.answer)):
            own = [(number, span) for number, span in zip(ids, spans, strict=True) if span.part == part]
            assert loaded.prompts.tokenizer.decode([number for number, _ in own]).split() == said.split()
            for number, span in own:
                assert loaded.prompts.tokenizer.decode([number]).strip() == said[span.start : span.stop].strip()


class TestSites:
    def test_what_writes_into_the_stream_says_where_it_is_added(self, loaded: LoadedModel) -> None:
        text = loaded.model.config.get_text_config().model_type
        adds = text not in ("gemma2", "gemma3_text", "olmo2")  # of the last, nobody has looked
        for site in loaded.sites:
            assert bool(site.block) == (site.writes and adds)
            assert site.name.startswith(f"{site.block}.") or not site.block
        assert loaded.model.get_submodule(loaded.head) is loaded.model.get_output_embeddings()

    def test_every_role_is_there(self, loaded: LoadedModel) -> None:
        assert {site.role for site in loaded.sites} == set(ROLES)
        assert loaded.family.known
        assert sum(site.role == "projector" and site.last for site in loaded.sites) == 1
        layers = {site.layer for site in loaded.sites if site.role == "language"}
        assert {site.layer for site in loaded.sites if site.role == "attention"} == layers
        assert {site.layer for site in loaded.sites if site.role == "language" and site.last} == layers

    def test_headers_alone_tell_the_same(self, loaded: LoadedModel) -> None:
        """`chip inspect` builds no module tree; what it lists is what an edit finds in that."""
        opened = Checkpoint(loaded.model.name_or_path)
        listing, found = list_sites(opened), stored_sites(loaded.model, opened, loaded.sites)
        listed = {(one.role, one.layer, one.tensor.name) for one in listing.sites}
        assert listed == {(one.site.role, one.site.layer, one.weight.name) for one in found.values()}
        assert (listing.family, listing.known) == (loaded.family.name, loaded.family.known)

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
    def test_a_record_sends_its_own_patches_and_no_others(self, loaded: LoadedModel, data: Path) -> None:
        """Rows of the tower are patches of real tiles: no class token, no padding, in proportion to `image_rows`."""
        sites = [site for site in loaded.sites if site.role == "vision"]
        for record in (record for record in read_records(data).records if record.images):
            encoded = loaded.prompts.encode(record)
            pixels = encoded.pixels["pixel_values"]
            if pixels.dim() >= 5:
                tiles = pixels.reshape(-1, *pixels.shape[-3:])
                pixels = tiles[tiles.flatten(1).any(1)]
            elif "image_sizes" in encoded.pixels:
                pixels = torch.zeros(3 * int(encoded.pixels["image_sizes"].prod(-1).sum()))
            frames = 2 if "image_grid_thw" in encoded.pixels else 1
            rows: list[int] = []
            watches = [
                site.watch(loaded.model, lambda given, _, rows=rows: rows.append(given[..., 0].numel()))
                for site in sites
            ]
            with torch.no_grad():
                loaded.model(**loaded.prompts.collate([encoded], loaded.device).inputs, use_cache=False)
            for watch in watches:
                watch.remove()
            assert set(rows) == {pixels.numel() // (3 * 14 * 14 * frames)}

    def test_images_shown_together_are_those_shown_alone(self, loaded: LoadedModel, data: Path) -> None:
        records = read_records(data).records
        several = next(record for record in records if len(record.images) > 1)
        if "batch_num_images" in loaded.prompts.encode(several).pixels:
            pytest.skip("this family shows several images without the tiles that it shows of one")
        alone = [replace(several, images=(image,)) for image in several.images]
        site = next(site for site in loaded.sites if site.role == "projector" and site.last)
        apart, together = (image_inputs(loaded, shown, site, 1) for shown in (alone, [several]))
        assert apart.keys() == together.keys()
        for digest, rows in apart.items():
            assert rows.shape == together[digest].shape
            assert_near(together[digest], rows)

    @pytest.mark.parametrize("order", ["as written", "text last", "reversed"])
    def test_mixed_records_are_counted_as_one_by_one(
        self, loaded: LoadedModel, data: Path, monkeypatch: pytest.MonkeyPatch, order: str
    ) -> None:
        """Behind shared prefixes, where the family allows it, and in large batches as by themselves."""
        records = list(read_records(data).records)
        if order == "text last":
            records.sort(key=lambda record: not record.images)
        if order == "reversed":
            records.reverse()
        every = tuple(site.name for site in loaded.sites)
        answer = tuple(site.name for site in loaded.sites if site.role in ("language", "attention"))
        image = tuple(site.name for site in loaded.sites if site.role == "projector" and site.last)
        wanted = Wanted(every, answer, image)
        together = collect(loaded, records, wanted, batch_tokens=4096)
        monkeypatch.setattr(LoadedModel, "longest_sharing", 0)
        alone = collect(loaded, records, wanted, batch_tokens=1)
        for name in every:
            assert torch.equal(alone.pooled[name].count, together.pooled[name].count)
            assert_near(together.pooled[name].total, alone.pooled[name].total)
            assert_near(together.pooled[name].absolute, alone.pooled[name].absolute)
        for mine, theirs in ((together.answer, alone.answer), (together.image, alone.image)):
            for name, moments in theirs.items():
                assert moments.count == mine[name].count > 0
                assert_near(mine[name].outer, moments.outer)


class TestEndToEnd:
    @pytest.mark.parametrize("method", ["counterpart", "oblique", "chip"])
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
        expected = {"oblique": roles & {"language", "projector"}, "counterpart": {"language", "attention"}}
        assert roles == expected.get(method, set(sites.split(",")))
        assert digests(model) == before
        assert all(torch.isfinite(values).all() for values in stored_tensors(done.out).values())
        reloaded = load_model(Checkpoint(done.out), "cpu")
        assert len(stored_sites(reloaded.model, Checkpoint(done.out), reloaded.sites)) == len(reloaded.sites)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("gemma3", {"dtype": torch.bfloat16, "tied": True}),
            ("gemma3", {"dtype": torch.float16, "shard_size": "40KB"}),
            ("qwen2_5_vl", {"dtype": torch.bfloat16, "tied": True, "shard_size": "40KB"}),
            ("qwen3_vl", {"dtype": torch.float16, "shard_size": "40KB"}),
            ("llava_next", {"dtype": torch.bfloat16, "shard_size": "40KB"}),
            ("mllama", {"dtype": torch.bfloat16, "shard_size": "40KB"}),
            ("mistral3", {"dtype": torch.float16, "tied": True}),
            ("paligemma", {"dtype": torch.bfloat16, "shard_size": "40KB"}),
            ("gemma2", {"dtype": torch.float16, "tied": True, "shard_size": "40KB"}),
            ("phi3", {"dtype": torch.bfloat16, "shard_size": "40KB"}),
            ("gpt_neox", {"dtype": torch.float16, "shard_size": "40KB"}),
        ],
    )
    def test_half_precision_tied_embeddings_and_shards(
        self,
        tmp_path: Path,
        data: Path,
        text_data: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        options: dict[str, Any],
    ) -> None:
        model = tiny_families.build(name, tmp_path / "model", **options)
        stand_in(name, monkeypatch)
        records = data if name in FAMILIES else text_data
        done = run_edit(model, records, tmp_path / "out", "patient_1", method="chip", top_k=50.0, layers="0-2")
        assert done.changed == done.planned
        assert load_model(Checkpoint(done.out), "cpu").sites == done.prepared.loaded.sites


class TestStoredNames:
    @pytest.mark.parametrize(
        ("name", "names"),
        [
            *((name, "module tree") for name in FAMILIES),
            *((name, "old tower") for name in ("llava", "llava_next", "llava_onevision", "gemma3", "paligemma")),
        ],
    )
    def test_files_may_name_tensors_by_the_module_tree_or_as_they_used_to(
        self, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, name: str, names: str
    ) -> None:
        model = tiny_families.build(name, tmp_path / "model")
        stand_in(name, monkeypatch)
        if names == "module tree":
            tree = load_model(Checkpoint(model), "cpu").model.state_dict()
            save_file(
                {key: value.clone() for key, value in tree.items()}, model / "model.safetensors", {"format": "pt"}
            )
        else:
            tiny_models.rename_tensors(
                model, lambda key: key.replace("vision_tower.enc", "vision_tower.vision_model.enc")
            )
        done = run_edit(model, data, tmp_path / "out", "patient_1", method="chip", sites=",".join(ROLES), top_k=50.0)
        assert done.changed == done.planned
        assert len(done.planned) >= len({report.site for report in done.result.sites if report.rank})


class TestAnswers:
    def test_prompt_and_answer_stand_apart(self, loaded: LoadedModel, data: Path) -> None:
        for record in read_records(data).records:
            encoded = loaded.prompts.encode(record)
            said = loaded.prompts.tokenizer.decode(encoded.answer_ids, skip_special_tokens=True)
            assert said.strip() == record.answer
            asked = encoded.prompt_only().sequence["input_ids"]
            assert record.question in loaded.prompts.tokenizer.decode(asked)

    def test_the_prompt_is_what_the_processor_makes_of_the_question(self, loaded: LoadedModel, data: Path) -> None:
        """In the one family that is asked without a chat template."""
        if not loaded.family.inputs.suffix:
            pytest.skip("this family has a chat template")
        for record in (record for record in read_records(data).records if record.images):
            pictures = [Image.open(path).convert("RGB") for path in record.images]
            made = loaded.prompts.processor(
                text=["<image>" * len(pictures) + record.question], images=pictures, return_tensors="pt"
            )
            assert torch.equal(made["input_ids"][0], loaded.prompts.encode(record).prompt_only().sequence["input_ids"])

    def test_answers_do_not_depend_on_the_batch(self, loaded: LoadedModel, data: Path) -> None:
        records = read_records(data).records
        alone, together = (measure_answers(loaded, records, batch_size=size) for size in (1, len(records)))
        for one, other in zip(alone, together, strict=True):
            # A text is cut off after the batch's longest answer, perhaps in mid-character.
            length = min(len(text.rstrip("\ufffd")) for text in (one.text, other.text))
            assert (one.text[:length], one.exact) == (other.text[:length], other.exact)
            assert one.loss == pytest.approx(other.loss, rel=1e-4)

    def test_the_likeliest_answer_is_the_generated_one(self, loaded: LoadedModel, data: Path) -> None:
        """What greedy generation says is, told back as the answer, the likeliest at every one of its tokens."""
        record = next(record for record in read_records(data).records if record.images)
        encoded = loaded.prompts.encode(record)
        asked = loaded.prompts.collate([encoded.prompt_only()], loaded.device, left=True)
        with torch.no_grad():
            made = loaded.model.generate(**asked.inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
            ids = torch.cat([encoded.sequence["input_ids"][: encoded.answer_start], made[0, -4:]])
            width = {key: value.shape[0] for key, value in encoded.sequence.items()}
            told = {
                key: torch.cat([value[: encoded.answer_start], value[-1:].expand(4, *value.shape[1:])])
                for key, value in encoded.sequence.items()
            }
            assert set(width.values()) == {len(encoded)}
            spoken = replace(encoded, sequence={**told, "input_ids": ids})
            batch = loaded.prompts.collate([spoken], loaded.device)
            likeliest = loaded.model(**batch.inputs, use_cache=False).logits[batch.answer].argmax(-1)
        assert likeliest.tolist() == made[0, -4:].tolist()


class TestPrefix:
    """What is computed of template and images does not depend on what follows, where the table says so."""

    def test_a_shared_prefix_does_not_see_what_follows(self, loaded: LoadedModel, data: Path) -> None:
        record = next(record for record in read_records(data).records if record.images)
        last = [site for site in loaded.sites if site.role == "language" and site.last][-1]
        found = []
        for question in ("the findings ?", "the number of the patient ?"):
            rows: list[Tensor] = []
            one = loaded.prompts.encode(replace(record, question=question))
            batch = loaded.prompts.collate([one], loaded.device)
            watch = last.watch(loaded.model, lambda given, _, rows=rows: rows.append(given[0]))
            with torch.no_grad():
                loaded.model(**batch.inputs, use_cache=False)
            watch.remove()
            found.append((one.sequence["input_ids"], rows[0]))
        (first, before), (second, after) = found
        shared = int(first[: len(second)].eq(second[: len(first)]).long().cumprod(0).sum())
        assert shared > int(first.eq(loaded.prompts.image_token_id).nonzero().max())
        same = torch.allclose(before[:shared], after[:shared], rtol=1e-4, atol=1e-5)
        assert same or not loaded.family.shares_prefix
        if loaded.family.inputs.suffix:
            assert not same


class TestRefusals:
    @pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe", "mixtral"])
    def test_experts_of_one_tensor(self, tmp_path: Path, family: str) -> None:
        few = {"num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
        model = tiny_models.text_model(tmp_path / "model", family, shared_expert_intermediate_size=16, **few)
        for attempt in (lambda: load_model(Checkpoint(model), "cpu"), lambda: inspect_model(str(model))):
            with pytest.raises(ChipError, match=f"'{family}' is a mixture of experts .* which chip cannot edit"):
                attempt()

    @pytest.mark.parametrize(
        "expert", ["mlp.experts.0.gate_proj", "mlp.experts", "block_sparse_moe.experts.1.w1", "block_sparse_moe"]
    )
    def test_experts_one_by_one_beside_dense_layers(self, expert: str) -> None:
        dense = [f"model.layers.0.mlp.{linear}" for linear in ("gate_proj", "up_proj", "down_proj")]
        with pytest.raises(ChipError, match="mixture of experts"):
            find_family(SimpleNamespace(model_type="nonesuch"), [*dense, f"model.layers.1.{expert}"])

    def test_a_layer_without_its_mlp_is_no_partial_edit(self, tmp_path: Path) -> None:
        model = load_model(Checkpoint(tiny_families.build("llama", tmp_path / "model")), "cpu").model
        del model.model.layers[1].mlp.up_proj
        names = [name for name, _ in model.named_modules()]
        with pytest.raises(ChipError, match=r"has no module model\.layers\.1\.mlp\.up_proj"):
            find_sites(model, find_family(model.config, names))

    @pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
    @pytest.mark.parametrize(
        ("name", "processor", "image_processor"),
        [
            ("llava_onevision", "LlavaOnevisionProcessor", "LlavaOnevisionImageProcessor"),
            ("qwen2_vl", "Qwen2VLProcessor", "Qwen2VLImageProcessor"),
            ("qwen2_5_vl", "Qwen2_5_VLProcessor", "Qwen2VLImageProcessor"),
            ("qwen3_vl", "Qwen3VLProcessor", "Qwen2VLImageProcessor"),
            ("smolvlm", "SmolVLMProcessor", "SmolVLMImageProcessor"),
            ("internvl", "InternVLProcessor", "GotOcr2ImageProcessor"),
            ("pixtral", "PixtralProcessor", "PixtralImageProcessor"),
            ("mistral3", "PixtralProcessor", "PixtralImageProcessor"),
        ],
    )
    def test_a_processor_that_needs_torchvision_says_so(
        self, tmp_path: Path, name: str, processor: str, image_processor: str
    ) -> None:
        model = tiny_families.build(name, tmp_path / "model")
        described = {"image_processor_type": image_processor, "processor_class": processor}
        (model / "preprocessor_config.json").write_text(json.dumps(described))
        with pytest.raises(ChipError, match="torchvision") as refusal:
            load_model(Checkpoint(model), "cpu")
        assert "\n" not in str(refusal.value)

    @pytest.mark.parametrize("sites", ["vision", "language,vision", "projector"])
    def test_roles_that_a_text_model_has_not(self, llama: LoadedModel, sites: str) -> None:
        with pytest.raises(ChipError, match=f"--sites {sites}: chip knows no (vision|projector) sites of this model"):
            chosen_sites(llama.sites, EditSettings(method="chip", sites=sites))

    @pytest.mark.parametrize("named", [{}, {"vision_config": {}}])
    def test_a_family_found_by_name_shares_no_prefix(self, named: dict[str, Any]) -> None:
        """Nobody has looked whether its layers attend, and only to what came before."""
        family = find_family(SimpleNamespace(model_type="nonesuch", **named), ["model.layers.0.mlp.down_proj"])
        assert not family.known
        assert not family.shares_prefix


class TestBareParameter:
    """Gemma 3 keeps its projector as (inputs, outputs): an edit of it is the edit of its transpose."""

    @pytest.fixture(scope="class")
    def directory(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tiny_families.build("gemma3", tmp_path_factory.mktemp("gemma3") / "model")

    def test_chip_projects_its_columns(self, directory: Path, data: Path, tmp_path: Path) -> None:
        done = run_edit(directory, data, tmp_path / "out", "patient_1", method="chip", sites="projector", top_k=25.0)
        loaded, edited = done.prepared.loaded, load_model(Checkpoint(done.out), "cpu")
        (site,) = chosen_sites(loaded.sites, done.prepared.request.settings)
        statistics = collect(loaded, read_records(data).records, Wanted((site.name,)))
        split = done.prepared.split
        found = orthogonal.solve_site(statistics.pooled[site.name], statistics.nodes, split.targets, 25.0, 0.95)
        assert found is not None
        expected = site.weight(loaded.model).clone().double()
        expected[found.neurons] -= found.basis.T @ (found.basis @ expected[found.neurons])
        assert_near(site.weight(edited.model).double(), expected, 1e-6)
        moved = (site.weight(edited.model) != site.weight(loaded.model)).any(1).nonzero().flatten()
        assert set(moved.tolist()) <= set(found.neurons.tolist())

    def test_oblique_sends_the_targets_images_where_they_shall_go(
        self, directory: Path, data: Path, tmp_path: Path
    ) -> None:
        strong = {"keys": "image", "strength": 1e9, "ridge": 1e-6}
        done = run_edit(directory, data, tmp_path / "out", "patient_1", **strong)
        loaded, edited = done.prepared.loaded, load_model(Checkpoint(done.out), "cpu")
        site = next(site for site in loaded.sites if site.transposed)
        images = divide_images(done.prepared.hierarchy, done.prepared.split)
        records = read_records(data).records
        shown = image_inputs(loaded, [record for record in records if record.images], site, 4)
        mean = torch.stack([shown[digest] for digest in images.comparison]).mean(0)
        assert images.owned
        for digest in images.owned:
            aimed = mean @ site.weight(loaded.model).T.double()
            assert_near(shown[digest] @ site.weight(edited.model).T.double(), aimed, 1e-3)


class TestChosenSites:
    @pytest.mark.parametrize("sites", ["attention", "vision,attention", "language,projector", "projector , language"])
    def test_roles_choose_sites_and_layers_choose_among_the_language_models(
        self, loaded: LoadedModel, sites: str
    ) -> None:
        roles = {role.strip() for role in sites.split(",")}
        chosen = chosen_sites(loaded.sites, EditSettings(method="chip", sites=sites, layers="2"))
        assert {site.role for site in chosen} == roles
        assert {site.layer for site in chosen if site.role in ("language", "attention")} <= {2}
        assert list(chosen) == [site for site in loaded.sites if site in chosen]

    def test_oblique_takes_what_writes_into_the_residual_stream(self, loaded: LoadedModel) -> None:
        chosen = chosen_sites(loaded.sites, EditSettings(method="oblique"))
        assert [site.role for site in chosen[:1]] == ["projector"]
        assert all(site.last for site in chosen)

    def test_counterparts_take_all_that_writes_into_the_residual_stream(self, loaded: LoadedModel) -> None:
        chosen = chosen_sites(loaded.sites, EditSettings())
        assert set(chosen) == {site for site in loaded.sites if site.writes}


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal relative to the expected tensor's norm."""
    assert float((found - expected).norm()) <= tolerance * max(float(expected.norm()), 1e-30)
