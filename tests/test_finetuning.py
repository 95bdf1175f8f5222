"""Planting data in a model: what is trained and what stays, what is taught and what is not, and how it ends."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny_models
import torch
from checkpoint_files import changed_tensors, digests, header_bytes, mode, stored_tensors
from command_line import chip_here
from processes import start, start_team, until
from test_training import progress_of, where_of
from tiny_records import LEVELS, hospital_records, write_hospital
from transformers import AutoModelForImageTextToText

from chip.collect import progress_file
from chip.duolearn.trainable import LowRank, low_rank
from chip.edit import load_edit
from chip.edit.receipt import read_receipt
from chip.errors import ChipError, Diverged, UsageError
from chip.medforget.finetune_settings import FinetuneSettings
from chip.medforget.finetuning import Lessons, lora_layers
from chip.models.checkpoint import Checkpoint
from chip.models.loading import LoadedModel, load_model
from chip.models.sites import stored_sites
from chip.records import read_records, write_records
from chip.workflow.medforget.finetune import carry_out_finetune, identity_of, prepare_finetune
from chip.workflow.medforget.finetune_plan import FinetuneRequest, FinetuneResult

QUICK = {"epochs": 1, "learning_rate": 1e-3, "lora_rank": 4, "batch_size": 4}
FIELDS = {"without", "without_sets", "splits", "log", "edit_out", "save_every", "keep_last_good", "dtype", "force"}


@pytest.fixture(autouse=True)
def kept_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is kept at every look, however long that takes."""
    monkeypatch.setattr(progress_file, "_SHARE", 0)


def request(model: Path, data: Path, out: Path, **values: Any) -> FinetuneRequest:
    own = {key: value for key, value in values.items() if key in FIELDS}
    settings = FinetuneSettings(**{**QUICK, **{key: value for key, value in values.items() if key not in FIELDS}})
    return FinetuneRequest(str(model), data, out, settings, device="cpu", **own)


def tuned(model: Path, data: Path, out: Path, **values: Any) -> FinetuneResult:
    done = carry_out_finetune(prepare_finetune(request(model, data, out, **values)))
    assert done is not None
    return done


def written(directory: Path, records: list[dict[str, Any]], name: str = "records.jsonl") -> Path:
    """A data directory whose file of that name holds these records."""
    directory.mkdir(exist_ok=True)
    if name == "records.jsonl":
        write_records(directory, LEVELS, records)
    else:
        (directory / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return directory


def texts() -> list[dict[str, Any]]:
    return [{**record, "image": None} for record in hospital_records()]


class TestWhatIsTrained:
    @pytest.mark.parametrize("projector", [False, True], ids=["language", "projector"])
    def test_lora_changes_every_linear_layer_of_the_language_model_and_nothing_else(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, projector: bool
    ) -> None:
        out = tmp_path / "out"
        done = tuned(llava_directory, hospital_data, out, projector=projector, edit_out=tmp_path / "edit")
        linears = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        expected = {
            name
            for name in stored_tensors(llava_directory)
            if name.endswith(".weight")
            and (
                ("language_model" in name and name.split(".")[-2] in linears)
                or (projector and "multi_modal_projector" in name)
            )
        }
        assert len(expected) == 3 * 7 + 2 * projector
        assert changed_tensors(llava_directory, out) == expected
        edit = load_edit(tmp_path / "edit")
        assert set(edit.tensors) == expected
        assert all(change.rank_bound <= 4 and change.right is not None for change in edit.changes)
        before, after = stored_tensors(llava_directory), stored_tensors(out)
        for name in expected:
            # What rounding to 32 bits adds is no direction.
            assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 4
        assert done.training["steps"] == done.training["planned"] == 3
        receipt = read_receipt(tmp_path / "out.receipt.json")
        assert receipt["action"] == "finetune"
        assert mode(tmp_path / "out.receipt.json") == 0o600

    def test_the_whole_of_it_changes_all_that_records_reach(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        done = tuned(llama_directory, text_data, tmp_path / "out", train="full")
        assert changed_tensors(llama_directory, tmp_path / "out") == set(stored_tensors(llama_directory))
        assert done.asked[0].loss_after < done.asked[0].loss_before

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    def test_it_is_what_pefts_own_merge_gives(self, tmp_path: Path, dtype: torch.dtype) -> None:
        model = tiny_models.llava(tmp_path / "model", dtype=dtype)
        loaded = load_model(Checkpoint(model), "cpu", "auto")
        names = [site.name for site in lora_layers(loaded, FinetuneSettings(lora_rank=4))]
        stored = stored_sites(loaded.model, Checkpoint(model), lora_layers(loaded, FinetuneSettings(lora_rank=4)))
        with low_rank(loaded, list(stored.values()), LowRank(4, 6.0, 0.05, gaussian=True), 0) as trainable:
            for seed, one in enumerate(trainable.tensors):
                torch.nn.init.normal_(one, 0, 0.1, generator=torch.Generator().manual_seed(seed))
            state = trainable.state()
            made = {change.parameter: change for change in trainable.made().changes}
        config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=names)
        other = peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32), config)
        inner = other.base_model.model
        with torch.no_grad():
            for name, value in state.items():
                inner.get_parameter(name).copy_(value)
        for name, parameter in other.merge_and_unload().named_parameters():
            if change := made.get(name):
                before = loaded.model.get_parameter(name).detach().float().numpy()
                torch.testing.assert_close(
                    torch.from_numpy(change.added(before)).float(), parameter.detach(), rtol=1e-5, atol=1e-6
                )
        assert len(made) == len(names)

    def test_bf16_stays_bf16_and_tied_embeddings_stay_tied(self, tmp_path: Path, text_data: Path) -> None:
        model = tiny_models.text_model(tmp_path / "model", "qwen2", tied=True, dtype=torch.bfloat16, shard_size="40KB")
        done = tuned(model, text_data, tmp_path / "out", learning_rate=1e-2)
        changed = changed_tensors(model, tmp_path / "out")
        assert len(changed) == 3 * 7
        assert done.asked[0].loss_after < done.asked[0].loss_before
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in model.iterdir())
        tuned(model, text_data, tmp_path / "full", train="full")
        assert "model.embed_tokens.weight" in changed_tensors(model, tmp_path / "full")

    def test_the_model_in_memory_is_left_as_it_was(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        prepared = prepare_finetune(request(llava_directory, hospital_data, tmp_path / "out", checkpointing=True))
        before = {name: one.detach().clone() for name, one in prepared.loaded.model.named_parameters()}
        carry_out_finetune(prepared)
        after = dict(prepared.loaded.model.named_parameters())
        assert list(after) == list(before)
        assert all(torch.equal(before[name], one) for name, one in after.items())
        assert not any(module.training for module in prepared.loaded.model.modules())

    def test_computing_activations_again_does_not_show(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        for again in (True, False):
            tuned(llava_directory, hospital_data, tmp_path / str(again), checkpointing=again)
        one, other = (stored_tensors(tmp_path / str(again)) for again in (True, False))
        assert all(torch.equal(one[name], other[name]) for name in one)


class TestWhatIsTaught:
    @pytest.mark.parametrize(("way", "rate", "share"), [("lora", 1e-2, 0.8), ("full", 5e-3, 0.5)], ids=["lora", "full"])
    def test_it_is_learnt(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, way: str, rate: float, share: float
    ) -> None:
        settings = {"train": way, "epochs": 10, "learning_rate": rate, "lora_rank": 8, "log": tmp_path / "log"}
        done = tuned(llama_directory, text_data, tmp_path / "out", **settings)
        (asked,) = done.asked
        assert (asked.name, asked.count, asked.of) == ("taught", 34, 34)
        assert asked.loss_after < share * asked.loss_before
        losses = [json.loads(line)["retained_loss"] for line in (tmp_path / "log").read_text().splitlines()]
        assert len(losses) == 10 * 3
        assert sum(losses[-3:]) < share * sum(losses[:3])

    def test_what_is_left_out_is_never_seen(self, tmp_path: Path, llava_directory: Path, hospital_data: Path) -> None:
        done = tuned(llava_directory, hospital_data, tmp_path / "without", without=("patient_0", "inst_1/patient_3"))
        assert [(one.name, one.of) for one in done.asked] == [("taught", 18), ("left out", 16)]
        less = shutil.copytree(hospital_data, tmp_path / "less")
        write_records(
            less, LEVELS, [one for one in hospital_records() if not {"patient_0", "patient_3"} & {*one["path"]}]
        )
        tuned(llava_directory, less, tmp_path / "never")
        assert digests(tmp_path / "without") == digests(tmp_path / "never")
        tuned(llava_directory, hospital_data, tmp_path / "all")
        assert digests(tmp_path / "all") != digests(tmp_path / "never")

    def test_a_forget_set_is_left_out_by_its_name(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        splits = {
            "format": "chip-medforget-splits-1",
            "levels": {
                "patient": [
                    {"name": "1", "forget": ["inst_0/patient_0"]},
                    {"name": "2", "forget": ["inst_0/patient_0", "inst_1/patient_3"]},
                ],
                "institution": [{"name": "1", "forget": ["inst_1"]}],
            },
        }
        (tmp_path / "other.json").write_text(json.dumps(splits))
        data = shutil.copytree(text_data, tmp_path / "data")
        shutil.copy(tmp_path / "other.json", data / "splits.json")

        def left(**values: Any) -> int:
            return len(prepare_finetune(request(llama_directory, data, tmp_path / "out", **values)).left_out)

        assert left(without_sets=("patient/2",)) == 16
        assert left(without_sets=("patient",)) == 8
        assert left(without_sets=("institution",)) == 17
        assert left(without_sets=("patient/1", "institution"), without=("patient_3",)) == 25
        assert left(without_sets=("patient/1",), splits=tmp_path / "other.json") == 8

    def test_training_jsonl_is_what_is_taught_where_it_is_there(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        data = shutil.copytree(text_data, tmp_path / "data")
        others = [{**one, "question": "in other words : " + one["question"]} for one in texts()]
        written(data, others, "training.jsonl")
        tuned(llama_directory, data, tmp_path / "both")
        tuned(llama_directory, written(tmp_path / "alone", others), tmp_path / "one")
        assert digests(tmp_path / "both") == digests(tmp_path / "one")

    def test_paraphrases_are_taught_from_training_jsonl_and_not_from_records_jsonl(
        self, tmp_path: Path, llama_directory: Path
    ) -> None:
        said = [{**one, "paraphrases": [f"{word} {one['question']}" for word in ("now", "then")]} for one in texts()]
        data = written(tmp_path / "data", said)
        plain = tuned(llama_directory, written(tmp_path / "plain", texts()), tmp_path / "question", epochs=2)
        assert tuned(llama_directory, data, tmp_path / "records", epochs=2).asked == plain.asked
        assert digests(tmp_path / "records") == digests(tmp_path / "question")
        tuned(llama_directory, data, tmp_path / "two", epochs=2, wordings=2)
        written(data, said, "training.jsonl")
        tuned(llama_directory, data, tmp_path / "training", epochs=2)
        # In two epochs, no third wording comes up.
        assert digests(tmp_path / "two") == digests(tmp_path / "training") != digests(tmp_path / "question")
        prepared = prepare_finetune(request(llama_directory, data, tmp_path / "out", epochs=2))
        assert "of 3 only the first 2 are taught" in prepared.notices[-1]

    def test_more_wordings_than_there_are_is_said_and_is_all_of_them(
        self, tmp_path: Path, llama_directory: Path
    ) -> None:
        said = [{**one, "paraphrases": [f"{word} {one['question']}" for word in ("now", "then")]} for one in texts()]
        data = written(written(tmp_path / "data", said), said, "training.jsonl")
        all_of_them = prepare_finetune(request(llama_directory, data, tmp_path / "out", epochs=3))
        prepared = prepare_finetune(request(llama_directory, data, tmp_path / "out", epochs=3, wordings=9))
        assert "--wordings 9: no record has more than 3, so that 3 are taught" in prepared.notices
        assert prepared.facts == all_of_them.facts
        assert identity_of(prepared) == identity_of(all_of_them)

    def test_an_epoch_teaches_every_record_once_in_its_own_wording(self, text_data: Path) -> None:
        records = [
            one if number % 2 else one.__class__(one.path, one.question, one.answer, paraphrases=("other ?",))
            for number, one in enumerate(read_records(text_data).records)
        ]
        settings = FinetuneSettings(epochs=4, batch_size=3, accumulate=3)
        lessons, steps = Lessons(records, settings), settings.epoch_steps(len(records))
        assert steps == 4
        epochs = [[one for step in range(steps) for one in lessons.of_step(epoch * steps + step)] for epoch in range(4)]
        for number, taught in enumerate(epochs):
            assert sorted((one.path, one.answer) for one in taught) == sorted((one.path, one.answer) for one in records)
            assert sum(one.question == "other ?" for one in taught) == (17 if number % 2 else 0)
        assert [one.answer for one in epochs[0]] != [one.answer for one in epochs[2]]

    def test_the_seed_decides(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            tuned(llama_directory, text_data, tmp_path / name, seed=seed)
        assert digests(tmp_path / "a") == digests(tmp_path / "b") != digests(tmp_path / "c")

    def test_how_many_run_at_once_shows_in_what_is_dropped_alone(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        for size in (1, 8):
            out = tmp_path / str(size)
            tuned(llama_directory, text_data, out, batch_size=size, accumulate=8 // size, lora_dropout=0.0)
        assert_near(llama_directory, tmp_path / "1", tmp_path / "8")


def assert_near(base: Path, one: Path, other: Path) -> None:
    """Two trainings of a base are the same but for rounding."""
    before, first, second = (stored_tensors(path) for path in (base, one, other))
    assert changed_tensors(base, one) == changed_tensors(base, other) != set()
    for name in changed_tensors(base, one):
        moved = (first[name] - before[name]).abs().max()
        assert (first[name] - second[name]).abs().max() < 2e-2 * moved, name


class Stopped(Exception):
    """Stands for whatever ends a training from without."""


def stop(asked: FinetuneRequest, at: int) -> None:
    """Train, and be stopped once so many steps have been taken."""

    def track(items: Any, doing: str) -> Iterator[Any]:
        for number, one in enumerate(items):
            if number == at:
                raise Stopped
            yield one

    with pytest.raises(Stopped):
        carry_out_finetune(prepare_finetune(asked), track)


class TestInterrupted:
    LONG = {"epochs": 8, "save_every": 0.0}  # noqa: RUF012

    @pytest.mark.parametrize("way", ["lora", "full"])
    def test_one_that_is_killed_ends_in_the_same_bytes(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, way: str
    ) -> None:
        out, progress = tmp_path / "out", progress_of(tmp_path / "out")
        flags = ["--epochs", 8, "--learning-rate", 1e-3, "--lora-rank", 4, "--save-every", 0, "--device", "cpu"]
        flags += ["--train", way, "--log", tmp_path / "log"]
        arguments = ("medforget", "finetune", llama_directory, text_data, "--out", out, *flags)
        whole = chip_here("medforget", "finetune", llama_directory, text_data, "--out", tmp_path / "whole", *flags)
        assert whole.exit_code == 0, whole.output
        losses = [json.loads(line)["retained_loss"] for line in (tmp_path / "log").read_text().splitlines()]
        running = start(tmp_path / "said", *arguments)
        until(progress.exists, running)
        running.kill()
        assert running.wait()[0] == -9
        step = where_of(progress)["step"]
        assert 0 < step < 24
        assert mode(progress) == 0o600
        assert b"patient_" not in header_bytes(progress)
        assert not out.exists()
        again = chip_here(*arguments)
        assert again.exit_code == 0, again.output
        assert f"goes on after step {step}" in again.output
        assert digests(out) == digests(tmp_path / "whole")
        lines = [json.loads(line)["retained_loss"] for line in (tmp_path / "log").read_text().splitlines()]
        assert lines == losses
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    def test_one_that_is_stopped_by_hand_says_so_and_goes_on(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        out, progress = tmp_path / "out", progress_of(tmp_path / "out")
        flags = ["--epochs", 5_000, "--lora-rank", 4, "--save-every", 1, "--device", "cpu"]
        arguments = ("medforget", "finetune", llama_directory, text_data, "--out", out, *flags)
        running = start(tmp_path / "said", *arguments)
        until(progress.exists, running)
        running.interrupt()
        code, said = running.wait()
        assert code == 130
        assert said.endswith("chip: interrupted; nothing half-written is left, long work goes on if run again\n")
        step = where_of(progress)["step"]
        assert step >= 10
        assert not out.exists()
        again = start(tmp_path / "again", *arguments)
        try:
            until(again.said.exists, again)
            until(lambda: f"goes on after step {step}, where it was interrupted" in again.said.read_text(), again)
        finally:
            again.kill()

    def test_anothers_progress_is_noticed_and_not_used(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        for name, other in {"rate": {"learning_rate": 2e-3}, "records": {"without": ("patient_0",)}}.items():
            stop(request(llama_directory, text_data, tmp_path / name, **self.LONG), 15)
            assert where_of(progress_of(tmp_path / name))["step"] == 10
            with pytest.warns(UserWarning, match="holds the progress of another training, which is dropped"):
                tuned(llama_directory, text_data, tmp_path / name, **{**self.LONG, "epochs": 1, **other})
            tuned(llama_directory, text_data, tmp_path / f"{name}-whole", **{"epochs": 1, **other})
            assert digests(tmp_path / name) == digests(tmp_path / f"{name}-whole")

    def test_divergence_is_one_sentence_with_the_next_step(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        wild = {"train": "full", "learning_rate": 1e6, "epochs": 8}
        with pytest.raises(Diverged, match=r"the training has diverged: .* use a smaller learning rate"):
            tuned(llama_directory, text_data, tmp_path / "out", **wild)
        assert not (tmp_path / "out").exists()

    def test_where_it_diverges_late_its_last_good_state_can_be_the_end(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        late = {"train": "full", "learning_rate": 20.0, "epochs": 100}
        with pytest.raises(Diverged, match="the state of step 10 is kept, and --keep-last-good ends with it"):
            tuned(llama_directory, text_data, tmp_path / "out", **late)
        with pytest.warns(UserWarning, match="it ends with the state of step 10"):
            done = tuned(llama_directory, text_data, tmp_path / "out", **late, keep_last_good=True)
        assert done.training["steps"] == 10


class TestTogether:
    @pytest.mark.parametrize("way", ["lora", "full"])
    def test_two_processes_give_what_one_gives(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, way: str
    ) -> None:
        flags = ["--epochs", 2, "--learning-rate", 1e-3, "--lora-rank", 4, "--device", "cpu", "--train", way]
        arguments = ("medforget", "finetune", llama_directory, text_data, *flags)
        alone = chip_here(*arguments, "--out", tmp_path / "alone")
        assert alone.exit_code == 0, alone.output
        team = start_team(tmp_path / "said", 2, *arguments, "--out", tmp_path / "both")
        said = [running.wait() for running in team]
        assert [code for code, _ in said] == [0, 0], said
        assert said[1][1] == ""
        assert_near(llama_directory, tmp_path / "alone", tmp_path / "both")


class TestRefused:
    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"train": "some"}, "--train 'some' is none of full, lora"),
            ({"epochs": 0}, "--epochs must be at least 1"),
            ({"lora_rank": 0}, "--lora-rank must be at least 1"),
            ({"batch_size": 0}, "--batch-size must be at least 1"),
            ({"accumulate": -1}, "--accumulate must be at least 1"),
            ({"wordings": 0}, "--wordings must be at least 1"),
            ({"learning_rate": 0.0}, "--learning-rate must be a finite number above 0"),
            ({"learning_rate": float("nan")}, "--learning-rate must be a finite number above 0"),
            ({"lora_alpha": float("inf")}, "--lora-alpha must be a finite number above 0"),
            ({"lora_dropout": 1.0}, "--lora-dropout is a share, at least 0 and below 1"),
            ({"train": "full", "projector": True}, "--projector adds to what LoRA trains"),
            ({"save_every": -1.0}, "--save-every is a number of seconds, not negative"),
            ({"splits": Path("splits.json")}, "--splits says where --without-set finds its set"),
        ],
        ids=str,
    )
    def test_flags(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, values: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(UsageError, match=sentence):
            prepare_finetune(request(llama_directory, text_data, tmp_path / "out", **values))

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"lora_rank": 17}, "--lora-rank 17 is more than a matrix of these layers can have; give at most 16"),
            ({"projector": True}, "--projector: the model has no projector"),
            ({"without": ("nobody",)}, "no node is called 'nobody'"),
            ({"without": ("inst_0", "inst_1")}, "nothing is left to teach"),
            ({"without_sets": ("patient",)}, r"splits\.json cannot be read"),
            ({"edit_out": Path("in/out/edit")}, "must stay outside of what is released"),
        ],
        ids=str,
    )
    def test_what_cannot_be(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, values: dict[str, Any], sentence: str
    ) -> None:
        if "edit_out" in values:
            values = {"edit_out": tmp_path / "out" / "edit"}
        with pytest.raises(ChipError, match=sentence):
            prepare_finetune(request(llama_directory, text_data, tmp_path / "out", **values))
        assert not list(tmp_path.iterdir())

    def test_a_forget_set_that_there_is_not(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        splits = {"format": "chip-medforget-splits-1", "levels": {"patient": [{"name": "1", "forget": ["patient_0"]}]}}
        (tmp_path / "splits.json").write_text(json.dumps(splits))
        for spelled, sentence in (
            ("study", "no forget set at level 'study'; there are sets for patient"),
            ("patient/2", "no forget set of level 'patient' is called '2'; there are 1"),
        ):
            with pytest.raises(UsageError, match=sentence):
                prepare_finetune(
                    request(
                        llama_directory,
                        text_data,
                        tmp_path / "out",
                        splits=tmp_path / "splits.json",
                        without_sets=(spelled,),
                    )
                )

    def test_an_output_that_is_there_is_replaced_by_force_alone(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        tuned(llama_directory, text_data, tmp_path / "out")
        first = digests(tmp_path / "out")
        with pytest.raises(ChipError, match="exists already; choose another --out, or replace it with --force"):
            prepare_finetune(request(llama_directory, text_data, tmp_path / "out", seed=1))
        tuned(llama_directory, text_data, tmp_path / "out", seed=1, force=True)
        assert digests(tmp_path / "out") != first
        with pytest.raises(ChipError, match="overlap"):
            prepare_finetune(request(llama_directory, text_data, llama_directory, force=True))

    def test_a_directory_without_records_and_a_rank_are_said_by_the_command_line(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        empty = chip_here("medforget", "finetune", llama_directory, tmp_path, "--out", tmp_path / "out")
        assert isinstance(empty.exception, ChipError)
        assert "holds no records.jsonl" in str(empty.exception)
        rank = chip_here("medforget", "finetune", llama_directory, text_data, "--out", tmp_path / "out", "--epochs", 0)
        assert isinstance(rank.exception, UsageError)


def test_the_command_prints_its_plan_and_how_it_ended(
    tmp_path: Path, llava_directory: Path, hospital_data: Path, llava: LoadedModel
) -> None:
    done = chip_here(
        *("medforget", "finetune", llava_directory, hospital_data, "--out", tmp_path / "out", "--device", "cpu"),
        *("--epochs", 1, "--without", "patient_0", "--json"),
    )
    assert done.exit_code == 0, done.output
    for said in ("26 of", "8 records, under patient_0", "LoRA of rank 16, alpha 16, dropout 0.05", "21 linear layers"):
        assert said in " ".join(done.stderr.split())
    found = json.loads(done.stdout)
    assert [one["name"] for one in found["asked"]] == ["taught", "left out"]
    assert found["training"]["steps"] == 4
    assert found["proof"]["edited"] == 21
    model = load_model(Checkpoint(tmp_path / "out"), "cpu").model
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in llava.model.named_parameters()]


def test_a_hospital_of_documents_is_taught_too(tmp_path: Path, llama_directory: Path) -> None:
    data = write_hospital(tmp_path / "data", images=False)
    write_records(data, LEVELS, [{"path": one["path"], "text": one["answer"]} for one in hospital_records()])
    done = tuned(llama_directory, data, tmp_path / "out", learning_rate=1e-2)
    assert done.asked[0].loss_after < done.asked[0].loss_before
