"""Methods that train: the model is as before, an interruption does not show, divergence writes nothing, and what comes
of a training is an edit like any other."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from checkpoint_files import as_bytes, changed_tensors, header_bytes, mode, stored_tensors
from command_line import chip_here
from edits import request, run_edit
from processes import start, until
from torch import nn

from chip.collect import progress_file
from chip.edit import load_edit
from chip.errors import ChipError, Diverged
from chip.measure import teacher_forced
from chip.models.loading import LoadedModel
from chip.records import read_records
from chip.settings import CollectSettings
from chip.workflow import carry_out, prepare_edit

FULL = {"method": "npo", "steps": 3, "learning_rate": 1e-3}
LORA = {**FULL, "train": "lora", "lora_rank": 2}
PLAIN = {"method": "duolearn", "dp": False, "geometric_steps": 2, "steps": 3, "step_records": 4, "trust": 0.05}
PRIVATE = {**PLAIN, "dp": True}
WAYS: dict[str, dict[str, Any]] = {"full": FULL, "lora": LORA, "plain": PLAIN, "private": PRIVATE}
OFTEN = CollectSettings(save_every=0.0)


@pytest.fixture(autouse=True)
def kept_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is kept at every look, however long that takes; processes forked from this one do as it does."""
    monkeypatch.setattr(progress_file, "_SHARE", 0)


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that a training may leave behind in a model: modules in their order, with everything they hold."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in ("_parameters", "_buffers", "_modules")}
        found[name] = (type(module), list(module._modules), {key: _plain(value) for key, value in own.items()})
    for name, parameter in model.named_parameters(remove_duplicate=False):
        bits = as_bytes(parameter.detach()).numpy().tobytes()
        found[f"{name} (parameter)"] = (bits, parameter.dtype, parameter.requires_grad, parameter.grad, vars(parameter))
    for name, buffer in model.named_buffers():
        found[f"{name} (buffer)"] = (as_bytes(buffer).numpy().tobytes(), buffer.dtype)
    return found


def warm_up(loaded: LoadedModel, data: Path) -> None:
    """Ask once: transformers hooks itself into a model at its first pass."""
    teacher_forced(loaded, [loaded.prompts.encode(record) for record in read_records(data).records[:3]], batch_size=3)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def edit_bytes(out: Path) -> bytes:
    return out.with_name(out.name + ".edit.safetensors").read_bytes()


def progress_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.chip-training")


def where_of(progress: Path) -> dict[str, Any]:
    """How far a training has come, read in one go, since it may be replaced at any time."""
    header = json.loads(header_bytes(progress)[8:])["__metadata__"]["chip"]
    found: dict[str, Any] = json.loads(header)["where"]
    return found


def hidden(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("."))


class TestTheModel:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    @pytest.mark.parametrize("way", ["full", "lora", "private"])
    def test_it_is_as_before_bit_for_bit(
        self, tmp_path: Path, hospital_data: Path, way: str, dtype: torch.dtype
    ) -> None:
        model = tiny_models.llava(tmp_path / "model", dtype=dtype)
        asked = request(model, hospital_data, tmp_path / "out", "patient_0", **WAYS[way])
        prepared = prepare_edit(asked)
        warm_up(prepared.loaded, hospital_data)
        before = state_of(prepared.loaded.model)
        carry_out(prepared)
        assert state_of(prepared.loaded.model) == before
        changed = changed_tensors(model, tmp_path / "out")
        assert changed
        assert way == "full" or all("down_proj" in name or "o_proj" in name for name in changed)

    def test_it_is_as_before_where_a_training_diverges(self, llama_directory: Path, text_data: Path) -> None:
        for way in (FULL, PLAIN):
            asked = request(llama_directory, text_data, None, "patient_0", **{**way, "steps": 12, "learning_rate": 1e6})
            prepared = prepare_edit(asked)
            warm_up(prepared.loaded, text_data)
            before = state_of(prepared.loaded.model)
            with pytest.raises(Diverged):
                carry_out(prepared)
            assert state_of(prepared.loaded.model) == before

    @pytest.mark.parametrize("way", WAYS)
    def test_the_same_settings_give_the_same_bytes(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, way: str
    ) -> None:
        for name in ("a", "b"):
            run_edit(llama_directory, text_data, tmp_path / name, "patient_0", **WAYS[way])
        run_edit(llama_directory, text_data, tmp_path / "c", "patient_0", **WAYS[way], seed=1)
        assert edit_bytes(tmp_path / "a") == edit_bytes(tmp_path / "b") != edit_bytes(tmp_path / "c")

    @pytest.mark.parametrize("way", ["full", "lora", "plain"])
    def test_how_many_records_run_at_once_does_not_show(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, way: str
    ) -> None:
        one = run_edit(llama_directory, text_data, tmp_path / "one", "patient_0", **WAYS[way], batch_size=1).edit
        more = run_edit(llama_directory, text_data, tmp_path / "more", "patient_0", **WAYS[way], batch_size=16).edit
        for mine, theirs in zip(one.changes, more.changes, strict=True):
            apart = abs(mine.delta() - theirs.delta()).max()
            # AdamW's first steps are of one length whatever the gradient's: where that is rounding noise, so are they.
            assert apart < 2e-2 * abs(theirs.delta()).max() or mine.tensor.endswith("bias")

    @pytest.mark.parametrize("way", ["full", "lora"])
    def test_tied_embeddings_and_several_shards(self, tmp_path: Path, text_data: Path, way: str) -> None:
        model = tiny_models.text_model(tmp_path / "model", "qwen2", tied=True, shard_size="40KB")
        assert len(list(model.glob("*.safetensors"))) > 1
        assert "lm_head.weight" not in stored_tensors(model)
        edited = run_edit(model, text_data, tmp_path / "out", "patient_0", **WAYS[way])
        assert edited.changed == edited.planned
        assert ("model.embed_tokens.weight" in edited.planned) == (way == "full")


class TestInterrupted:
    def arguments(self, model: Path, data: Path, out: Path, *flags: Any) -> tuple[Any, ...]:
        given = ("edit", model, "--data", data, "--forget", "patient_0", "--out", out, "--no-verify", "--device", "cpu")
        return (*given, "--edit-out", out.with_name(out.name + ".edit.safetensors"), "--save-every", 0, *flags)

    @pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
    def test_duolearn_that_is_killed_in_each_strategy_ends_in_the_same_bytes(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, private: bool
    ) -> None:
        out, progress = tmp_path / "out", progress_of(tmp_path / "out")
        flags = ["--method", "duolearn", "--no-early-stop", "--geometric-steps", 20, "--steps", 20, "--trust", 0.05]
        flags += ["--step-records", 2, "--dp" if private else "--no-dp"]
        arguments = self.arguments(llama_directory, text_data, out, *flags)
        whole = chip_here(*self.arguments(llama_directory, text_data, tmp_path / "whole", *flags))
        assert whole.exit_code == 0, whole.output

        def reached(phase: str) -> bool:
            return progress.exists() and where_of(progress)["phase"] == phase

        for phase in ("geometry", "tokens"):
            running = start(tmp_path / f"said-{phase}", *arguments)
            until(lambda phase=phase: reached(phase), running)  # type: ignore[misc]
            running.kill()
            assert running.wait()[0] == -9
            where = where_of(progress)
            assert where["phase"] == phase
            assert 0 < where["step"] < 40
            assert mode(progress) == 0o600
            assert not out.exists()
        last = chip_here(*arguments)
        assert last.exit_code == 0, last.output
        assert f"goes on after step {where['step']}" in last.output
        assert edit_bytes(out) == edit_bytes(tmp_path / "whole")
        assert not hidden(tmp_path)

    @pytest.mark.parametrize("way", ["full", "lora"])
    def test_a_baseline_that_is_stopped_ends_in_the_same_bytes(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, way: str
    ) -> None:
        settings = {**WAYS[way], "steps": 25}
        run_edit(llama_directory, text_data, tmp_path / "whole", "patient_0", **settings)
        stop(llama_directory, text_data, tmp_path / "out", 17, **settings)
        assert hidden(tmp_path) == [".out.chip-training"]
        assert mode(progress_of(tmp_path / "out")) == 0o600
        assert where_of(progress_of(tmp_path / "out"))["step"] == 10
        assert b"patient_0" not in header_bytes(progress_of(tmp_path / "out"))
        with pytest.warns(UserWarning, match="goes on after step 10"):
            run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **settings, collecting=OFTEN)
        assert edit_bytes(tmp_path / "out") == edit_bytes(tmp_path / "whole")
        assert not hidden(tmp_path)

    def test_a_training_that_ended_is_not_taken_again_where_writing_was_interrupted(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        run_edit(llama_directory, text_data, tmp_path / "whole", "patient_0", **FULL)
        stop(llama_directory, text_data, tmp_path / "out", 0, "asking the model after", **FULL, verify=True)
        assert not (tmp_path / "out").exists()
        assert where_of(progress_of(tmp_path / "out"))["step"] == 3
        with pytest.warns(UserWarning, match="goes on after step 3"):
            run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **FULL, verify=True)
        assert edit_bytes(tmp_path / "out") == edit_bytes(tmp_path / "whole")
        assert not hidden(tmp_path)

    def test_another_requests_progress_is_dropped_with_a_notice(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        settings = {**FULL, "steps": 15}
        stop(llama_directory, text_data, tmp_path / "out", 12, **settings)
        with pytest.warns(UserWarning, match="holds the progress of another training, which is dropped"):
            run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **settings, beta=0.2)
        run_edit(llama_directory, text_data, tmp_path / "whole", "patient_0", **settings, beta=0.2)
        assert edit_bytes(tmp_path / "out") == edit_bytes(tmp_path / "whole")
        assert not hidden(tmp_path)

    @pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "header"])
    def test_damaged_progress_is_one_clear_error(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, damage: str
    ) -> None:
        settings = {**FULL, "steps": 15}
        stop(llama_directory, text_data, tmp_path / "out", 12, **settings)
        progress = progress_of(tmp_path / "out")
        content = progress.read_bytes()
        damaged = {
            "cut": content[:-100],
            "empty": b"",
            "foreign": b"something else altogether",
            "header": content.replace(b"chip-training-1", b"chip-training-1\\", 1),
        }
        progress.write_bytes(damaged[damage])
        with pytest.raises(ChipError, match=r"is damaged \(.*; remove it to start afresh"):
            run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **settings)
        assert not (tmp_path / "out").exists()
        progress.unlink()
        run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **settings)

    def test_a_dry_run_keeps_nothing(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        carry_out(
            prepare_edit(
                request(
                    llama_directory, text_data, tmp_path / "out", "patient_0", **FULL, dry_run=True, collecting=OFTEN
                )
            )
        )
        assert not list(tmp_path.iterdir())


class Stopped(Exception):
    """Stands for whatever ends a training from without."""


def stop(model: Path, data: Path, out: Path, at: int, stage: str = "training", /, **settings: Any) -> None:
    """Train, and be stopped once so many steps of a stage have been taken."""

    def track(items: Any, doing: str) -> Iterator[Any]:
        for number, one in enumerate(items):
            if doing == stage and number == at:
                raise Stopped
            yield one

    with pytest.raises(Stopped):
        carry_out(prepare_edit(request(model, data, out, "patient_0", **settings, collecting=OFTEN)), track)


class TestDivergence:
    @pytest.mark.parametrize(
        "flags",
        [
            ("--method", "ga", "--learning-rate", 1e6, "--steps", 12),
            ("--method", "npo", "--forget-weight", 1e38, "--steps", 12),
            ("--method", "duolearn", "--learning-rate", 1e6, "--geometric-steps", 2, "--steps", 12, "--no-dp"),
            ("--method", "duolearn", "--learning-rate", 1e6, "--geometric-steps", 2, "--steps", 12, "--epsilon", 50),
        ],
        ids=str,
    )
    def test_it_is_one_sentence_and_writes_nothing(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, flags: tuple[Any, ...]
    ) -> None:
        given = ("--data", text_data, "--forget", "patient_0", "--out", tmp_path / "out", "--no-verify")
        done = chip_here("edit", llama_directory, *given, *flags)
        assert done.exit_code != 0
        assert isinstance(done.exception, Diverged), done.exception
        assert "\n" not in str(done.exception)
        assert "the training has diverged: " in str(done.exception)
        assert "smaller learning rate" in str(done.exception)
        assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]

    SOON: Mapping[str, Any] = {"method": "ga", "steps": 400, "learning_rate": 60.0}

    def test_the_last_good_state_is_kept_and_can_be_the_end(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        out = tmp_path / "out"
        with pytest.raises(Diverged, match="the state of step 10 is kept, and --keep-last-good ends with it"):
            run_edit(llama_directory, text_data, out, "patient_0", **self.SOON)
        assert hidden(tmp_path) == [".out.chip-training"]
        with pytest.raises(Diverged, match="the state of step 10 is kept"):
            run_edit(llama_directory, text_data, out, "patient_0", **self.SOON)
        with pytest.warns(UserWarning, match="diverged .* it ends with the state of step 10"):
            run_edit(llama_directory, text_data, out, "patient_0", **self.SOON, keep_last_good=True)
        assert not hidden(tmp_path)
        with pytest.warns(UserWarning, match="it ends with the state of step 10"):
            run_edit(llama_directory, text_data, tmp_path / "at once", "patient_0", **self.SOON, keep_last_good=True)
        assert edit_bytes(out) == edit_bytes(tmp_path / "at once")

    def test_duolearns_last_good_state_too(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        settings = {**PLAIN, "geometric_steps": 10, "steps": 400, "learning_rate": 1e7, "early_stop": False}
        out = tmp_path / "out"
        with pytest.raises(Diverged, match="the state of step 10 is kept"):
            run_edit(llama_directory, text_data, out, "patient_0", **settings)
        with pytest.warns(UserWarning, match="it ends with the state of step 10"):
            run_edit(llama_directory, text_data, out, "patient_0", **settings, keep_last_good=True)

    def test_another_learning_rate_starts_afresh(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        with pytest.raises(Diverged):
            run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **self.SOON)
        milder = {**self.SOON, "learning_rate": 1e-4, "steps": 2}
        with pytest.warns(UserWarning, match="of another training, which is dropped"):
            run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **milder)
        assert not hidden(tmp_path)

    def test_where_no_state_was_good_there_is_none_to_end_with(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        settings = {**self.SOON, "learning_rate": 1e6}
        with pytest.raises(Diverged, match=r"use a smaller learning rate$"):
            run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **settings, keep_last_good=True)
        assert not list(tmp_path.iterdir())


class TestTheEnd:
    def test_duolearn_ends_early_once_the_goals_are_met_twice(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        """A random model knows no answer, so that there is nothing to forget and nothing to lose."""
        log = tmp_path / "log.jsonl"
        settings = {**PLAIN, "geometric_steps": 10, "steps": 13, "training_log": log}
        run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **settings)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, 21))
        assert [line["phase"] for line in lines] == ["geometry"] * 10 + ["tokens"] * 10
        assert mode(log) == 0o600
        run_edit(llama_directory, text_data, tmp_path / "all", "patient_0", **settings, early_stop=False)
        assert len(log.read_text().splitlines()) == 23  # a log of chip's own is replaced
        assert "patient" not in log.read_text()

    def test_the_log_of_an_interrupted_training_is_whole(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        log = tmp_path / "log.jsonl"
        settings = {**FULL, "steps": 15, "training_log": log}
        stop(llama_directory, text_data, tmp_path / "out", 12, **settings)
        with pytest.warns(UserWarning, match="goes on"):
            run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **settings)
        assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == list(range(1, 16))

    @pytest.mark.parametrize("way", ["full", "plain"])
    def test_an_edit_is_verified_applied_and_reverted(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path, way: str
    ) -> None:
        base, out, edit = llava_directory, tmp_path / "out", tmp_path / "out.edit.safetensors"
        run_edit(base, hospital_data, out, "patient_0", **WAYS[way])
        assert chip_here("verify", out, "--against", base, "--edit", edit).exit_code == 0
        assert chip_here("apply", base, edit, "--out", tmp_path / "applied").exit_code == 0
        assert not changed_tensors(out, tmp_path / "applied")
        assert chip_here("revert", out, edit, "--base", base, "--out", tmp_path / "reverted").exit_code == 0
        assert not changed_tensors(base, tmp_path / "reverted")

    def test_an_edit_of_lora_factors_is_an_adapter_of_the_same_weights(
        self, tmp_path: Path, llava_directory: Path, hospital_data: Path
    ) -> None:
        from test_adapter import same_logits

        edited = run_edit(llava_directory, hospital_data, tmp_path / "out", "patient_0", **LORA)
        adapter = tmp_path / "adapter"
        given = (tmp_path / "out.edit.safetensors", "--peft", adapter, "--base", llava_directory)
        assert chip_here("export", *given).exit_code == 0
        same_logits(edited, hospital_data, adapter)

    def test_a_search_leaves_no_progress_behind(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        given = ("--data", text_data, "--forget", "patient_0", "--out", tmp_path / "out", "--method", "npo")
        flags = ("--steps", 12, "--tune", "--trials", 3, "--save-every", 0, "--training-log", tmp_path / "log")
        done = chip_here("edit", llama_directory, *given, *flags)
        assert done.exit_code == 0, done.output
        assert not hidden(tmp_path)
        assert len((tmp_path / "log").read_text().splitlines()) == 12
        receipt = json.loads((tmp_path / "out.receipt.json").read_text())
        assert len(receipt["tuning"]["trials"]) == 3


class TestBatches:
    def requests(self, directory: Path, *settings: dict[str, Any]) -> Path:
        path = directory / "requests.jsonl"
        lines = [{"forget": f"patient_{number}", "settings": one} for number, one in enumerate(settings)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def test_lines_train_by_their_own_settings(self, tmp_path: Path, llama_directory: Path, text_data: Path) -> None:
        asked = self.requests(tmp_path, {"method": "npo", "steps": 2}, PLAIN)
        out = tmp_path / "out"
        done = chip_here("batch", llama_directory, asked, "--data", text_data, "--out-dir", out, "--no-verify")
        assert done.exit_code == 0, done.output
        for number, settings in enumerate(({"method": "npo", "steps": 2}, PLAIN)):
            alone = run_edit(llama_directory, text_data, tmp_path / str(number), f"patient_{number}", **settings)
            found = load_edit(out / f"request-{number + 1:04}.edit.safetensors")
            assert [change.left.tobytes() for change in found.changes] == [
                change.left.tobytes() for change in alone.edit.changes
            ]
            assert found.settings.get("dp") == settings.get("dp")
        assert not hidden(out)

    def test_one_checkpoint_for_all_takes_lora_and_refuses_full_training(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        asked = self.requests(tmp_path, LORA, FULL, PLAIN)
        given = ("--data", text_data, "--out-dir", tmp_path / "out", "--no-verify", "--cumulative")
        done = chip_here("batch", llama_directory, asked, *given)
        assert done.exit_code == 1
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert [one["state"] for one in summary["requests"]] == ["done", "failed", "done"]
        assert "a cumulative batch keeps a chain of linear layers alone; train with --train lora" in " ".join(
            done.output.split()
        )
        assert changed_tensors(llama_directory, tmp_path / "out" / "model")
        assert not hidden(tmp_path / "out")

    def test_a_line_that_is_not_ready_stops_no_other(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        asked = self.requests(tmp_path, {**PLAIN, "lexicon": "absent.json"}, {"method": "npo", "steps": 2})
        given = ("--data", text_data, "--out-dir", tmp_path / "out", "--no-verify")
        done = chip_here("batch", llama_directory, asked, *given)
        assert done.exit_code == 1
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert [one["state"] for one in summary["requests"]] == ["failed", "done"]


class TestWithoutLibraries:
    """As on a machine where they are not installed: importing them fails."""

    @pytest.mark.parametrize(
        ("library", "flags", "sentence"),
        [
            ("peft", ("--method", "npo", "--train", "lora"), "LoRA needs peft, which is not installed: pip install"),
            ("peft", ("--method", "duolearn", "--no-dp"), "LoRA needs peft, which is not installed: pip install"),
            ("opacus", ("--method", "duolearn"), "differential privacy needs the library opacus: pip install"),
        ],
        ids=str,
    )
    def test_one_sentence(
        self,
        tmp_path: Path,
        llama_directory: Path,
        text_data: Path,
        library: str,
        flags: tuple[str, ...],
        sentence: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setitem(sys.modules, library, None)
        given = ("--data", text_data, "--forget", "patient_0", "--out", tmp_path / "out", *flags)
        done = chip_here("edit", llama_directory, *given)
        assert isinstance(done.exception, ChipError), done.exception
        assert str(done.exception).startswith(sentence)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("way", ["full", "plain"])
    def test_what_does_not_need_them_runs(
        self, tmp_path: Path, llama_directory: Path, text_data: Path, way: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for library in ("opacus",) if way == "plain" else ("opacus", "peft"):
            monkeypatch.setitem(sys.modules, library, None)
        run_edit(llama_directory, text_data, tmp_path / "out", "patient_0", **WAYS[way])
