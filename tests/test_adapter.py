"""Adapters: peft loads them, and on the base they make the logits of the edited checkpoint."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import tiny_families
import tiny_models
import torch
from checkpoint_files import digests, mode
from command_line import chip_here
from edits import Edited, run_edit
from torch import Tensor, nn

from chip.edit import Change, Edit, load_edits, save_edits
from chip.edit.adapter import CONFIG, WEIGHTS, write_adapter
from chip.edit.transfer import transferred
from chip.errors import ChipError, UsageError
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.records import read_records
from chip.workflow.export import export_adapter


def logits(model: nn.Module, loaded: LoadedModel, data: Path) -> Tensor:
    """Logits of the first and the last records, one after the other."""
    records = read_records(data).records
    found = []
    for record in (*records[:4], *records[-4:]):
        encoded = loaded.prompts.encode(record)
        with torch.no_grad():
            inputs = {name: one[None] for name, one in encoded.sequence.items()} | encoded.pixels
            found.append(model(**inputs).logits[0])
    return torch.cat(found)


def with_adapter(base: Path, adapter: Path) -> tuple[nn.Module, LoadedModel]:
    loaded = load_model(Checkpoint(base), "cpu")
    with warnings.catch_warnings():
        # peft says of layers without a bias that an adapter with biases cannot be merged into them.
        warnings.filterwarnings("ignore", message="`lora_bias=True` was passed")
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        return peft.PeftModel.from_pretrained(loaded.model, str(adapter)), loaded


def same_logits(edited: Edited, data: Path, adapter: Path) -> None:
    """The adapter on the base gives what the written checkpoint gives, which is not what the base gives."""
    base = edited.prepared.checkpoint.directory
    written = load_model(Checkpoint(edited.out), "cpu")
    plain = load_model(Checkpoint(base), "cpu")
    expected, before = logits(written.model, written, data), logits(plain.model, plain, data)
    found = logits(*with_adapter(base, adapter), data)
    moved = (expected - before).norm()
    assert moved > 1e-4 * before.norm()
    assert (found - expected).norm() < 1e-3 * moved + 1e-6 * before.norm()


METHODS: list[dict[str, Any]] = [
    {"method": "counterpart"},
    {"method": "oblique", "keys": "both"},
    {"method": "oblique", "keys": "answer", "toward": "mean"},
    {"method": "chip", "layers": "0-2"},
    {"method": "chip", "layers": "0-2", "sites": "language,projector,vision,attention"},
]


class TestPeft:
    @pytest.mark.parametrize("values", METHODS, ids=str)
    def test_a_llava_answers_as_the_edited_one(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, values: dict[str, Any]
    ) -> None:
        edited = run_edit(llava_directory, hospital_data, tmp_path / "out", "patient_1", **values)
        file = tmp_path / "out.edit.safetensors"
        adapted = export_adapter(file, tmp_path / "adapter", base=llava_directory)
        assert {one.parameter for one in adapted} == {change.parameter for change in edited.edit.changes}
        same_logits(edited, hospital_data, tmp_path / "adapter")

    @pytest.mark.parametrize("values", METHODS[:1] + METHODS[2:4], ids=str)
    def test_a_text_model_answers_as_the_edited_one(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, values: dict[str, Any]
    ) -> None:
        edited = run_edit(llama_directory, text_data, tmp_path / "out", "patient_1", **values)
        export_adapter(tmp_path / "out.edit.safetensors", tmp_path / "adapter", base=llama_directory)
        same_logits(edited, text_data, tmp_path / "adapter")

    def test_without_biases_it_can_be_merged(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        edited = run_edit(llama_directory, text_data, tmp_path / "out", "patient_1", method="counterpart")
        export_adapter(tmp_path / "out.edit.safetensors", tmp_path / "adapter")
        model, _ = with_adapter(llama_directory, tmp_path / "adapter")
        merged = dict(model.merge_and_unload().named_parameters())
        written = load_model(Checkpoint(edited.out), "cpu").model
        for name, value in written.named_parameters():
            torch.testing.assert_close(merged[name].data, value.data, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("keys", ["image", "both"])
    def test_a_projector_that_is_a_bare_parameter_is_carried(self, tmp_path: Path, keys: str) -> None:
        base, data = tiny_families.build("gemma3", tmp_path / "model"), tmp_path / "records"
        tiny_families.write_records(data)
        edited = run_edit(base, data, tmp_path / "out", "patient_1", method="oblique", keys=keys)
        assert any(change.parameter.endswith("mm_input_projection_weight") for change in edited.edit.changes)
        export_adapter(tmp_path / "out.edit.safetensors", tmp_path / "adapter", base=base)
        same_logits(edited, data, tmp_path / "adapter")


def change_of(
    seed: int, rank: int = 2, parameter: str = "model.layers.1.mlp.down_proj.weight", **values: Any
) -> Change:
    rng = np.random.default_rng(seed)
    left, right = (rng.normal(size=shape).astype(np.float32) for shape in ((32, rank), (rank, 64)))
    return Change(**{"tensor": parameter, "left": left, "right": right, "parameter": parameter, **values})


def edit_of(*changes: Change) -> Edit:
    return Edit("oblique", {}, changes)


def product(adapter: Path, module: str = "model.layers.1.mlp.down_proj") -> np.ndarray:
    tensors = peft.utils.load_peft_weights(str(adapter), device="cpu")
    stem = f"base_model.model.{module}"
    left, right = (tensors[f"{stem}.lora_{one}.weight"].double().numpy() for one in "BA")
    return np.asarray(left @ right)


class TestFactors:
    @pytest.mark.parametrize("ranks", [(2, 3), (20, 30)])
    def test_what_several_edits_do_to_a_tensor_is_summed_up(self, tmp_path: Path, ranks: tuple[int, int]) -> None:
        first, second = change_of(0, ranks[0]), change_of(1, ranks[1])
        (one,) = write_adapter([edit_of(first), edit_of(second)], tmp_path / "adapter", shapes={})
        assert one.rank == min(sum(ranks), 32)
        np.testing.assert_allclose(product(tmp_path / "adapter"), first.delta() + second.delta(), atol=1e-4)

    def test_a_dense_change_is_factored(self, tmp_path: Path) -> None:
        dense = change_of(0, 5).delta().astype(np.float32)
        (one,) = write_adapter([edit_of(change_of(0, left=dense, right=None))], tmp_path / "adapter", shapes={})
        assert one.rank <= 12
        np.testing.assert_allclose(product(tmp_path / "adapter"), dense, atol=1e-5)

    def test_some_rows_are_filled_up_to_all(self, tmp_path: Path) -> None:
        some = change_of(0, rows=np.array([3, 0]), left=np.ones((2, 2), np.float32))
        with pytest.raises(ChipError, match="say with --base of what model"):
            write_adapter([edit_of(some)], tmp_path / "adapter", shapes={})
        write_adapter([edit_of(some)], tmp_path / "adapter", shapes={some.tensor: (32, 64)})
        expected = np.zeros((32, 64))
        expected[[3, 0]] = some.delta()
        np.testing.assert_allclose(product(tmp_path / "adapter"), expected, atol=1e-6)

    def test_several_edits_in_a_file_answer_as_one_after_the_other(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        first = run_edit(llama_directory, text_data, tmp_path / "one", "patient_1", method="counterpart")
        second = run_edit(first.out, text_data, tmp_path / "two", "patient_2", method="oblique", keys="answer")
        save_edits([first.edit, second.edit], tmp_path / "both")
        assert len(load_edits(tmp_path / "both")) == 2
        export_adapter(tmp_path / "both", tmp_path / "adapter", base=llama_directory)
        written = load_model(Checkpoint(second.out), "cpu")
        found = logits(*with_adapter(llama_directory, tmp_path / "adapter"), text_data)
        torch.testing.assert_close(found, logits(written.model, written, text_data), rtol=1e-3, atol=1e-4)


class TestRefused:
    def test_what_peft_cannot_carry_is_named(self, tmp_path: Path) -> None:
        bias = change_of(0, 1, "model.proj.bias", right=np.ones((1, 1), np.float32), left=np.ones((32, 1), np.float32))
        bare = change_of(0, 1, "model.projector.input_projection")
        weight = change_of(0, 1, "model.proj.weight")
        second = change_of(0, 1, "model.projector.output_projection")
        cases = [
            ([bias], "changes model.proj.bias but not its weight"),
            ([bias, weight, bare], "model.projector.input_projection, which is no linear layer, and model.proj.bias"),
            ([bare, second], "several parameters of model.projector"),
            ([change_of(0, parameter="", tensor="some.weight")], "does not say what some.weight is called"),
            ([change_of(0, 0)], "nothing to export"),
        ]
        for changes, message in cases:
            with pytest.raises(ChipError, match=message):
                write_adapter([edit_of(*changes)], tmp_path / "adapter", shapes={})
        assert list(tmp_path.iterdir()) == []

    def test_a_change_that_does_not_fit_the_base(self, tmp_path: Path) -> None:
        change = change_of(0)
        with pytest.raises(ChipError, match="does not fit its shape"):
            write_adapter([edit_of(change)], tmp_path / "adapter", shapes={change.tensor: (32, 65)})

    def test_edits_of_different_models(self, tmp_path: Path) -> None:
        edits = [edit_of(change_of(0)), edit_of(change_of(1, right=np.ones((2, 5), np.float32)))]
        with pytest.raises(ChipError, match="they are of different models"):
            write_adapter(edits, tmp_path / "adapter", shapes={})

    def test_a_base_that_it_was_not_solved_on(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        run_edit(llama_directory, text_data, tmp_path / "out", "patient_1", method="counterpart")
        other = tiny_models.text_model(tmp_path / "other", "llama", seed=3)
        with pytest.raises(ChipError, match="was solved on other weights than those of"):
            export_adapter(tmp_path / "out.edit.safetensors", tmp_path / "adapter", base=other)
        assert not (tmp_path / "adapter").exists()

    def test_but_with_transfer_it_is_derived_for_that(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        done = run_edit(llama_directory, text_data, tmp_path / "out", "patient_1", method="chip", layers="0-2")
        other, file = tiny_models.text_model(tmp_path / "other", "llama", seed=3), tmp_path / "out.edit.safetensors"
        with pytest.raises(UsageError, match="give it with --base"):
            export_adapter(file, tmp_path / "adapter", transfer=True)
        export_adapter(file, tmp_path / "adapter", base=other, transfer=True)
        found = {change.tensor: change for change in transferred(done.edit, Checkpoint(other)).changes}
        change = found["model.layers.1.mlp.down_proj.weight"]
        assert change.rows is not None
        np.testing.assert_allclose(product(tmp_path / "adapter")[change.rows], change.delta(), atol=1e-5)


class TestCommand:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        save_edits([edit_of(change_of(0))], tmp_path / "edit")
        return tmp_path / "edit"

    def test_it_writes_two_private_files_whole_or_not_at_all(self, tmp_path: Path, file: Path) -> None:
        done = chip_here("export", file, "--peft", tmp_path / "adapter", "--json")
        assert done.exit_code == 0
        assert json.loads(done.stdout)["ranks"] == {"model.layers.1.mlp.down_proj.weight": 2}
        assert set(digests(tmp_path / "adapter")) == {CONFIG, WEIGHTS}
        assert {mode(path) for path in (tmp_path / "adapter").iterdir()} == {0o600}
        assert {path.name for path in tmp_path.iterdir()} == {"edit", "adapter"}

    def test_it_needs_no_torch(self, tmp_path: Path, file: Path) -> None:
        code = (
            "import sys\nfrom chip.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
            "    heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
            "    sys.exit(f'imported {heavy}' if heavy else end.code)\n"
        )
        command = [sys.executable, "-c", code, "export", str(file), "--peft", str(tmp_path / "adapter")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_the_same_edit_is_the_same_bytes(self, tmp_path: Path, file: Path) -> None:
        for name in ("one", "two"):
            assert chip_here("export", file, "--peft", tmp_path / name).exit_code == 0
        assert digests(tmp_path / "one") == digests(tmp_path / "two")

    def test_what_exists_is_replaced_by_force_alone_and_only_an_adapter(self, tmp_path: Path, file: Path) -> None:
        assert chip_here("export", file, "--peft", tmp_path / "adapter").exit_code == 0
        again = chip_here("export", file, "--peft", tmp_path / "adapter")
        assert "exists already" in str(again.exception)
        assert chip_here("export", file, "--peft", tmp_path / "adapter", "--force").exit_code == 0
        (tmp_path / "adapter" / "notes").write_text("mine")
        kept = digests(tmp_path / "adapter")
        forced = chip_here("export", file, "--peft", tmp_path / "adapter", "--force")
        assert "holds more than an adapter" in str(forced.exception)
        assert digests(tmp_path / "adapter") == kept
