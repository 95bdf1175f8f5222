"""Checkpoints from a stranger: code that comes along, configs that ask for the moon, headers and indexes that lie."""

import json
import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from checkpoint_files import digests
from command_line import chip_here
from hostile import ESCAPES, copied, said_by, sentence_of
from safetensors.torch import load_file, save_file
from tiny_records import write_lines

from chip.collect.file import load_statistics
from chip.edit import Change, Edit, load_edits, save_edits
from chip.edit.receipt import read_receipt
from chip.errors import ChipError
from chip.hierarchy import Record
from chip.models.checkpoint import INDEX, Checkpoint
from chip.models.loading import load_model, load_skeleton
from chip.models.prompts import Prompts
from chip.models.stored import read_header
from chip.models.templates import LONGEST_TEMPLATE
from chip.models.trust import MOST_COUNTED

EVIL = "from pathlib import Path\n(Path(__file__).parent / 'pwned').touch()\nclass Any: pass\n"


def refused(directory: Path) -> str:
    """The one sentence with which a model is refused, with its weights and without."""
    with pytest.raises(ChipError):
        load_skeleton(Checkpoint(directory))
    with pytest.raises(ChipError) as caught:
        load_model(Checkpoint(directory), "cpu")
    return sentence_of(caught)


class TestCode:
    @pytest.mark.parametrize("kind", ["a model of its own", "a known model", "its tokenizer"])
    def test_code_that_comes_with_a_model_is_never_run(
        self, tmp_path: Path, llama_directory: Path, kind: str, text_data: Path
    ) -> None:
        auto = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoModelForImageTextToText"), "evil.Any")
        own = {"model_type": "evil", "architectures": ["Any"]} if kind == "a model of its own" else {}
        model = copied(
            llama_directory, tmp_path / "m", **({} if kind == "its tokenizer" else {"auto_map": auto, **own})
        )
        if kind == "its tokenizer":
            path = model / "tokenizer_config.json"
            mapped = {"auto_map": {"AutoTokenizer": ["evil.Any", "evil.Any"]}, "tokenizer_class": "Any"}
            path.write_text(json.dumps({**json.loads(path.read_text()), **mapped}))
        (model / "evil.py").write_text(EVIL)
        chip_here("inspect", model, "--data", text_data)
        asked = ("edit", model, "--data", text_data, "--forget", "patient_1", "--dry-run", "--no-verify")
        chip_here(*asked, "--workers", 0)
        assert not list(tmp_path.rglob("pwned"))

    @pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "experts_implementation"])
    def test_kernels_from_elsewhere_are_never_fetched(self, tmp_path: Path, llama_directory: Path, key: str) -> None:
        for number, value in enumerate(("someone/kernels", "someone/kernels:f", {"text_config": "a/b"}, ["a/b"])):
            assert "which chip never runs" in refused(copied(llama_directory, tmp_path / f"{number}", **{key: value}))
        nested = {"text_config": {key: "a/b"}}
        assert "which chip never runs" in refused(copied(llama_directory, tmp_path / "nested", **nested))
        load_skeleton(Checkpoint(copied(llama_directory, tmp_path / "own", _attn_implementation="eager")))

    @pytest.mark.parametrize("ending", [".bin", ".pt", ".pth", ".pkl", ".ckpt"])
    def test_pickles_are_never_opened(self, tmp_path: Path, llama_directory: Path, ending: str) -> None:
        model = copied(llama_directory, tmp_path / "m")
        (model / "model.safetensors").unlink()
        evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "pwned").encode() + b"'\ntR."
        (model / f"pytorch_model{ending}").write_bytes(evil)
        with pytest.raises(ChipError, match="pickles only"):
            Checkpoint(model)
        assert not (tmp_path / "pwned").exists()

    def test_a_pickle_beside_the_weights_is_neither_opened_nor_carried(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        model = copied(llama_directory, tmp_path / "m")
        evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "pwned").encode() + b"'\ntR."
        for name in ("pytorch_model.bin", "adapter.pt", "optimizer.pt"):
            (model / name).write_bytes(evil)
        asked = ("edit", model, "--data", text_data, "--forget", "patient_1", "--no-verify", "--workers", 0)
        assert chip_here(*asked, "--out", tmp_path / "out").exit_code == 0
        assert not (tmp_path / "pwned").exists()
        assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in (".bin", ".pt")]


class TestTemplates:
    @pytest.mark.parametrize(
        "template",
        [
            "{{ ''.__class__.__mro__[1].__subclasses__() }}",
            "{{ cycler.__init__.__globals__.os.popen('touch pwned').read() }}",
            "{{ (joiner | attr('__init__')).__globals__ }}",
            "{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}",
            "{% include '/etc/passwd' %}",
            "{% import 'os' as os %}{{ os }}",
            "{% for message in range(10 ** 9) %}{{ message }}{% endfor %}",
            "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
            "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
            "{{ 1 // 0 }}",
            "{% for",
        ],
    )
    def test_one_that_would_break_out_is_refused_in_a_sentence(
        self, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        prompts = Prompts(tiny_models.tiny_tokenizer(template), None)
        prompts.refuse_endless_template()
        with pytest.raises(ChipError, match="record on line 3: the model's chat template refuses it"):
            prompts.encode(Record(("a",), "who ?", "x", line=3))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "template",
        [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{{ 'x' * 10 ** 10 }}",
            "{{ 'x' | center(10 ** 11) }}",
            "{% set much = [1] * 10 ** 10 %}",
        ],
    )
    def test_one_without_end_is_stopped_before_it_is_trusted(self, template: str) -> None:
        prompts = Prompts(tiny_models.tiny_tokenizer(template), None)
        with pytest.raises(ChipError, match="chat template takes more than 2 s or 1 GiB"):
            prompts.refuse_endless_template()

    def test_one_that_is_too_long_to_be_one_is_refused(self) -> None:
        prompts = Prompts(tiny_models.tiny_tokenizer("{# #}" * (LONGEST_TEMPLATE // 5 + 1)), None)
        with pytest.raises(ChipError, match="longer than"):
            prompts.refuse_endless_template()

    def test_a_model_with_one_is_refused_when_it_is_loaded(self, tmp_path: Path, llama_directory: Path) -> None:
        model = copied(llama_directory, tmp_path / "m")
        (model / "chat_template.jinja").write_text("{{ 'x' * 10 ** 10 }}")
        with pytest.raises(ChipError, match="chat template takes more than"):
            load_model(Checkpoint(model), "cpu")


class TestConfigs:
    @pytest.mark.parametrize("key", ["num_hidden_layers", "num_labels", "num_local_experts"])
    def test_counts_that_the_files_do_not_bear_out_are_refused(
        self, tmp_path: Path, llama_directory: Path, key: str
    ) -> None:
        assert "its files store" in refused(copied(llama_directory, tmp_path / "m", **{key: 10**9}))
        assert "its files store" in refused(
            copied(llama_directory, tmp_path / "n", text_config={key: MOST_COUNTED + 1})
        )

    @pytest.mark.parametrize("key", ["hidden_size", "intermediate_size", "vocab_size", "head_dim"])
    @pytest.mark.parametrize("size", [10**9, 10**15])
    def test_sizes_that_the_files_do_not_bear_out_are_refused(
        self, tmp_path: Path, llama_directory: Path, key: str, size: int
    ) -> None:
        refused(copied(llama_directory, tmp_path / "m", **{key: size}))

    def test_so_are_those_of_a_part(self, tmp_path: Path, llava_directory: Path) -> None:
        for part, key in (("vision_config", "image_size"), ("text_config", "hidden_size")):
            model = copied(llava_directory, tmp_path / part)
            path = model / "config.json"
            config = json.loads(path.read_text())
            path.write_text(json.dumps({**config, part: {**config[part], key: 10**9}}))
            refused(model)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"num_attention_heads": 0},
            {"hidden_size": -1},
            {"hidden_size": 1e300},
            {"vocab_size": "x"},
            {"dtype": "os.system"},
            {"hidden_act": "__import__"},
            {"intermediate_size": -1},
            {"pad_token_id": 10**6},
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 0, "factor": 0}},
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": "x", "factor": "y"}},
            {"rope_parameters": {"rope_type": "evil"}},
            {"layer_types": ["evil"] * 3},
            {"model_type": ESCAPES},
        ],
        ids=lambda one: "-".join(one),
    )
    def test_a_value_that_makes_no_sense_is_one_sentence(
        self, tmp_path: Path, llama_directory: Path, wrong: dict[str, Any]
    ) -> None:
        with pytest.raises(ChipError) as caught:
            load_model(Checkpoint(copied(llama_directory, tmp_path / "m", **wrong)), "cpu")
        sentence_of(caught)

    @pytest.mark.parametrize(
        "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    )
    @pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"\xff\xfe", b"", b'{"a":' * 100_000, b"null"])
    def test_a_file_that_is_none_is_one_sentence_or_not_read(
        self, tmp_path: Path, llama_directory: Path, name: str, content: bytes
    ) -> None:
        model = copied(llama_directory, tmp_path / "m")
        (model / name).write_bytes(content)
        done = chip_here("inspect", model)
        assert done.exit_code == 0 or isinstance(done.exception, ChipError)
        with suppress(ChipError):
            load_model(Checkpoint(model), "cpu")


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


class TestHeaders:
    @pytest.mark.parametrize(
        "content",
        [
            safetensors({}, length=100_000_001) + bytes(64),
            safetensors({}, length=2**64 - 1),
            safetensors({}, length=0),
            safetensors(b"[" * 1_000_000),
            safetensors({"w": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
            safetensors({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
            safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]}}, bytes(4)),
            safetensors({"w": {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]}}, bytes(4)),
            safetensors({"w": {"dtype": "pickle", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
            safetensors({name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for name in "ab"}, bytes(4)),
            safetensors(b'{"w": {}, "w": {}}'),
            safetensors({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, bytes(9)),
        ],
        ids=[
            "100 MB",
            "all",
            "none",
            "nested",
            "shape",
            "minus",
            "beyond",
            "before",
            "dtype",
            "overlap",
            "twice",
            "more",
        ],
    )
    def test_one_that_lies_is_refused(self, tmp_path: Path, llama_directory: Path, content: bytes) -> None:
        (tmp_path / "x.safetensors").write_bytes(content)
        for read in (read_header, load_edits, load_statistics):
            with pytest.raises(ChipError) as caught:
                read(tmp_path / "x.safetensors")
            sentence_of(caught)
        model = copied(llama_directory, tmp_path / "m")
        (model / "model.safetensors").write_bytes(content)
        with pytest.raises(ChipError):
            Checkpoint(model)

    def test_a_name_of_a_tensor_that_acts_never_reaches_the_terminal(
        self, tmp_path: Path, llama_directory: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = copied(llama_directory, tmp_path / "m")
        weights = load_file(model / "model.safetensors")
        save_file({**weights, f"{ESCAPES}w": torch.ones(2, dtype=torch.int8)}, model / "model.safetensors")
        (model / "model.safetensors").rename(model / "model-1.safetensors")
        (model / INDEX).write_text(json.dumps({"weight_map": {f"{ESCAPES}v": "model-1.safetensors"}}))
        said = said_by(capsys, "inspect", model)
        assert "␛[2J" in said
        assert said.replace("\n", "").isprintable()


class TestPlaces:
    @pytest.mark.parametrize(
        "shard", ["../outside.safetensors", "/etc/passwd", "a/../../outside.safetensors", "a\0b", "", "..", ESCAPES]
    )
    def test_an_index_that_names_a_place_elsewhere_is_refused(
        self, tmp_path: Path, llama_directory: Path, shard: str
    ) -> None:
        model = copied(llama_directory, tmp_path / "m")
        shutil.copy(model / "model.safetensors", tmp_path / "outside.safetensors")
        (model / "model.safetensors").rename(model / "model-1.safetensors")
        (model / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": shard, "x": "model-1.safetensors"}}))
        with pytest.raises(ChipError):
            Checkpoint(model)

    @pytest.mark.parametrize("target", ["/dev/zero", "/dev/stdin", "/etc/passwd", "."])
    def test_a_link_for_weights_to_what_holds_none_is_refused(
        self, tmp_path: Path, llama_directory: Path, target: str
    ) -> None:
        model = copied(llama_directory, tmp_path / "m")
        (model / "model.safetensors").unlink()
        (model / "model.safetensors").symlink_to(target)
        with pytest.raises(ChipError):
            Checkpoint(model)

    def test_a_pipe_for_weights_is_not_waited_for(self, tmp_path: Path, llama_directory: Path) -> None:
        model = copied(llama_directory, tmp_path / "m")
        (model / "model.safetensors").unlink()
        os.mkfifo(model / "model.safetensors")
        with pytest.raises(ChipError, match="no regular file"):
            Checkpoint(model)

    def test_a_link_to_a_file_of_the_user_is_not_carried_into_the_release(
        self, tmp_path: Path, llama_directory: Path, text_data: Path
    ) -> None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "id_rsa").write_text("private")
        model = copied(llama_directory, tmp_path / "m")
        (model / "NOTICE.txt").symlink_to(tmp_path / "home" / "id_rsa")
        (model / "COPY.txt").symlink_to("config.json")
        asked = ("edit", model, "--data", text_data, "--forget", "patient_1", "--no-verify", "--workers", 0)
        done = chip_here(*asked, "--out", tmp_path / "out")
        assert done.exit_code == 0, done.exception
        assert "NOTICE.txt" in done.output
        assert set(digests(tmp_path / "out")) == set(digests(model)) - {"NOTICE.txt"}


class TestOtherFiles:
    @pytest.mark.parametrize(
        "content",
        [b"[" * 100_000, b'{"format": "chip-receipt-1", "format": "x"}', b"null", b"{}", b"\xff", b'{"a":' * 99_999],
    )
    def test_a_receipt_that_is_none_is_one_sentence(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "receipt.json").write_bytes(content)
        with pytest.raises(ChipError) as caught:
            read_receipt(tmp_path / "receipt.json")
        sentence_of(caught)

    @pytest.mark.parametrize("inner", ["[" * 100_000, "null", "{}", '{"format": "chip-edits-1", "edits": {"a": 1}}'])
    def test_an_edit_or_statistics_whose_inner_text_lies_is_one_sentence(self, tmp_path: Path, inner: str) -> None:
        save_file({"nodes": torch.ones(4)}, tmp_path / "x.safetensors", {"chip": inner})
        for read in (load_edits, load_statistics):
            with pytest.raises(ChipError):
                read(tmp_path / "x.safetensors")

    def test_an_edit_that_is_made_of_what_is_no_number_is_not_written(
        self, tmp_path: Path, llama_directory: Path
    ) -> None:
        name = "model.layers.0.mlp.down_proj.weight"
        rows, columns = load_file(llama_directory / "model.safetensors")[name].shape
        bad = Change(name, np.full((rows, 1), np.inf, np.float32), np.ones((1, columns), np.float32))
        save_edits([Edit("test", {}, (bad,))], tmp_path / "x.edit.safetensors")
        done = chip_here("apply", llama_directory, tmp_path / "x.edit.safetensors", "--out", tmp_path / "out")
        assert isinstance(done.exception, ChipError)
        assert not (tmp_path / "out").exists()


def test_records_of_a_stranger_are_still_read_where_the_template_is_fine(tmp_path: Path, llama_directory: Path) -> None:
    """The trial of a template is no bar to models as they are."""
    data = write_lines(tmp_path / "data", *({"path": [f"p{n}"], "question": "q ?", "answer": "a"} for n in range(2)))
    assert chip_here("inspect", llama_directory, "--data", data).exit_code == 0
    load_model(Checkpoint(llama_directory), "cpu")
