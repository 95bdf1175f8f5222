"""Models: every family's sites are found and proved against the files, and edits change what was planned alone."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from checkpoint_files import digests, stored_tensors
from edits import request, run_edit
from reference import second_moment, trace
from safetensors.torch import load_file, save_file
from tiny_records import write_image, write_lines
from transformers import AutoModelForImageTextToText

from chip.collect import Wanted, collect
from chip.errors import ChipError
from chip.inspection import inspect_model
from chip.models.checkpoint import Checkpoint
from chip.models.families import find_family
from chip.models.listing import list_sites
from chip.models.loading import LoadedModel, load_model
from chip.models.prompts import Prompts
from chip.models.sites import choose_layers, find_sites, stored_sites
from chip.records import read_records
from chip.workflow import EditRequest, prepare_edit

QWEN = ("qwen2_vl", "qwen2_5_vl")
MLP = ("gate_proj", "up_proj", "down_proj")
TEXT_FAMILIES = ("llama", "qwen2", "mistral")
BY_NAME = ("olmo2", "granite")


def new_names(name: str) -> str:
    """A published Qwen-VL name as transformers calls the module today."""
    for old, new in (("visual.", "model.visual."), ("model.", "model.language_model.")):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def module_names(name: str) -> str:
    """A published LLaVA name as transformers calls the module today."""
    for old, new in (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head", "lm_head"),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def load_qwen(directory: Path) -> LoadedModel:
    """A Qwen-VL with its image processor alone, loaded without the processor that needs torchvision."""
    model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32).eval()
    family = find_family(model.config, [name for name, _ in model.named_modules()])
    prompts = Prompts(tiny_models.PilQwenProcessor(), tiny_models.IMAGE, family.inputs)
    return LoadedModel(model, prompts, family, find_sites(model, family), torch.device("cpu"))


class TestSites:
    def test_llava_has_its_projector_and_three_linears_a_layer(self, llava: LoadedModel) -> None:
        assert llava.family.known
        projector = [site.name for site in llava.sites if site.role == "projector"]
        assert projector == [f"model.multi_modal_projector.linear_{n}" for n in (1, 2)]
        language = [(site.layer, site.linear) for site in llava.sites if site.role == "language"]
        assert language == [(layer, linear) for layer in range(3) for linear in MLP]

    @pytest.mark.parametrize("family", QWEN)
    def test_qwen_vision_has_its_merger(self, tmp_path: Path, family: str) -> None:
        loaded = load_qwen(tiny_models.qwen_vision(tmp_path / "model", family))
        assert loaded.family.known
        projector = [site.name for site in loaded.sites if site.role == "projector"]
        assert projector == [f"model.visual.merger.mlp.{n}" for n in (0, 2)]
        assert sum(site.role == "language" for site in loaded.sites) == 3 * len(MLP)
        assert all("visual.blocks" in site.name for site in loaded.sites if site.role == "vision")

    @pytest.mark.parametrize("family", TEXT_FAMILIES + BY_NAME)
    def test_text_models_have_three_linears_a_layer(self, tmp_path: Path, family: str) -> None:
        seen = inspect_model(str(tiny_models.text_model(tmp_path / "model", family)))
        assert seen.known == (family in TEXT_FAMILIES)
        assert seen.layers == 3
        assert [site.stored for site in seen.sites] == [
            f"model.layers.{layer}.{linear}.weight"
            for layer in range(3)
            for linear in ("self_attn.o_proj", *(f"mlp.{one}" for one in MLP))
        ]

    def test_sites_that_cannot_be_found_are_a_clear_error(self, tmp_path: Path) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "gpt2", n_embd=32, n_layer=2, n_head=2)
        for attempt in (lambda: load_model(Checkpoint(directory), "cpu"), lambda: inspect_model(str(directory))):
            with pytest.raises(ChipError, match="'gpt2' is not in chip's table, and its sites cannot be found"):
                attempt()

    @pytest.mark.parametrize(
        ("spelled", "layers"),
        [(None, (0, 1, 2)), ("0", (0,)), ("1-2", (1, 2)), ("2,0", (0, 2)), ("0-1, 1-2", (0, 1, 2)), ("2-2", (2,))],
    )
    def test_layers_are_chosen_by_number_and_range(
        self, llava: LoadedModel, spelled: str | None, layers: tuple[int, ...]
    ) -> None:
        assert choose_layers(llava.sites, spelled) == layers

    @pytest.mark.parametrize("spelled", ["", "a", "1-", "-1", "2-1", "3", "0-3", "1--2", "1,,2", "1.5", "٣"])
    def test_layers_that_mean_nothing_are_refused(self, llava: LoadedModel, spelled: str) -> None:
        with pytest.raises(ChipError, match="--layers"):
            choose_layers(llava.sites, spelled)


class TestStoredNames:
    @pytest.mark.parametrize("family", QWEN)
    @pytest.mark.parametrize("rename", [str, new_names], ids=["published", "today's"])
    def test_qwen_names_old_and_new_are_proved(self, tmp_path: Path, family: str, rename: Callable[[str], str]) -> None:
        directory = tiny_models.qwen_vision(tmp_path / "model", family)
        tiny_models.rename_tensors(directory, rename)
        loaded = load_qwen(directory)
        stored = stored_sites(loaded.model, Checkpoint(directory), loaded.sites)
        names = {one.weight.name for one in stored.values()}
        assert {rename("visual.merger.mlp.0.weight"), rename("model.layers.1.mlp.up_proj.weight")} <= names
        assert len(names) == len(loaded.sites)
        assert {one.tensor.name for one in list_sites(Checkpoint(directory)).sites} == names

    @pytest.mark.parametrize("rename", [str, module_names], ids=["published", "today's"])
    @pytest.mark.parametrize("text_family", ["qwen2", "llama", "mistral"])
    def test_llava_names_old_and_new_are_proved(
        self, tmp_path: Path, text_family: str, rename: Callable[[str], str]
    ) -> None:
        directory = tiny_models.llava(tmp_path / "model", text_family=text_family)
        tiny_models.rename_tensors(directory, rename)
        loaded = load_model(Checkpoint(directory), "cpu")
        stored = stored_sites(loaded.model, Checkpoint(directory), loaded.sites)
        first = stored["model.language_model.layers.0.mlp.down_proj"]
        assert first.weight.name == rename("language_model.model.layers.0.mlp.down_proj.weight")
        listed = {one.tensor.name for one in list_sites(Checkpoint(directory)).sites}
        assert listed == {one.weight.name for one in stored.values()}
        projector = stored["model.multi_modal_projector.linear_2"]
        assert projector.bias is not None
        assert projector.bias.name == rename("multi_modal_projector.linear_2.bias")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_a_stored_tensor_that_differs_from_the_loaded_one_is_refused(
        self, tmp_path: Path, dtype: torch.dtype
    ) -> None:
        directory = tiny_models.llava(tmp_path / "model", dtype=dtype)
        loaded = load_model(Checkpoint(directory), "cpu")
        name = "language_model.model.layers.1.mlp.down_proj.weight"
        tensors = load_file(directory / "model.safetensors")
        tensors[name][3, 5] = torch.nextafter(tensors[name][3, 5].float(), torch.tensor(9.0)) + 0.01
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        with pytest.raises(ChipError, match=f"{name} in .* differs from the parameter"):
            stored_sites(loaded.model, Checkpoint(directory), loaded.sites)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_stored_values_that_are_not_finite_are_refused(self, tmp_path: Path, value: float) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "llama")
        tensors = load_file(directory / "model.safetensors")
        tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = value
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        loaded = load_model(Checkpoint(directory), "cpu")
        with pytest.raises(ChipError, match="holds values that are not finite"):
            stored_sites(loaded.model, Checkpoint(directory), loaded.sites)

    def test_two_stored_tensors_for_one_parameter_are_refused(self, tmp_path: Path) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "llama")
        loaded = load_model(Checkpoint(directory), "cpu")
        tensors = load_file(directory / "model.safetensors")
        name = "model.layers.0.mlp.up_proj.weight"
        save_file({**tensors, f"teacher.{name}": tensors[name].clone()}, directory / "model.safetensors")
        with pytest.raises(ChipError, match="several stored tensors may be"):
            stored_sites(loaded.model, Checkpoint(directory), loaded.sites)

    def test_a_tensor_that_is_not_stored_is_refused(self, tmp_path: Path, llama: LoadedModel) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "llama")
        tiny_models.rename_tensors(directory, lambda name: name.replace("mlp.up_proj", "mlp.w1"))
        with pytest.raises(ChipError, match="stores no tensor for"):
            stored_sites(llama.model, Checkpoint(directory), llama.sites)


class TestLoading:
    def test_weights_that_are_missing_are_never_initialised_silently(self, tmp_path: Path) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "llama")
        tensors = load_file(directory / "model.safetensors")
        del tensors["model.layers.0.mlp.up_proj.weight"]
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        with pytest.raises(ChipError, match=r"missing keys model\.layers\.0\.mlp\.up_proj\.weight"):
            load_model(Checkpoint(directory), "cpu")

    def test_weights_of_another_shape_are_refused(self, tmp_path: Path) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "llama")
        tiny_models.change_config(directory, intermediate_size=48)
        with pytest.raises(ChipError, match=str(directory)):
            load_model(Checkpoint(directory), "cpu")

    def test_a_family_unknown_to_transformers_is_refused(self, tmp_path: Path) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "llama")
        tiny_models.change_config(directory, model_type="nonesuch")
        with pytest.raises(ChipError, match="transformers"):
            load_model(Checkpoint(directory), "cpu")

    def test_remote_code_is_never_run(self, tmp_path: Path) -> None:
        directory = tiny_models.text_model(tmp_path / "model", "llama")
        code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: pass\nclass Config: pass\n"
        (directory / "evil.py").write_text(code)
        remote = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        tiny_models.change_config(directory, auto_map=remote, model_type="nonesuch")
        with pytest.raises(ChipError):
            load_model(Checkpoint(directory), "cpu")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
    @pytest.mark.parametrize("family", QWEN)
    def test_a_processor_that_needs_torchvision_says_so(self, tmp_path: Path, family: str) -> None:
        directory = tiny_models.qwen_vision(tmp_path / "model", family)
        with pytest.raises(ChipError, match="it needs torchvision, which is not installed"):
            load_model(Checkpoint(directory), "cpu")

    @pytest.mark.parametrize("gone", ["tokenizer.json", "processor_config.json"])
    def test_a_model_without_its_processor_is_refused(self, tmp_path: Path, gone: str) -> None:
        directory = tiny_models.llava(tmp_path / "model")
        (directory / gone).unlink()
        with pytest.raises(ChipError, match=str(directory)):
            load_model(Checkpoint(directory), "cpu")

    @pytest.mark.parametrize(
        ("device", "dtype", "message"),
        [("tpu9", "auto", "--device"), ("cpu", "float8", "--dtype 'float8' is none of"), ("", "auto", "--device")],
    )
    def test_devices_and_dtypes_that_do_not_exist(
        self, llama_directory: Path, device: str, dtype: str, message: str
    ) -> None:
        with pytest.raises(ChipError, match=message):
            load_model(Checkpoint(llama_directory), device, dtype)

    def test_a_bf16_checkpoint_is_measured_in_float32_on_a_cpu(self, tmp_path: Path) -> None:
        checkpoint = Checkpoint(tiny_models.text_model(tmp_path / "model", "llama", dtype=torch.bfloat16))
        assert load_model(checkpoint, "cpu").dtype == torch.float32
        assert load_model(checkpoint, "cpu", "bfloat16").dtype == torch.bfloat16

    @pytest.mark.parametrize("name", ["no/such-model", "/no/such/directory", "what is this?"])
    def test_a_model_that_is_nowhere_is_not_looked_for_on_the_network(self, hospital_data: Path, name: str) -> None:
        with pytest.raises(ChipError, match="neither a directory nor a model in the local cache"):
            prepare_edit(EditRequest(name, hospital_data, ("inst_0",)))

    @pytest.mark.parametrize("spelled", [".", "../model", "../model/"])
    def test_the_working_directory_may_be_the_model(
        self, tmp_path: Path, text_data: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
    ) -> None:
        monkeypatch.chdir(tiny_models.text_model(tmp_path / "model", "llama"))
        plan = prepare_edit(EditRequest(spelled, text_data, ("inst_0",), device="cpu")).plan
        assert plan.out is not None
        assert plan.out.resolve() == tmp_path / "model-forgotten"
        kept = plan.statistics.removesuffix(" (to be collected)")
        assert Path(kept).resolve() == tmp_path / "model.statistics.safetensors"


@pytest.fixture(scope="module")
def qwen_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records whose images take different numbers of tokens, beside records without any."""
    data = tmp_path_factory.mktemp("qwen-data")
    records: list[dict[str, Any]] = []
    for number, (side, shape) in enumerate([(28, None), (56, None), (84, None), (56, None)]):
        name = f"{number}.png"
        write_image(data / name, number, side)
        path = ["inst_0", f"patient_{number}"]
        records.append({"path": path, "image": shape, "question": "number ?", "answer": f"number {number}"})
        records.append({"path": path, "image": name, "question": "what are the findings ?", "answer": "mild edema"})
    return write_lines(data, *records)


class TestQwenCollection:
    """Images of all records share one row axis there, and differ in length."""

    @pytest.fixture(scope="class", params=QWEN)
    def loaded(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
        return load_qwen(tiny_models.qwen_vision(tmp_path_factory.mktemp(request.param) / "model", request.param))

    def encode(self, loaded: LoadedModel, record: Any) -> tuple[dict[str, torch.Tensor], int]:
        one = loaded.prompts.encode(record)
        return {**{key: value[None] for key, value in one.sequence.items()}, **one.pixels}, one.answer_start

    def test_image_lengths_follow_the_grids(self, loaded: LoadedModel, qwen_data: Path) -> None:
        lengths = [loaded.prompts.encode(record).image_lengths for record in read_records(qwen_data).records]
        assert lengths == [(), (1,), (), (4,), (), (9,), (), (4,)]

    @pytest.mark.parametrize("batch_tokens", [1, 50, 4096])
    @pytest.mark.parametrize("which", ["all", "shown", "text first", "image first"])
    def test_sums_equal_a_loop_over_records(
        self, loaded: LoadedModel, qwen_data: Path, batch_tokens: int, which: str
    ) -> None:
        records = list(read_records(qwen_data).records)
        if which == "shown":
            records = [record for record in records if record.images]
        if which.endswith("first"):
            records.sort(key=lambda record: bool(record.images) == (which == "text first"))
        sites = [site.name for site in loaded.sites if site.role != "vision"]
        projector, down = sites[:2], [name for name in sites if name.endswith("down_proj")]
        found = collect(loaded, records, Wanted(tuple(sites), tuple(down), tuple(projector)), batch_tokens=batch_tokens)
        traces = [trace(loaded.model, *self.encode(loaded, record), sites) for record in records]
        for name in sites:
            reached = [one[name] for one in traces if name in one]
            if name in projector:
                reached = [one[name] for one, record in zip(traces, records, strict=True) if record.images]
            torch.testing.assert_close(
                found.pooled[name].total.sum(0), sum(one.pooled(0.3) for one in reached), rtol=1e-5, atol=1e-5
            )
            assert int(found.pooled[name].count.sum()) == len(reached)
        for name in down:
            keys = torch.cat([one[name].keys for one in traces])
            torch.testing.assert_close(found.answer[name].second_moment, second_moment(keys), rtol=1e-5, atol=1e-5)
            assert found.answer[name].count == len(keys)
        for name in projector:
            rows = torch.cat([one[name].given for one, r in zip(traces, records, strict=True) if r.images])
            torch.testing.assert_close(found.image[name].second_moment, second_moment(rows), rtol=1e-5, atol=1e-5)
            assert found.image[name].count == len(rows)


def build(kind: str, directory: Path) -> Path:
    """One of the checkpoints that are edited end to end."""
    family, *traits = kind.split(" ")
    options: dict[str, Any] = {}
    for trait in traits:
        options |= {
            "tied": {"tied": True},
            "sharded": {"shard_size": "40KB"},
            "bf16": {"dtype": torch.bfloat16},
            "fp16": {"dtype": torch.float16},
            "untemplated": {"chat_template": None},
        }[trait]
    return (
        tiny_models.llava(directory, **options)
        if family == "llava"
        else tiny_models.text_model(directory, family, **options)
    )


class TestEndToEnd:
    @pytest.mark.parametrize("method", ["oblique", "chip"])
    @pytest.mark.parametrize(
        "kind",
        [
            "llava",
            "llava tied sharded",
            "llava bf16",
            "llava fp16 sharded",
            "llama",
            "qwen2 tied",
            "mistral bf16 sharded",
            "olmo2",
            "llama untemplated",
        ],
    )
    def test_an_edit_changes_the_planned_tensors_and_nothing_else(
        self, tmp_path: Path, hospital_data: Path, text_data: Path, kind: str, method: str
    ) -> None:
        model = build(kind, tmp_path / "model")
        data = hospital_data if kind.startswith("llava") else text_data
        before = digests(model)
        done = run_edit(model, data, tmp_path / "out", "patient_1", method=method, top_k=50.0)
        assert done.planned
        assert done.changed == done.planned
        assert digests(model) == before
        after = digests(done.out)
        assert after.keys() == before.keys()
        assert {name for name in after if after[name] != before[name]} == {
            Checkpoint(model).tensors[name].file.name for name in done.planned
        }
        assert all(torch.isfinite(value).all() for value in stored_tensors(done.out).values())
        reloaded = load_model(Checkpoint(done.out), "cpu")
        assert len(stored_sites(reloaded.model, Checkpoint(done.out), reloaded.sites)) == len(reloaded.sites)

    def test_the_plan_tells_of_a_family_found_by_name_and_of_a_missing_template(
        self, tmp_path: Path, text_data: Path
    ) -> None:
        model = tiny_models.text_model(tmp_path / "model", "olmo2", chat_template=None)
        plan = prepare_edit(request(model, text_data, tmp_path / "out", "patient_1")).plan
        notices = " ".join(plan.notices)
        assert "'olmo2' is not in chip's table: its sites were found by name" in notices
        assert "no chat template: records are shown as the question, a line break, the answer" in notices

    def test_images_for_a_text_model_are_an_error(self, tmp_path: Path, hospital_data: Path) -> None:
        model = tiny_models.text_model(tmp_path / "model", "llama")
        with pytest.raises(ChipError, match=r"record on line \d+ shows an image, but this model takes text only"):
            run_edit(model, hospital_data, tmp_path / "out", "patient_1")
        assert not (tmp_path / "out").exists()

    def test_image_keys_need_a_projector(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        with pytest.raises(ChipError, match="--keys image: this model has no vision-language projector"):
            prepare_edit(request(llama_directory, text_data, tmp_path / "out", "patient_1", keys="image"))

    def test_both_kinds_of_key_are_answer_keys_where_there_is_no_projector(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        both, answer = (
            run_edit(llama_directory, text_data, tmp_path / keys, "patient_1", keys=keys).out
            for keys in ("both", "answer")
        )
        assert digests(both) == digests(answer)

    def test_a_moved_checkpoint_is_the_same_checkpoint(self, tmp_path: Path, llama_directory: Path) -> None:
        shutil.copytree(llama_directory, tmp_path / "moved")
        assert Checkpoint(tmp_path / "moved").digest == Checkpoint(llama_directory).digest
