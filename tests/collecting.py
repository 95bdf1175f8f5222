"""What the tests of collecting share: everything that can be wanted, comparing statistics, records made on the spot."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_records import write_image, write_lines
from torch import Tensor

from chip.collect import Moments, Statistics, Wanted, collect
from chip.hierarchy import Record
from chip.models.loading import LoadedModel

QUESTIONS = (
    "who is this ?",
    "what are the findings ?",
    "what are the findings of the study ?",
    "what are the findings of the study that was performed on day 3 of the year ? " * 3,
    "when was this study performed ?",
    "?",
)
ANSWERS = ("x", "mild edema", "left effusion and no acute process whatsoever", "number 37 " * 12)


def all_wanted(loaded: LoadedModel) -> Wanted:
    """Pooled activations at every site, and every second moment that a site may have."""
    seeing = {"projector", "vision"}
    return Wanted(
        pooled=tuple(site.name for site in loaded.sites),
        answer=tuple(site.name for site in loaded.sites if site.role not in seeing),
        image=tuple(site.name for site in loaded.sites if site.role == "projector"),
    )


def apart(found: Tensor, expected: Tensor) -> float:
    """How far two tensors are apart, relative to the norm of the expected one."""
    assert found.shape == expected.shape
    return float((found.double() - expected.double()).norm()) / max(float(expected.double().norm()), 1e-30)


def assert_near(found: Statistics, expected: Statistics, tolerance: float) -> None:
    """The same sites, nodes and counts, and sums that are `tolerance` apart at most, relative to their norms."""
    assert found.wanted <= expected.wanted
    assert expected.wanted <= found.wanted
    assert found.nodes == expected.nodes
    for name, sums in expected.pooled.items():
        assert found.pooled[name].count.tolist() == sums.count.tolist()
        assert apart(found.pooled[name].total, sums.total) <= tolerance, name
        assert apart(found.pooled[name].absolute, sums.absolute) <= tolerance, name
    for mine, theirs in ((found.answer, expected.answer), (found.image, expected.image)):
        for name, moments in theirs.items():
            one = mine[name]
            assert isinstance(one, Moments)
            assert isinstance(moments, Moments)
            assert one.count == moments.count, name
            assert apart(one.outer, moments.outer) <= tolerance, name
            assert apart(one.total, moments.total) <= tolerance, name


@contextmanager
def nothing_shared() -> Iterator[None]:
    """Every record runs whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadedModel, "longest_sharing", 0)
        yield


def collect_whole(loaded: LoadedModel, records: Sequence[Record], wanted: Wanted, **options: Any) -> Statistics:
    """What is collected where every record runs whole."""
    with nothing_shared():
        return collect(loaded, records, wanted, **options)


@contextmanager
def calls(*modules: Any) -> Iterator[list[Any]]:
    """What the modules are given as their first argument, call by call."""
    given: list[Any] = []

    def note(_: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        given.append(inputs[0] if inputs else next(iter(named.values()), None))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()


def write_ward(directory: Path, images: int, questions: int = 3, side: int = 28) -> Path:
    """Records of as many images, each asked the same questions, and as many records without an image."""
    lines: list[dict[str, Any]] = []
    for number in range(images):
        name, patient = f"images/{number}.png", f"patient_{number % 7}"
        write_image(directory / name, number, side)
        for question in range(questions):
            path = ["inst_0", patient, f"study_{number}"][: 2 + question % 2]
            asked = {"path": path, "question": QUESTIONS[question % len(QUESTIONS)]}
            lines.append({**asked, "image": name, "answer": f"number {number * 37 % 101} {question}"})
        lines.append({"path": ["inst_0", patient], "question": f"{number} of whom ?", "answer": f"day {number}"})
    return write_lines(directory, *lines)
