"""The Python interface: what directories and objects come to is the same, and objects are left as they were."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from checkpoint_files import changed_tensors, digests, mode
from PIL import Image
from transformers import LlavaForConditionalGeneration, PreTrainedModel

import chip
from chip.api.given import _PATHS, _SEVERAL
from chip.api.options import AuditOptions, CollectOptions, EditOptions, SettingOptions
from chip.edit import Change
from chip.errors import UsageError
from chip.models.loading import LoadedModel
from chip.records import read_records
from chip.workflow import AuditRequest, CollectRequest, EditRequest

QUICK: dict[str, Any] = {"method": "oblique", "layers": "1", "tuning": chip.TuningSettings(tune=False)}
UNASKED: dict[str, Any] = {**QUICK, "device": "cpu", "verify": False}
FORGET = ["patient_1", "study_2_0"]


@pytest.fixture
def model(llava_directory: Path) -> PreTrainedModel:
    """The tiny LLaVA as a user loads it, in training mode."""
    loaded = LlavaForConditionalGeneration.from_pretrained(llava_directory, dtype=torch.float32)
    return loaded.train()


@pytest.fixture
def processor(llava: LoadedModel) -> Any:
    return llava.prompts.processor


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: PreTrainedModel, weights: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def objects(data: Path) -> list[dict[str, Any]]:
    """The records as objects with opened images."""
    found = [json.loads(line) for line in (data / "records.jsonl").read_text().splitlines()]
    return [{**one, "image": one["image"] and Image.open(data / one["image"])} for one in found]


class TestEdit:
    def test_a_loaded_model_and_a_list_of_records_give_what_their_directories_give(
        self, llava_directory: Path, hospital_data: Path, model: PreTrainedModel, processor: Any, tmp_path: Path
    ) -> None:
        written = chip.edit(llava_directory, hospital_data, FORGET, out=tmp_path / "out", device="cpu", **QUICK)
        for records in (objects(hospital_data), read_records(hospital_data).records):
            live = chip.edit(model, records, FORGET, processor=processor, **QUICK)
            # The writer computes in 64 bits, the live model in 32.
            assert [row.after.loss for row in live.rows] == pytest.approx([row.after.loss for row in written.rows])
            assert live.checkpoint is None
            for ours, theirs in zip(live.changes[0].changes, written.changes[0].changes, strict=True):
                assert ours.parameter == theirs.parameter
                assert (ours.delta() == theirs.delta()).all()
            assert live.changes[0].nodes == written.changes[0].nodes

    def test_a_loaded_model_stays_as_it_was_until_the_edit_is_applied(
        self, hospital_data: Path, model: PreTrainedModel, processor: Any, tmp_path: Path
    ) -> None:
        before = weights_of(model)
        edit = chip.edit(model, hospital_data, FORGET, processor=processor, verify=False, **QUICK)
        assert same(model, before)
        assert model.training
        with edit.applied(model):
            there = weights_of(model)
            assert not same(model, before)
        assert same(model, before)
        edit.apply(model)
        assert same(model, there)
        with pytest.raises(chip.ChipError, match="solved on another"):
            edit.apply(model)

    def test_in_place_it_is_changed_at_once(self, hospital_data: Path, model: PreTrainedModel, processor: Any) -> None:
        before = weights_of(model)
        chip.edit(model, hospital_data, FORGET, processor=processor, verify=False, in_place=True, **QUICK)
        assert not same(model, before)

    def test_a_kept_edit_writes_the_checkpoint_and_changes_the_model_that_it_was_solved_on(
        self, llava_directory: Path, hospital_data: Path, model: PreTrainedModel, tmp_path: Path
    ) -> None:
        made = chip.edit(
            llava_directory, hospital_data, FORGET, out=tmp_path / "a", device="cpu", verify=False, **QUICK
        )
        made.save(tmp_path / "edit.safetensors")
        assert mode(tmp_path / "edit.safetensors") == 0o600
        kept = chip.Edit.load(tmp_path / "edit.safetensors")
        assert kept.tensors == made.tensors
        assert kept.write(llava_directory, tmp_path / "b").is_file()
        assert digests(tmp_path / "a") == digests(tmp_path / "b")
        kept.apply(model)
        model.save_pretrained(tmp_path / "c")
        assert not changed_tensors(tmp_path / "a", tmp_path / "c")
        with pytest.raises(chip.ChipError, match="carries this edit already"):
            kept.apply(model)

    def test_an_edit_of_other_weights_is_refused_and_leaves_the_model_alone(
        self, llava_directory: Path, hospital_data: Path, model: PreTrainedModel, tmp_path: Path
    ) -> None:
        made = chip.edit(
            llava_directory, hospital_data, FORGET, out=tmp_path / "a", device="cpu", verify=False, **QUICK
        )
        before = weights_of(model.to(torch.bfloat16))
        for attempt in (lambda: made.apply(model), made.applied(model).__enter__):
            with pytest.raises(chip.ChipError, match="another dtype"):
                attempt()
        assert same(model, before)

    def test_a_file_of_two_edits_is_applied_as_a_whole_or_not_at_all(
        self, llava_directory: Path, hospital_data: Path, model: PreTrainedModel, tmp_path: Path
    ) -> None:
        first = chip.edit(llava_directory, hospital_data, FORGET, out=tmp_path / "a", **UNASKED).changes[0]
        name = "model.language_model.layers.0.mlp.up_proj.weight"
        values = model.get_parameter(name).detach().numpy()
        endless = Change("t", np.full(values.shape, np.float32(np.inf)), None, parameter=name)
        base = {"t": hashlib.sha256(values.tobytes()).hexdigest()}
        before = weights_of(model)
        with pytest.raises(chip.ChipError, match="its dtype cannot"):
            chip.Edit((first, dataclasses.replace(first, changes=(endless,), base=base, edited={}))).apply(model)
        assert same(model, before)

    def test_it_reads_like_the_command_line(self, llava_directory: Path, hospital_data: Path, tmp_path: Path) -> None:
        edit = chip.edit(llava_directory, hospital_data, FORGET, out=tmp_path / "out", device="cpu", **QUICK)
        assert str(edit).splitlines()[2].split()[0] == "target"
        assert edit.verdict is not None
        assert edit.receipt == tmp_path / "out.receipt.json"
        assert str(chip.Edit(edit.changes)) == f"an edit of {len(edit.tensors)} tensors"


class TestStatistics:
    def test_they_serve_edits_whether_kept_in_memory_or_in_a_file(
        self, hospital_data: Path, model: PreTrainedModel, processor: Any, tmp_path: Path
    ) -> None:
        records = objects(hospital_data)
        found = chip.Statistics.collect(model, records, processor=processor)
        assert found.records == len(records)
        assert ("inst_0", "patient_1") in found.nodes
        assert str(found).startswith(f"statistics of {len(records)} records")
        found.save(tmp_path / "statistics.safetensors")
        read = chip.Statistics.load(tmp_path / "statistics.safetensors")
        assert {*read.sites} == {*found.sites}
        edits = [
            chip.edit(model, records, FORGET, processor=processor, statistics=one, verify=False, **QUICK)
            for one in (None, found, read, tmp_path / "statistics.safetensors")
        ]
        assert len({edit.changes[0].identity for edit in edits}) == 1

    def test_those_of_other_records_are_refused(
        self, hospital_data: Path, model: PreTrainedModel, processor: Any
    ) -> None:
        found = chip.Statistics.collect(model, objects(hospital_data)[:-1], processor=processor)
        with pytest.raises(chip.ChipError, match="do not fit"):
            chip.edit(
                model, [{"path": ["inst_0"], "question": "who ?", "answer": "me"}, *objects(hospital_data)[1:]],
                FORGET, processor=processor, statistics=found, verify=False, **QUICK,
            )  # fmt: skip


class TestAudit:
    def test_loaded_models_are_audited_and_the_report_is_kept(
        self, hospital_data: Path, model: PreTrainedModel, processor: Any, tmp_path: Path
    ) -> None:
        edit = chip.edit(model, hospital_data, FORGET, processor=processor, verify=False, **QUICK)
        edited = LlavaForConditionalGeneration(model.config)
        edited.load_state_dict(model.state_dict())
        edit.apply(edited)
        audit = chip.Audit.of(
            model, edited, objects(hospital_data), FORGET, processor=processor, attacks=("rephrasing",), device="cpu"
        )
        assert set(audit.verdicts) == {"rephrasing"}
        assert {one["directory"] for one in audit.report["request"]["models"].values()} == {"a model in memory"}
        assert all(audit.summary)
        assert "rephrasing: " in str(audit)
        audit.save(tmp_path / "report")
        assert chip.Audit.load(tmp_path / "report").report == json.loads(json.dumps(audit.report))
        with pytest.raises(chip.ChipError, match="holds a report"):
            audit.save(tmp_path / "report")

    def test_a_file_that_is_no_report_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "report.json").write_text('{"format": "chip-audit-1"}')
        with pytest.raises(chip.ChipError, match="no report that chip wrote"):
            chip.Audit.load(tmp_path)


class TestBadInput:
    @pytest.mark.parametrize(
        ("records", "message"),
        [
            ([], "holds no records"),
            (["patient_1"], "line 1: a record is a chip.Record or a mapping, not str"),
            ([{"path": ["a"], "question": "q", "answer": ""}], 'line 1: "answer" must be text'),
            ([{"path": [], "question": "q", "answer": "a"}], 'line 1: "path" must be a list'),
            ([{"path": ["a"], "question": "q", "answer": "a", "image": "nowhere.png"}], "nowhere.png is not there"),
            ([{"path": ["a"], "question": "q", "answer": "a", "image": 3}], "not int"),
            ([{"path": ["a"], "question": "q", "answer": "a", "images": 3}], '"images" is a list'),
            ([{"path": ["a"], "question": "q", "answer": "a", "image": "x" * 5000}], "cannot be that of a file"),
            ([{"path": "abc", "question": "q", "answer": "a"}], '"path" must be a list'),
            (5, "records are a data directory or a list of them, not int"),
            ([{"path": ["a"], "question": "q", "answer": "a", "image": "a", "images": ["b"]}], "keep one of them"),
            ([chip.Record(("a", "b", "c"), "q", "a")], "only 2 levels"),
        ],
    )
    def test_a_record_is_named_by_its_place(self, llava_directory: Path, records: Any, message: str) -> None:
        with pytest.raises(chip.ChipError, match=message):
            chip.edit(llava_directory, records, ["a"], levels=("patient", "study"))

    def test_what_does_not_go_together_is_said(
        self, llava_directory: Path, hospital_data: Path, model: PreTrainedModel, processor: Any, tmp_path: Path
    ) -> None:
        asked: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
            ((model, hospital_data, FORGET), {}, "needs its processor"),
            (
                (model, hospital_data, FORGET),
                {"processor": processor, "out": tmp_path / "o"},
                "out is about a checkpoint",
            ),
            ((model, hospital_data, FORGET), {"processor": processor.tokenizer}, "has no image processor"),
            ((torch.nn.Linear(1, 1), hospital_data, FORGET), {}, "not Linear"),
            ((llava_directory, hospital_data, "patient_1"), {}, "forget is a list of nodes"),
            ((model, hospital_data, FORGET), {"processor": "x"}, "needs its processor"),
            ((llava_directory, hospital_data, FORGET), {"levels": ("a",)}, "dataset.json"),
            ((llava_directory, [chip.Record(("a",), "q", "a")], ["a"]), {"levels": "patient"}, "levels are a list"),
        ]
        for arguments, options, message in asked:
            with pytest.raises(UsageError if "image processor" not in message else chip.ChipError, match=message):
                chip.edit(*arguments, **options)
        assert not list(tmp_path.iterdir())


class TestTypes:
    @pytest.mark.parametrize(
        ("options", "request_type", "ours"),
        [
            (SettingOptions, chip.EditSettings, set[str]()),
            (
                EditOptions,
                EditRequest,
                {"model", "data", "forget", "settings", "out", "statistics", "fixed"},
            ),
            (CollectOptions, CollectRequest, {"model", "data", "out"}),
            (AuditOptions, AuditRequest, {"base", "edited", "data", "forget", "out", "force", "judge"}),
        ],
    )
    def test_every_flag_is_a_keyword(self, options: type, request_type: type, ours: set[str]) -> None:
        """Of its own type but for paths, which any path will do for, and for tuples, which any sequence will."""
        assert dataclasses.is_dataclass(request_type)
        wanted = {name: one for name, one in get_type_hints(request_type).items() if name not in ours}
        settings = {} if options is not EditOptions else get_type_hints(SettingOptions)
        found = get_type_hints(options)
        assert found.keys() == {**wanted, **settings}.keys()
        loose = _PATHS | _SEVERAL | {"gold"}
        assert {name: found[name] for name in wanted if name not in loose} == {
            name: one for name, one in wanted.items() if name not in loose
        }

    def test_a_path_may_be_text_and_several_a_list(
        self, llava_directory: Path, hospital_data: Path, tmp_path: Path
    ) -> None:
        out, receipt = str(tmp_path / "out"), str(tmp_path / "receipt.json")
        asked: dict[str, Any] = {**UNASKED, "forgotten_nodes": ["patient_3"]}
        edit = chip.edit(str(llava_directory), str(hospital_data), FORGET, out=out, receipt=receipt, **asked)
        assert edit.receipt == Path(receipt)
        with pytest.raises(UsageError, match="forgotten_nodes takes several"):
            chip.edit(llava_directory, hospital_data, FORGET, forgotten_nodes="patient_3")

    def test_a_keyword_that_is_none_is_said_with_what_it_may_have_been(self, llava_directory: Path) -> None:
        with pytest.raises(UsageError, match="no keyword is called 'stregth'; did you mean strength"):
            chip.edit(llava_directory, "records", FORGET, stregth=1.0)  # type: ignore[call-arg]
        with pytest.raises(UsageError, match="'trials' is a field of TuningSettings: give tuning="):
            chip.edit(llava_directory, "records", FORGET, trials=3)  # type: ignore[call-arg]

    def test_importing_chip_loads_neither_torch_nor_numpy(self) -> None:
        code = "import sys, chip; print(sorted({'torch', 'numpy', 'transformers', 'PIL'} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_what_is_public_is_what_is_named(self) -> None:
        assert all(hasattr(chip, name) for name in chip.__all__)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = chip.nothing
