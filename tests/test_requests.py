"""A file of requests: every line is checked before anything runs, and errors name line and key."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chip.errors import ChipError
from chip.settings import EditSettings
from chip.workflow.requests import read_requests

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
REQUEST = st.dictionaries(st.sampled_from(["forget", "out", "settings", "other"]), JSON, max_size=4)


def written(path: Path, *lines: Any) -> Path:
    """A file of requests; objects become lines, and lines are taken as they are."""
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("\n".join(texts) + "\n")
    return path


class TestReading:
    def test_what_is_not_given_has_its_default(self, tmp_path: Path) -> None:
        first, second = read_requests(
            written(
                tmp_path / "requests",
                {"forget": "patient_1"},
                "",
                {"forget": ["a", "b/c"], "out": "both", "settings": {"method": "oblique", "strength": 2}},
            )
        )
        assert (first.line, first.forget, first.name, first.settings) == (
            1, ("patient_1",), "request-0001", EditSettings()
        )  # fmt: skip
        assert first.fixed == frozenset()
        assert (second.line, second.forget, second.name) == (3, ("a", "b/c"), "both")
        assert second.settings == EditSettings(method="oblique", strength=2.0)
        assert second.fixed == {"method", "strength"}

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("{", "not a JSON object"),
            ("[]", "not a JSON object"),
            ('{"forget": "a", "forget": "b"}', "a name stands in it twice"),
            ({"forget": "a", "force": True}, "no key is called 'force'"),
            ({}, '"forget" must be the name of a node'),
            ({"forget": []}, '"forget" must be the name of a node'),
            ({"forget": [1]}, '"forget" must be the name of a node'),
            ({"forget": "a", "out": "/etc/passwd"}, '"out" must be a name inside'),
            ({"forget": "a", "out": ".."}, '"out" must be a name inside'),
            ({"forget": "a", "out": "a/../../b"}, '"out" must be a name inside'),
            ({"forget": "a", "out": ".hidden"}, '"out" must be a name inside'),
            ({"forget": "a", "out": "a\0"}, '"out" must be a name inside'),
            ({"forget": "a", "out": "x" * 300}, '"out" must be a name inside'),
            ({"forget": "a", "out": "ledger.json"}, "chip keeps a file of its own there"),
            ({"forget": "a", "out": "x.receipt.json"}, "chip keeps a file of its own there"),
            ({"forget": "a", "settings": []}, '"settings" must be an object'),
            ({"forget": "a", "settings": {"strengh": 1}}, "no setting is called 'strengh'"),
            ({"forget": "a", "settings": {"strength": "1"}}, 'strength cannot be "1"'),
            ({"forget": "a", "settings": {"rounds": 1.5}}, "rounds cannot be 1.5"),
            ({"forget": "a", "settings": {"rounds": True}}, "rounds cannot be true"),
            ({"forget": "a", "settings": {"strength": -1}}, "--strength must be a finite number above 0"),
            ('{"forget": "a", "settings": {"strength": 1' + "0" * 400 + "}}", "--strength must be a finite number"),
            ('{"forget": "a", "settings": {"strength": NaN}}', "NaN is no number"),
        ],
    )
    def test_errors_name_the_line(self, tmp_path: Path, line: Any, problem: str) -> None:
        path = written(tmp_path / "requests", {"forget": "fine"}, line)
        with pytest.raises(ChipError) as raised:
            read_requests(path, ("ledger.json",))
        assert str(raised.value).startswith(f"{path}, line 2: ")
        assert problem in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_two_requests_with_one_output_are_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path / "requests", {"forget": "a", "out": "Same"}, {"forget": "b", "out": "same"})
        with pytest.raises(ChipError, match=r'line 2: "out" is the name of the request on line 1'):
            read_requests(path)

    def test_the_same_request_twice_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path / "requests", {"forget": ["a", "b"]}, {"forget": "c"}, {"forget": ["b", "a"]})
        with pytest.raises(ChipError, match="line 3: the same request stands on line 1"):
            read_requests(path)

    @pytest.mark.parametrize("content", ["", "\n\n"])
    def test_nothing_is_no_batch(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "requests").write_text(content)
        with pytest.raises(ChipError, match="holds no requests"):
            read_requests(tmp_path / "requests")

    @given(lines=st.lists(REQUEST | JSON, min_size=1, max_size=3))
    def test_whatever_is_in_it_the_answer_is_requests_or_one_sentence(
        self, tmp_path_factory: pytest.TempPathFactory, lines: list[Any]
    ) -> None:
        path = written(tmp_path_factory.mktemp("any") / "requests", *(json.dumps(line) for line in lines))
        with suppress(ChipError):
            for one in read_requests(path):
                assert "/" not in one.name
                assert not one.name.startswith(".")

    @given(content=st.binary(max_size=64))
    def test_no_bytes_are_a_crash(self, tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
        path = tmp_path_factory.mktemp("bytes") / "requests"
        path.write_bytes(content)
        with pytest.raises(ChipError):
            read_requests(path)
