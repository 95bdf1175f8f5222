"""ARCHITECTURE.md and its picture say what the import contracts say."""

from architecture import PICTURE, ROOT, draw, floors, purposes


def test_the_page_has_every_room_in_the_order_of_the_contracts() -> None:
    assert list(purposes()) == [room for floor in floors() for room in floor]


def test_every_room_is_there() -> None:
    elsewhere = {"kernels": "kernels", "hospital": "examples/hospital", "medmcqa": "examples/medmcqa"}
    for room in purposes():
        place = ROOT / elsewhere.get(room, f"chip/{room}")
        assert place.is_dir() or place.with_suffix(".py").is_file(), room


def test_the_picture_is_drawn_from_them() -> None:
    assert PICTURE.read_text(encoding="utf-8") == draw(), "run `python tests/architecture.py`"
