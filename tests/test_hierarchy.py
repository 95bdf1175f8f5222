"""Who stands where: names mean one node, a split divides every record once, and parts meet their nearest kin."""

from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chip.errors import ChipError
from chip.hierarchy import Hierarchy, NodePath, Record, comparison_sets, is_under, shape

LEVELS = ("institution", "patient", "study", "section")
PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(tuple)
TREES = st.lists(PATHS, min_size=2, max_size=24)


def tree(*spelled: str) -> Hierarchy:
    """A hierarchy from paths such as `a/b/c`, in order."""
    return Hierarchy(LEVELS, [Record(tuple(path.split("/")), "q", "a", line=n) for n, path in enumerate(spelled, 1)])


HOSPITAL = tree(
    "inst_0/patient_0/study_0/FINDINGS",
    "inst_0/patient_0/study_1/FINDINGS",
    "inst_0/patient_1",
    "inst_1/patient_2/study_2/IMPRESSION",
    "inst_1",
)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "node"),
        [
            ("patient_0", "inst_0/patient_0"),
            ("study_1", "inst_0/patient_0/study_1"),
            ("study_1/FINDINGS", "inst_0/patient_0/study_1/FINDINGS"),
            ("patient_0/study_0/FINDINGS", "inst_0/patient_0/study_0/FINDINGS"),
            ("inst_1/patient_2", "inst_1/patient_2"),
            ("inst_1", "inst_1"),
            ("IMPRESSION", "inst_1/patient_2/study_2/IMPRESSION"),
        ],
    )
    def test_a_name_a_trailing_part_and_a_whole_path_mean_the_node(self, name: str, node: str) -> None:
        assert HOSPITAL.resolve(name) == tuple(node.split("/"))

    def test_an_ambiguous_name_lists_its_candidates(self) -> None:
        with pytest.raises(ChipError) as caught:
            HOSPITAL.resolve("FINDINGS")
        for candidate in ("inst_0/patient_0/study_0/FINDINGS", "inst_0/patient_0/study_1/FINDINGS"):
            assert candidate in str(caught.value)

    def test_many_candidates_are_counted_rather_than_all_listed(self) -> None:
        many = tree(*(f"inst_{i}/patient" for i in range(30)))
        with pytest.raises(ChipError, match=r"30 nodes.*and 22 more"):
            many.resolve("patient")

    def test_an_unknown_name_suggests_what_is_near(self) -> None:
        with pytest.raises(ChipError, match=r"did you mean .*patient_2"):
            HOSPITAL.resolve("PATIENT_2")

    @pytest.mark.parametrize("name", ["patient_99", "", "/", "atient_0", "study_1/", "inst_0//patient_0"])
    def test_what_is_no_node_is_refused(self, name: str) -> None:
        with pytest.raises(ChipError, match="no node is called"):
            HOSPITAL.resolve(name)

    def test_a_name_is_never_a_part_of_a_name(self) -> None:
        similar = tree("inst/patient_1", "inst/patient_12", "inst/new_patient_1")
        assert similar.resolve("patient_1") == ("inst", "patient_1")

    def test_a_whole_path_wins_over_a_trailing_part(self) -> None:
        repeated = tree("ward", "east/ward")
        assert repeated.resolve("ward") == ("ward",)
        assert repeated.resolve("east/ward") == ("east", "ward")

    @given(TREES)
    def test_every_node_is_found_by_its_whole_path(self, paths: list[NodePath]) -> None:
        hierarchy = Hierarchy(LEVELS, [Record(path) for path in paths])
        for node in hierarchy.nodes:
            assert hierarchy.resolve("/".join(node)) == node
            assert hierarchy.level_of(node) == LEVELS[len(node) - 1]


class TestSplit:
    @given(TREES, PATHS)
    def test_the_groups_are_disjoint_and_complete(self, paths: list[NodePath], target: NodePath) -> None:
        inside = [i for i, path in enumerate(paths) if is_under(path, target)]
        assume(0 < len(inside) < len(paths))
        split = Hierarchy(LEVELS, [Record(path) for path in paths]).split([target])
        together = [*split.target, *split.siblings, *split.shared, *split.rest]
        assert sorted(together) == list(range(len(paths)))
        assert list(split.target) == inside
        assert sorted(split.retain) == sorted(set(range(len(paths))) - set(inside))
        assert set(split.comparison) <= set(split.retain)
        assert split.comparison

    @given(TREES, PATHS)
    def test_each_group_is_what_it_says(self, paths: list[NodePath], target: NodePath) -> None:
        assume(0 < sum(is_under(path, target) for path in paths) < len(paths))
        split = Hierarchy(LEVELS, [Record(path) for path in paths]).split([target])
        parent, depth = target[:-1], len(target)
        for i in split.siblings:
            assert parent
            assert is_under(paths[i], parent)
            assert len(paths[i]) >= depth
        assert all(is_under(target, paths[i]) and paths[i] != target for i in split.shared)
        for i in split.rest:
            assert not parent or not is_under(paths[i], parent) or len(paths[i]) < depth
            assert not is_under(target, paths[i])

    @given(TREES, st.lists(PATHS, min_size=1, max_size=4, unique=True))
    def test_several_targets_divide_the_records_as_each_record_by_itself_would_have_it(
        self, paths: list[NodePath], targets: list[NodePath]
    ) -> None:
        assume(not any(a != b and is_under(a, b) for a in targets for b in targets))
        assume(all(any(is_under(path, target) for path in paths) for target in targets))
        groups: dict[str, list[int]] = {"target": [], "shared": [], "siblings": [], "rest": []}
        for i, path in enumerate(paths):
            if any(is_under(path, target) for target in targets):
                groups["target"].append(i)
            elif any(is_under(target, path) for target in targets):
                groups["shared"].append(i)
            elif any(len(t) > 1 and len(path) >= len(t) and is_under(path, t[:-1]) for t in targets):
                groups["siblings"].append(i)
            else:
                groups["rest"].append(i)
        assume(len(groups["target"]) < len(paths))
        split = Hierarchy(LEVELS, [Record(path) for path in paths]).split(targets)
        assert {name: list(getattr(split, name)) for name in groups} == groups
        compared = {i for one in comparison_sets(paths, targets) for i in one.comparison}
        assert split.comparison == tuple(sorted(compared))

    @given(TREES, PATHS)
    def test_what_is_left_of_records_asks_what_it_asked(self, paths: list[NodePath], gone: NodePath) -> None:
        everything = Hierarchy(
            LEVELS, [Record(path, f"what of {path[-1]} in ward {i} ?") for i, path in enumerate(paths)]
        )
        left = everything.without([gone]).without([gone[:1]])
        assert left.origin is everything
        assert left.records == tuple(one for one in everything.records if not is_under(one.path, gone[:1]))
        assert left.shapes == tuple(map(shape, left.records))

    def test_an_institution_has_no_siblings(self) -> None:
        assert HOSPITAL.split([("inst_0",)]).siblings == ()

    def test_two_targets_may_be_siblings_of_each_other(self) -> None:
        split = HOSPITAL.split([("inst_0", "patient_0"), ("inst_0", "patient_1")])
        assert split.target == (0, 1, 2)
        assert split.siblings == ()
        assert split.rest == (3, 4)

    def test_the_same_target_twice_is_one_target(self) -> None:
        assert HOSPITAL.split([("inst_1",), ("inst_1",)]) == HOSPITAL.split([("inst_1",)])

    @pytest.mark.parametrize(
        ("targets", "message"),
        [
            ([("inst_0",), ("inst_0", "patient_0")], "inst_0/patient_0 lies inside inst_0"),
            ([("inst_0", "patient_0", "study_0"), ("inst_0",)], "lies inside inst_0"),
            ([("inst_0",), ("inst_1",)], "every record"),
            ([("inst_7",)], "inst_7 holds no record"),
            ([], "nothing to forget"),
        ],
    )
    def test_requests_that_cannot_be_met_are_refused(self, targets: list[NodePath], message: str) -> None:
        with pytest.raises(ChipError, match=message):
            HOSPITAL.split(targets)


def reference_comparison(
    paths: Sequence[NodePath], target: NodePath, retained: set[int]
) -> list[tuple[set[int], set[int]]]:
    """DESIGN section 4 spelled out by sets: each child against cousins, own records against own records."""
    depth = len(target)
    here = {i for i, path in enumerate(paths) if path[:depth] == target}
    children = sorted({paths[i][: depth + 1] for i in here if len(paths[i]) > depth})
    parts = [({i for i in here if paths[i][: depth + 1] == child}, True) for child in children]
    own = {i for i in here if len(paths[i]) == depth}
    parts += [(own, False)] if own else []
    found = []
    for part, is_child in parts:
        comparison: set[int] = set()
        for length in reversed(range(depth)):
            kin = {i for i in retained if paths[i][:length] == target[:length]}
            comparison = {i for i in kin if (len(paths[i]) > depth if is_child else len(paths[i]) == depth)}
            if comparison:
                break
        found.append((part, comparison or retained))
    return found


class TestComparisonSets:
    @given(TREES, st.lists(PATHS, min_size=1, max_size=3, unique=True))
    def test_they_equal_an_independent_reference(self, paths: list[NodePath], targets: list[NodePath]) -> None:
        assume(not any(a != b and is_under(a, b) for a in targets for b in targets))
        retained = {i for i, path in enumerate(paths) if not any(is_under(path, target) for target in targets)}
        expected = [pair for target in targets for pair in reference_comparison(paths, target, retained)]
        found = [(set(one.part), set(one.comparison)) for one in comparison_sets(paths, targets)]
        assert found == expected

    def test_children_meet_cousins_and_own_records_meet_own_records(self) -> None:
        paths = tree("i/p0", "i/p0/s0", "i/p0/s1", "i/p1", "i/p1/s2", "i/p1/s2/F", "j/p2/s3", "i").paths
        sets = comparison_sets(paths, [("i", "p0")])
        assert [(one.part, one.comparison) for one in sets] == [((1,), (4, 5)), ((2,), (4, 5)), ((0,), (3,))]

    def test_an_only_child_climbs_to_the_root(self) -> None:
        paths = tree("i/p0/s0/F", "j/p1/s1/F", "j/p1").paths
        (only,) = comparison_sets(paths, [("i", "p0", "s0")])
        assert only.comparison == (1,)

    def test_where_nothing_is_as_deep_everything_retained_is_compared(self) -> None:
        paths = tree("i/p0/s0/F", "j", "k").paths
        (only,) = comparison_sets(paths, [("i", "p0")])
        assert only.comparison == (1, 2)

    def test_a_target_is_never_compared_with_another_target(self) -> None:
        paths = tree("i/p0/s", "i/p1/s", "i/p2/s").paths
        sets = comparison_sets(paths, [("i", "p0"), ("i", "p1")])
        assert [one.comparison for one in sets] == [(2,), (2,)]
