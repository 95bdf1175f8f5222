"""Records from a stranger: paths that lead elsewhere, pictures that are none, lines that are made to fill memory."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from command_line import chip_here
from hostile import ESCAPES, chunk, png, record, sentence_of
from PIL import Image
from tiny_records import write_image, write_lines

from chip.allowed import (
    ALLOWED_FOLDERS,
    ALLOWED_PIXELS,
    IMAGES_AT_ONCE,
    MOST_BYTES_A_PIXEL,
    MOST_IMAGES,
    MOST_PIXELS,
    allowed_folders,
    most_pixels,
)
from chip.cli.environment import allowing
from chip.errors import ChipError, UsageError
from chip.images import LONGEST_SIDES, SUFFIXES, open_images
from chip.models.prompts import Prompts
from chip.records import read_records
from chip.records.jsonl import DEEPEST, LARGEST_LEVELS, LONGEST_LINE, LONGEST_NAME


def refused(data: Path) -> str:
    with pytest.raises(ChipError) as caught:
        read_records(data)
    return sentence_of(caught)


def not_opened(path: Path) -> str:
    with pytest.raises(ChipError, match=r"record on line 7: .*cannot be read as an image") as caught:
        open_images([path], 7)
    return str(caught.value)


class TestWhereImagesLie:
    @pytest.mark.parametrize("name", ["../outside.png", "a/../../outside.png", "{outside}", "/etc/passwd"])
    def test_a_path_that_leads_out_of_the_data_is_refused(self, tmp_path: Path, name: str) -> None:
        write_image(tmp_path / "outside.png", 0)
        named = name.format(outside=tmp_path / "outside.png")
        data = write_lines(tmp_path / "data", record(image=named))
        assert "records.jsonl, line 1: " in refused(data)
        assert "lies outside the data directory; allow the folder" in refused(data)

    def test_a_link_that_leads_out_of_the_data_is_refused(self, tmp_path: Path) -> None:
        write_image(tmp_path / "kept" / "a.png", 0)
        data = write_lines(tmp_path / "data", record(image="a.png"), record(image="folder/a.png"))
        (data / "a.png").symlink_to(tmp_path / "kept" / "a.png")
        assert "line 1" in refused(data)
        (data / "folder").symlink_to(tmp_path / "kept")
        (data / "a.png").unlink()
        write_image(data / "a.png", 0)
        assert "line 2" in refused(data)

    def test_a_folder_that_the_user_names_may_hold_images(
        self, tmp_path: Path, llava_directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_image(tmp_path / "kept" / "a.png", 0)
        data = write_lines(tmp_path / "data", record(image=str(tmp_path / "kept" / "a.png")))
        asked = ("inspect", llava_directory, "--data", data)
        assert chip_here(*asked).exit_code == 1
        assert chip_here("--images-from", tmp_path / "kept", *asked).exit_code == 0
        assert chip_here("--images-from", tmp_path / "other", *asked).exit_code == 1
        assert ALLOWED_FOLDERS not in os.environ
        monkeypatch.setenv(ALLOWED_FOLDERS, f"{tmp_path / 'other'}{os.pathsep}{tmp_path / 'kept'}")
        assert chip_here(*asked).exit_code == 0

    def test_a_folder_is_the_same_wherever_a_process_works(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "kept").mkdir()
        monkeypatch.chdir(tmp_path)
        with allowing(None, [Path("kept")]):
            monkeypatch.chdir("/")
            assert allowed_folders() == (tmp_path / "kept",)
        with pytest.raises(UsageError, match="which stands between folders"), allowing(None, [Path(f"a{os.pathsep}b")]):
            raise AssertionError

    @pytest.mark.parametrize("kind", ["pipe", "directory", "loop", "device", "nothing"])
    def test_what_is_no_file_is_refused_and_never_waited_for(self, tmp_path: Path, kind: str) -> None:
        data = write_lines(tmp_path / "data", record(image="a.png"))
        make = {
            "pipe": os.mkfifo,
            "directory": os.mkdir,
            "loop": lambda path: path.symlink_to(path.name),
            "device": lambda path: path.symlink_to("/dev/zero"),
            "nothing": lambda path: path.symlink_to("gone"),
        }
        make[kind](data / "a.png")
        assert "records.jsonl, line 1: " in refused(data)

    @pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "a" * 5000, ESCAPES + ".png"])
    def test_a_name_that_no_file_has_is_refused(self, tmp_path: Path, name: str) -> None:
        said = refused(write_lines(tmp_path / "data", record(image=name)))
        assert said.isprintable()


class TestPictures:
    @pytest.mark.parametrize(
        "content",
        [
            b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
            b"<!doctype html><script>alert(1)</script>",
            b"#!/bin/sh\ntouch pwned\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
            b"",
            b"\x89PNG\r\n\x1a\n",
        ],
        ids=["svg", "html", "script", "postscript", "empty", "signature"],
    )
    def test_what_is_no_picture_of_a_known_format_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.png").write_bytes(content)
        not_opened(tmp_path / "a.png")

    @pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA", "PCX", "EPS", "PDF"])
    def test_formats_that_no_data_set_needs_are_not_opened(self, tmp_path: Path, kind: str) -> None:
        assert kind not in SUFFIXES
        Image.new("RGB", (16, 16)).save(tmp_path / "a.png", format=kind)
        not_opened(tmp_path / "a.png")

    def test_a_file_of_two_kinds_is_a_picture_and_nothing_more(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png(8, 8) + b"PK\x03\x04<script>alert(1)</script>#!/bin/sh\n")
        assert open_images([tmp_path / "a.png"], 7)[0].size == (8, 8)

    @pytest.mark.parametrize("part", [0.3, 0.9])
    def test_a_truncated_picture_is_refused_and_never_filled_up(self, tmp_path: Path, part: float) -> None:
        write_image(tmp_path / "a.png", 0, side=64)
        content = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(content[: int(len(content) * part)])
        not_opened(tmp_path / "a.png")

    @pytest.mark.parametrize("size", [(100_000, 100_000), (9_000, 9_001), (100_000, 801)])
    def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(
        self, tmp_path: Path, size: tuple[int, int]
    ) -> None:
        (tmp_path / "a.png").write_bytes(png(*size, rows=1))
        assert "decompression bomb" in (said := not_opened(tmp_path / "a.png")) or f"{MOST_PIXELS:,} pixels" in said

    @pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (LONGEST_SIDES * 10 + 1, 10)])
    def test_a_line_that_a_processor_would_blow_up_is_refused(self, tmp_path: Path, size: tuple[int, int]) -> None:
        (tmp_path / "a.png").write_bytes(png(*size))
        assert "times as long as the other" in not_opened(tmp_path / "a.png")

    def test_text_that_unpacks_to_much_more_is_refused(self, tmp_path: Path) -> None:
        bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20)))
        (tmp_path / "a.png").write_bytes(png(8, 8, before=bomb))
        not_opened(tmp_path / "a.png")

    def test_a_file_larger_than_any_picture_is_not_read(self, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "data", record(image="a.png"))
        (data / "a.png").write_bytes(png(8, 8))
        os.truncate(data / "a.png", MOST_BYTES_A_PIXEL * MOST_PIXELS + 1)
        assert "--most-pixels allows more" in refused(data)

    def test_a_record_of_many_images_is_refused(self, tmp_path: Path) -> None:
        write_image(tmp_path / "data" / "a.png", 0)
        shown = {**record(), "image": None}
        data = write_lines(tmp_path / "data", {**shown, "images": ["a.png"] * MOST_IMAGES})
        assert len(read_records(data).records[0].images) == MOST_IMAGES
        data = write_lines(tmp_path / "data", {**shown, "images": ["a.png"] * (MOST_IMAGES + 1)})
        assert f"line 1: the record shows {MOST_IMAGES + 1} images" in refused(data)

    def test_images_that_are_too_large_together_are_refused_before_they_are_decoded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_image(tmp_path / "a.png", 0, side=10)
        (tmp_path / "b.png").write_bytes(png(10, 10, rows=1))
        monkeypatch.setenv(ALLOWED_PIXELS, "100")
        assert len(open_images([tmp_path / "a.png"] * IMAGES_AT_ONCE, 7)) == IMAGES_AT_ONCE
        with pytest.raises(ChipError, match="record on line 7: its images have more than 400 pixels together"):
            open_images([tmp_path / "a.png"] * IMAGES_AT_ONCE + [tmp_path / "b.png"], 7)

    def test_what_pillow_opens_for_others_is_as_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_image(tmp_path / "a.png", 0)
        (tmp_path / "b.png").write_bytes(b"")
        monkeypatch.setenv(ALLOWED_PIXELS, str(10 * MOST_PIXELS))
        for before in (Image.MAX_IMAGE_PIXELS, 1000, None):
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", before)
            open_images([tmp_path / "a.png"], 7)
            not_opened(tmp_path / "b.png")
            assert before == Image.MAX_IMAGE_PIXELS

    def test_the_user_may_allow_more_pixels(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llava_directory: Path
    ) -> None:
        write_image(tmp_path / "a.png", 0)
        monkeypatch.setenv(ALLOWED_PIXELS, "100")
        assert "more than 100 pixels; --most-pixels allows more" in not_opened(tmp_path / "a.png")
        monkeypatch.setenv(ALLOWED_PIXELS, str(2 * MOST_PIXELS))
        assert most_pixels() == 2 * MOST_PIXELS
        for wrong in ("0", "-1", "many", "1e9", "²", "9" * 19, "9" * 5000):
            monkeypatch.setenv(ALLOWED_PIXELS, wrong)
            with pytest.raises(UsageError, match="--most-pixels"):
                most_pixels()
        monkeypatch.delenv(ALLOWED_PIXELS)
        assert chip_here("--most-pixels", 0, "inspect", llava_directory).exit_code == 1
        assert chip_here("--most-pixels", 10, "inspect", llava_directory).exit_code == 0
        assert ALLOWED_PIXELS not in os.environ

    def test_an_edit_that_meets_one_writes_nothing(self, tmp_path: Path, llava_directory: Path) -> None:
        data = write_lines(tmp_path / "data", *(record(f"p{number}", f"{number}.png") for number in range(3)))
        for number in range(3):
            write_image(data / f"{number}.png", number)
        (data / "1.png").write_bytes(png(100_000, 1))
        asked = ("edit", llava_directory, "--data", data, "--forget", "p0", "--out", tmp_path / "out", "--workers", 0)
        done = chip_here(*asked)
        assert isinstance(done.exception, ChipError)
        assert "record on line 2" in str(done.exception)
        assert {path.name for path in tmp_path.iterdir()} == {"data"}


class TestLines:
    def test_a_line_without_end_is_never_held_as_a_whole(self, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "data", record())
        os.truncate(data / "records.jsonl", 1 << 30)
        assert f"line 2: the line has more than {LONGEST_LINE:,} bytes" in refused(data)

    @pytest.mark.parametrize(
        "line",
        [
            "[" * 100_000,
            '{"path":' * 100_000,
            json.dumps(record())[:-1] + f', "x": {"9" * 5000}}}',
            json.dumps(record())[:-1] + ', "path": ["i", "somebody else"]}',
            '{"path": [NaN], "question": "q", "answer": "a"}',
            '{"path": ["\\ud800"], "question": "q", "answer": "a"}',
            '{"path": ["i"], "question": "\\udfff", "answer": "a"}',
            b'{"path": ["\xff"], "question": "q", "answer": "a"}',
        ],
        ids=["nested", "nested objects", "number", "two paths", "no number", "half a sign", "half an answer", "bytes"],
    )
    def test_json_that_is_made_to_confuse_is_refused_by_its_line(self, tmp_path: Path, line: str | bytes) -> None:
        assert "records.jsonl, line 1: " in refused(write_lines(tmp_path / "data", line))

    @pytest.mark.parametrize("name", [ESCAPES, "a\nb", "a\rb", "\u202eb", "\x00", "a/b", " ", "x" * (LONGEST_NAME + 1)])
    def test_a_name_that_acts_or_has_no_end_is_refused_and_not_repeated(self, tmp_path: Path, name: str) -> None:
        said = refused(write_lines(tmp_path / "data", record(name)))
        assert "line 1: " in said
        assert said.isprintable()
        assert len(said) < 500

    @pytest.mark.parametrize("levels", [["l"] * (DEEPEST + 1), [ESCAPES], ["x" * (LONGEST_NAME + 1)], ["a", 1], []])
    def test_levels_that_act_or_have_no_end_are_refused(self, tmp_path: Path, levels: list[Any]) -> None:
        data = write_lines(tmp_path / "data", record())
        (data / "dataset.json").write_text(json.dumps({"levels": levels}))
        said = refused(data)
        assert said.isprintable()
        assert len(said) < 500

    def test_levels_are_not_read_from_a_file_without_end(self, tmp_path: Path) -> None:
        data = write_lines(tmp_path / "data", record())
        (data / "dataset.json").touch()
        os.truncate(data / "dataset.json", 1 << 40)
        assert f"has more than {LARGEST_LEVELS:,} bytes" in refused(data)

    @pytest.mark.parametrize("name", ["records.jsonl", "dataset.json"])
    def test_a_pipe_or_a_device_for_a_file_is_not_read(self, tmp_path: Path, name: str) -> None:
        for number, make in enumerate((os.mkfifo, lambda path: path.symlink_to("/dev/zero"))):
            data = write_lines(tmp_path / str(number), {**record(), "path": ["i"]})
            (data / name).unlink(missing_ok=True)
            make(data / name)
            if name == "records.jsonl":
                assert "holds no records.jsonl" in refused(data)
            else:
                assert read_records(data).levels[0] == "institution"

    def test_a_name_that_means_something_elsewhere_is_a_name(self, tmp_path: Path, llama_directory: Path) -> None:
        names = ("..", ".", "~", "-rf", "$(reboot)", "*", "CON", "%s%n", "{0.__class__}", "[red]")
        data = write_lines(tmp_path / "data", *map(record, names))
        done = chip_here("inspect", llama_directory, "--data", data)
        assert all(f"  {name}  (patient, records: 1)" in done.output for name in names)
        asked = ("edit", llama_directory, "--data", data, "--out", tmp_path / "out", "--no-verify", "--workers", 0)
        done = chip_here(*asked, "--forget=..", "--forget=[red]", "--dry-run")
        assert done.exit_code == 0, done.exception
        assert "i/.., i/[red]" in done.output
        assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_a_question_cannot_show_an_image_that_the_record_has_not(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "data", record(question="<image> who ?"), record(answer="x <image>"))
    prompts = Prompts(tiny_models.tiny_processor(), tiny_models.IMAGE)
    for one in read_records(data).records:
        with pytest.raises(ChipError, match="image placeholder"):
            prompts.encode(one)
