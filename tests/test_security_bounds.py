"""Bounds on what comes from others: models as they are stay within them, and nobody's machine switches them off."""

import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import tiny_fp8
import tiny_models
import torch
from hostile import copied

from chip.errors import ChipError
from chip.models import templates, trust
from chip.models.checkpoint import Checkpoint
from chip.models.loading import load_model, load_skeleton
from chip.models.prompts import Prompts

MODELS: dict[str, Callable[[Path], Path]] = {
    "untied": lambda to: tiny_models.text_model(to, "llama"),
    "tied": lambda to: tiny_models.text_model(to, "llama", tied=True),
    "tied, mostly words": lambda to: tiny_models.text_model(
        to, "llama", tied=True, hidden_size=16, intermediate_size=8, num_hidden_layers=1
    ),
    "tied, with images": lambda to: tiny_models.llava(to, tied=True),
    "fp8": lambda to: tiny_fp8.quantise(
        tiny_models.text_model(to, "llama", dtype=torch.bfloat16), tiny_fp8.LAYOUTS["deepseek"]
    ),
    "fp8, tied": lambda to: tiny_fp8.quantise(
        tiny_models.text_model(to, "llama", dtype=torch.bfloat16, tied=True), tiny_fp8.LAYOUTS["compressed tensor"]
    ),
}


class TestModels:
    @pytest.mark.parametrize("kind", MODELS)
    def test_one_as_it_is_needs_none_of_what_is_spare(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        model = Checkpoint(MODELS[kind](tmp_path / "m"))
        monkeypatch.setattr(trust, "SPARE_NUMBERS", 0)
        monkeypatch.setattr(trust, "SPARE_PARAMETERS", 0)
        load_skeleton(model)
        load_model(model, "cpu")

    def test_one_that_is_larger_than_its_files_is_refused_however_little_is_spare(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llama_directory: Path
    ) -> None:
        monkeypatch.setattr(trust, "SPARE_NUMBERS", 0)
        model = Checkpoint(copied(llama_directory, tmp_path / "m", intermediate_size=640))
        for load in (load_skeleton, lambda model: load_model(model, "cpu")):
            with pytest.raises(ChipError, match="describes a larger model than its files store"):
                load(model)

    @pytest.mark.parametrize("name", ["vocab_size_per_layer_input", "hidden_size_per_layer_input"])
    def test_a_size_for_each_layer_is_no_count_of_layers(
        self, tmp_path: Path, llama_directory: Path, name: str
    ) -> None:
        load_skeleton(Checkpoint(copied(llama_directory, tmp_path / "m", **{name: 262_144})))

    def test_what_another_thread_makes_meanwhile_is_not_counted(
        self, monkeypatch: pytest.MonkeyPatch, llama_directory: Path
    ) -> None:
        monkeypatch.setattr(trust, "SPARE_NUMBERS", 0)
        made: list[torch.nn.Module] = []
        with trust.borne_out(Checkpoint(llama_directory)):
            other = threading.Thread(target=lambda: made.append(torch.nn.Linear(10**6, 10**6, device="meta")))
            other.start()
            other.join()
            with pytest.raises(ChipError, match="larger model"):
                torch.nn.Linear(10**6, 10**6, device="meta")
        assert made


def tried(template: str) -> None:
    Prompts(tiny_models.tiny_tokenizer(template), None).refuse_endless_template()


def in_a_fork(prepare: Callable[[], object], template: str) -> str:
    """What is said of a template where a process is prepared for good; nothing if all is well."""
    heard, told = os.pipe()
    if (child := os.fork()) == 0:
        try:
            prepare()
            tried(template)
        except (ChipError, OSError) as problem:
            os.write(told, f"{type(problem).__name__}: {problem}".encode())
        finally:
            os._exit(0)
    os.close(told)
    with os.fdopen(heard) as said:
        os.waitpid(child, 0)
        return said.read()


class TestTrials:
    LARGE = "{{ 'x' * 10 ** 10 }}"

    def test_a_harder_limit_of_the_machine_does_not_switch_it_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        most = psutil.Process().memory_info().vms + (2 << 30)
        monkeypatch.setattr(templates, "TRIAL_BYTES", 1 << 40)

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (most, most))

        assert in_a_fork(limit, self.LARGE).startswith("ChipError: the model's chat template takes more than")
        assert in_a_fork(limit, tiny_models.CHAT_TEMPLATE) == ""

    def test_where_it_cannot_be_limited_it_is_not_trusted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(templates, "TRIAL_BYTES", 1 << 70)
        with pytest.raises(ChipError, match="could not be tried"):
            tried(tiny_models.CHAT_TEMPLATE)

    def test_a_program_that_ignores_its_children_learns_how_it_ended(self) -> None:
        def ignore() -> None:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        assert in_a_fork(ignore, self.LARGE).startswith("ChipError: the model's chat template takes more than")
        assert in_a_fork(ignore, tiny_models.CHAT_TEMPLATE) == ""

    def test_one_that_waits_for_ever_is_not_waited_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(templates, "TRIAL_WAIT", 0.2)
        never = threading.Lock()
        with never, pytest.raises(ChipError, match="could not be tried"):
            templates.refuse_endless("", never.acquire)

    def test_what_is_ended_for_its_time_leaves_no_memory_behind_in_a_file(self, tmp_path: Path) -> None:
        templates.refuse_endless(
            "", lambda: (tmp_path / "most").write_text(str(resource.getrlimit(resource.RLIMIT_CORE)[0]))
        )
        assert (tmp_path / "most").read_text() == "0"
