"""Images of an export as pictures: upright, of 8 bits, bright where the film is dense; or refused by name."""

import io
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mimic import draw_film, write_dicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from chip.allowed import MOST_PIXELS
from chip.errors import ChipError
from chip.medforget import kinds
from chip.medforget.export import Picture, Problems
from chip.medforget.pictures import open_picture, picture_or_none

RAMP = np.tile(np.linspace(0, 1, 64), (8, 1))


def pixels(path: Path) -> npt.NDArray[Any]:
    return np.asarray(open_picture(path))


def written(path: Path, change: Callable[[Dataset], None], film: npt.NDArray[Any] = RAMP, **how: Any) -> Path:
    """A DICOM file that was changed after it was made."""
    dataset = write_dicom(path, film, **how)
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


class TestDicom:
    @pytest.mark.parametrize("inverted", [False, True])
    @pytest.mark.parametrize("bits", [10, 12, 16])
    def test_a_windowed_film_comes_back_as_it_was_drawn(self, tmp_path: Path, inverted: bool, bits: int) -> None:
        film = draw_film(random.Random(0))
        write_dicom(tmp_path / "a.dcm", film, inverted=inverted, bits=bits)
        image = open_picture(tmp_path / "a.dcm")
        assert (image.mode, image.size) == ("L", (64, 64))
        assert np.abs(np.asarray(image) / 255.0 - film).max() < 0.01

    def test_both_photometric_interpretations_of_a_film_look_alike(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "two.dcm", RAMP)
        write_dicom(tmp_path / "one.dcm", RAMP, inverted=True)
        assert np.abs(pixels(tmp_path / "one.dcm").astype(int) - pixels(tmp_path / "two.dcm")).max() <= 1

    def test_without_a_window_the_least_value_is_black_and_the_greatest_white(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "a.dcm", RAMP, windowed=False)
        assert np.abs(pixels(tmp_path / "a.dcm") / 255.0 - RAMP).max() < 0.005

    @pytest.mark.parametrize("slope", [1, 2.5, -1])
    @pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
    def test_every_window_function_grows_from_black_to_white_after_rescaling(
        self, tmp_path: Path, function: str, slope: float
    ) -> None:
        def change(dataset: Dataset) -> None:
            dataset.RescaleSlope, dataset.RescaleIntercept = slope, -100
            dataset.VOILUTFunction = function
            dataset.WindowCenter, dataset.WindowWidth = slope * 2048 - 100, abs(slope) * 1000

        row = pixels(written(tmp_path / "a.dcm", change))[0].astype(int)
        stored = np.round(RAMP[0] * 4095 / 2 + 4095 / 4)
        across = (stored - 2048) / 1000 * np.sign(slope)
        wanted = 1 / (1 + np.exp(-4 * across)) if function == "SIGMOID" else np.clip(across + 0.5, 0, 1)
        assert np.abs(row / 255 - wanted).max() < 0.01
        assert (np.diff(row) * np.sign(slope) >= 0).all()

    def test_a_lookup_table_is_taken_before_a_window(self, tmp_path: Path) -> None:
        def change(dataset: Dataset) -> None:
            item = Dataset()
            item.LUTDescriptor = [4096, 0, 8]
            item.add_new("LUTData", "US", [255] * 2048 + [51] * 2048)
            dataset.VOILUTSequence = Sequence([item])

        assert set(pixels(written(tmp_path / "a.dcm", change))[0]) == {255, 51}

    def test_padding_is_black_and_does_not_count(self, tmp_path: Path) -> None:
        film = RAMP.copy()
        film[0] = -0.4

        def change(dataset: Dataset) -> None:
            dataset.PixelPaddingValue = int(np.round(-0.4 * 4095 / 2 + 4095 / 4))

        for inverted in (False, True):
            shown = pixels(written(tmp_path / "a.dcm", change, film, windowed=False))
            assert not shown[0].any(), inverted
            assert (shown[1:].min(), shown[1:].max()) == (0, 255)

    def test_the_first_frame_of_several_is_shown(self, tmp_path: Path) -> None:
        def change(dataset: Dataset) -> None:
            dataset.NumberOfFrames, dataset.PixelData = 2, dataset.PixelData + bytes(len(dataset.PixelData))

        assert pixels(written(tmp_path / "a.dcm", change)).shape == RAMP.shape
        assert pixels(tmp_path / "a.dcm").any()

    @pytest.mark.parametrize("interpretation", ["RGB", "YBR_FULL"])
    def test_colour_comes_back_as_rgb(self, tmp_path: Path, interpretation: str) -> None:
        red = np.zeros((4, 4, 3), dtype=np.uint8)
        red[...] = (255, 0, 0)

        def change(dataset: Dataset) -> None:
            stored = red if interpretation == "RGB" else np.asarray(Image.fromarray(red).convert("YCbCr"))
            dataset.Rows = dataset.Columns = 4
            dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
            dataset.BitsAllocated = dataset.BitsStored = 8
            dataset.HighBit, dataset.PhotometricInterpretation = 7, interpretation
            dataset.PixelData = stored.tobytes()

        shown = open_picture(written(tmp_path / "a.dcm", change))
        assert shown.mode == "RGB"
        assert np.abs(np.asarray(shown).astype(int) - red).max() <= 3

    def test_a_compressed_film_is_unpacked(self, tmp_path: Path) -> None:
        dataset = write_dicom(tmp_path / "a.dcm", RAMP)
        plain = pixels(tmp_path / "a.dcm")
        dataset.compress(RLELossless)
        dataset.save_as(tmp_path / "b.dcm", enforce_file_format=True)
        assert (pixels(tmp_path / "b.dcm") == plain).all()

    def test_a_file_is_known_by_its_content(self, tmp_path: Path) -> None:
        write_dicom(tmp_path / "a.dcm", RAMP)
        (tmp_path / "a.dcm").rename(tmp_path / "a.jpg")
        assert pixels(tmp_path / "a.jpg").shape == RAMP.shape

    @pytest.mark.parametrize("keyword", ["PixelData", "Rows", "BitsAllocated", "PhotometricInterpretation"])
    def test_a_file_that_lacks_what_is_needed_is_named(self, tmp_path: Path, keyword: str) -> None:
        path = written(tmp_path / "a.dcm", lambda dataset: dataset.__delattr__(keyword))
        with pytest.raises(ChipError, match=r"a\.dcm"):
            open_picture(path)

    def test_more_pixels_than_any_radiograph_has_are_refused_before_they_are_decoded(self, tmp_path: Path) -> None:
        def change(dataset: Dataset) -> None:
            dataset.Rows = dataset.Columns = 60_000

        with pytest.raises(ChipError, match=r"a\.dcm has more than 80,000,000 pixels"):
            open_picture(written(tmp_path / "a.dcm", change))

    def test_a_file_that_is_deflated_as_a_whole_is_refused_before_it_is_inflated(self, tmp_path: Path) -> None:
        def change(dataset: Dataset) -> None:
            dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

        with pytest.raises(ChipError, match=r"a\.dcm does not decode as an image \(it is deflated as a whole\)"):
            open_picture(written(tmp_path / "a.dcm", change))

    def test_without_pydicom_the_extra_is_named_and_no_image_is_counted_as_damaged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_dicom(tmp_path / "a.dcm", RAMP)
        monkeypatch.setitem(sys.modules, "pydicom", None)
        problems = Problems()
        with pytest.raises(ChipError, match=r"chip-unlearning\[dicom\]"):
            picture_or_none(Picture(tmp_path / "a.dcm"), problems, "a")
        assert not problems.counts


class TestPhotographs:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    def test_every_kind_of_png_becomes_grey_or_colour_of_eight_bits(self, tmp_path: Path, mode: str) -> None:
        grey = Image.fromarray((RAMP * 255).astype(np.uint8))
        image = Image.fromarray((RAMP * 65535).astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
        image.save(tmp_path / "a.png")
        shown = open_picture(tmp_path / "a.png")
        assert shown.mode == ("RGB" if mode in ("P", "RGB", "RGBA") else "L")
        if mode != "1":
            assert np.abs(np.asarray(shown.convert("L")).astype(int) - np.asarray(grey)).max() <= 1

    def test_a_photograph_is_turned_upright(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray((RAMP * 255).astype(np.uint8)).save(tmp_path / "a.jpg", exif=exif)
        assert open_picture(tmp_path / "a.jpg").size == (8, 64)

    @pytest.mark.parametrize("side", [9_000, 20_000])
    def test_an_absurdly_large_image_is_refused(self, tmp_path: Path, side: int) -> None:
        Image.new("1", (side, side)).save(tmp_path / "a.png")
        with pytest.raises(ChipError, match=r"a\.png"):
            open_picture(tmp_path / "a.png")
        assert self.counted(tmp_path / "a.png") == {kinds.LARGE_IMAGE: 1}

    def test_so_is_a_dicom_file_that_claims_so_many_pixels(self, tmp_path: Path) -> None:
        def claim(dataset: Dataset) -> None:
            dataset.Rows = dataset.Columns = 9_000

        assert self.counted(written(tmp_path / "a.dcm", claim)) == {kinds.LARGE_IMAGE: 1}

    def test_the_kind_names_the_limit(self) -> None:
        assert f"{MOST_PIXELS // 10**6} million pixels" in kinds.LARGE_IMAGE

    @staticmethod
    def counted(path: Path) -> dict[str, int]:
        problems = Problems()
        assert picture_or_none(Picture(path), problems, "study") is None
        return problems.counts

    @pytest.mark.parametrize("content", [b"", b"no image", b"GIF89a", b"\x89PNG\r\n\x1a\n", bytes(200)])
    @pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.dcm"])
    def test_what_is_no_image_is_named_and_counted(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ChipError, match=name):
            open_picture(tmp_path / name)
        problems = Problems()
        assert picture_or_none(Picture(tmp_path / name), problems, "study") is None
        assert problems.as_json() == {kinds.UNREADABLE_IMAGE: {"count": 1, "examples": ["study"]}}

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ChipError, match="not_there"):
            open_picture(tmp_path / "not_there.jpg")


def _samples() -> dict[str, bytes]:
    found = {}
    with tempfile.TemporaryDirectory() as place:
        write_dicom(Path(place) / "a.dcm", RAMP)
        found["a.dcm"] = (Path(place) / "a.dcm").read_bytes()
    for name, form in (("a.jpg", "JPEG"), ("a.png", "PNG")):
        held = io.BytesIO()
        Image.fromarray((RAMP * 255).astype(np.uint8)).save(held, form)
        found[name] = held.getvalue()
    return found


SAMPLES = _samples()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(sorted(SAMPLES)))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_image_is_a_picture_or_a_named_error(tmp_path: Path, data: st.DataObject, name: str) -> None:
    content = bytearray(SAMPLES[name])
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    (tmp_path / name).write_bytes(content)
    problems = Problems()
    picture = picture_or_none(Picture(tmp_path / name), problems, name)
    assert problems.counts == {kinds.UNREADABLE_IMAGE: 1} if picture is None else picture.mode in ("L", "RGB")


def test_the_limit_lies_above_every_radiograph() -> None:
    assert MOST_PIXELS > 5_000 * 5_000
