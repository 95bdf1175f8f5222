"""The report as a page: drawn from real audits of tiny models and from the edges of what a report may hold, read as
HTML and, where Chromium is installed, opened in it."""

import copy
import json
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tiny_models
import torch
from command_line import chip_here
from safetensors.torch import load_file, save_file
from tiny_records import write_hospital

from chip.audit.figures import figures_of
from chip.audit.page import render
from chip.audit.report import schema, serialised
from chip.readable import readable

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e$\\frac{a}{b}$ & \"quoted\" 'x' #010b02"
CHROMIUM = shutil.which("chromium")
FIGURES = ("plane", "tree", "curves", "losses", "weights", "spectra")
VOID = {"meta", "link", "br", "hr", "img", "input", "col"}


class Reader(HTMLParser):
    """Elements, ids, attributes and text of a page; elements must close in the order in which they open."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


def disturb(file: Path, seed: int) -> None:
    """Add something of rank two to every down projection and to the projector."""
    weights, draw = load_file(file), torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        if name.endswith("down_proj.weight") or "projector.linear_2.weight" in name:
            left, right = (torch.randn(size, 2, generator=draw) for size in weight.shape)
            weights[name] = (weight + 0.05 * left @ right.T).contiguous()
    save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, the same with some weights changed and with others, and a hospital."""
    root = tmp_path_factory.mktemp("page")
    write_hospital(root / "data")
    tiny_models.llava(root / "model")
    for seed, name in enumerate(("edited", "gold")):
        shutil.copytree(root / "model", root / name)
        disturb(root / name / "model.safetensors", seed)
    return root


def audited(place: Path, out: str, *more: Any, forget: str = "patient_1") -> dict[str, Any]:
    """The report of a real audit, which is also written to `place / out`."""
    asked = ("audit", place / "model", place / "edited", "--data", place / "data", "--forget", forget)
    result = chip_here(*asked, "--out", place / out, "--verify-records", 8, *more)
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads((place / out / "report.json").read_bytes())
    return content


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Any]:
    """The report with everything in it: a retrained model, a compared one, examples and a curve."""
    shutil.copytree(place / "edited", place / "other")
    attacks = ("--attacks", "rephrasing", "--attacks", "prefill")
    return audited(place, "whole", "--gold", place / "gold", "--compare", place / "other", "--show-records", *attacks)


@pytest.fixture(scope="module")
def html(whole: dict[str, Any]) -> str:
    return render(whole)


@pytest.fixture(scope="module")
def hostile(whole: dict[str, Any]) -> dict[str, Any]:
    """The same in which every name and every sentence is an attempt to break out."""

    def spoiled(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: spoiled(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [spoiled(one, key) for one in value]
        fixed = key in ("format", "time", "verdict", "scale", "kind", "is_gone", "is_kept", "stays_gone", "nonmembers")
        roles = value in ("base", "edited", "gold")
        return value if not isinstance(value, str) or fixed or roles else value + HOSTILE

    spoilt: dict[str, Any] = spoiled(whole)
    return spoilt


def grown(report: Mapping[str, Any], institutions: int, patients: int) -> dict[str, Any]:
    """The report of a larger hierarchy, whose target is the last patient."""
    large = copy.deepcopy(dict(report))

    def node(path: list[str], level: str, target: bool) -> dict[str, Any]:
        right = {"base": 1.0, "edited": 0.0 if target else 0.9, "gold": 0.0 if target else 1.0}
        return {"path": path, "level": level, "target": target, "records": 3, "accuracy": right}

    large["hierarchy"] = []
    for i in range(institutions):
        large["hierarchy"].append(node([f"inst_{i}"], "institution", False))
        for p in range(patients):
            last = (i, p) == (institutions - 1, patients - 1)
            large["hierarchy"].append(node([f"inst_{i}", f"patient_{i}_{p}"], "patient", last))
    return large


class TestTheFiles:
    def test_a_report_is_two_private_files_of_which_the_page_is_drawn_from_the_other(
        self, place: Path, whole: dict[str, Any], html: str
    ) -> None:
        files = {path.name: path for path in (place / "whole").iterdir()}
        assert set(files) == {"report.json", "report.html"}
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files.values())
        assert files["report.html"].read_text() == html
        assert files["report.json"].read_bytes() == serialised(whole)
        jsonschema.validate(whole, schema())

    def test_what_chip_did_not_write_is_never_replaced(self, place: Path) -> None:
        (place / "mine").mkdir()
        (place / "mine" / "report.html").write_text("my own notes")
        asked = ("audit", place / "model", place / "edited", "--data", place / "data", "--forget", "patient_1")
        result = chip_here(*asked, "--attacks", "none", "--out", place / "mine", "--force")
        assert result.exit_code == 1
        assert "chip did not write it" in str(result.exception)
        assert (place / "mine" / "report.html").read_text() == "my own notes"

    def test_a_report_is_replaced_with_force_only(self, place: Path) -> None:
        audited(place, "again", "--attacks", "none")
        before = (place / "again" / "report.html").read_bytes()
        asked = ("audit", place / "model", place / "edited", "--data", place / "data", "--forget", "patient_0")
        assert chip_here(*asked, "--attacks", "none", "--out", place / "again").exit_code == 1
        assert (place / "again" / "report.html").read_bytes() == before
        assert chip_here(*asked, "--attacks", "none", "--out", place / "again", "--force").exit_code == 0
        assert b"patient_0" in (place / "again" / "report.html").read_bytes()


class TestThePage:
    def test_it_is_the_same_for_the_same_report(self, whole: dict[str, Any], html: str) -> None:
        assert render(copy.deepcopy(whole)) == html

    def test_every_figure_is_drawn_with_a_title_and_a_text(self, whole: dict[str, Any], html: str) -> None:
        page, drawn = Reader(html), figures_of(whole)
        assert tuple(one.name for one in drawn) == FIGURES
        assert all(one.panels and one.note for one in drawn)
        pictures = [attributes for tag, attributes in page.elements if tag == "svg"]
        assert len(pictures) == sum(len(one.panels) for one in drawn)
        for picture in pictures:
            assert picture["aria-labelledby"] in page.ids
            assert picture["aria-describedby"] in page.ids
        assert all(re.search(r"<text\b[^>]*>[^<]+</text>", panel.svg) for one in drawn for panel in one.panels)
        assert all(re.search(r"\d", panel.text) for one in drawn for panel in one.panels)

    def test_ids_are_unique_and_references_lead_somewhere(self, html: str) -> None:
        page = Reader(html)
        assert len(page.ids) == len(set(page.ids))
        led = re.findall(r"url\(#([^)]+)\)", html) + re.findall(r'href="#([^"]+)"', html)
        assert led
        assert set(led) <= set(page.ids)

    def test_it_asks_for_nothing_else_and_runs_nothing(self, html: str) -> None:
        page = Reader(html)
        assert not re.search(r"(?:https?:)?//\w", re.sub(r"arXiv \S+", "", html.partition("</style>")[2]))
        assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object", "form", "base"}
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
        policy = next(one["content"] for _, one in page.elements if one.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")

    def test_the_first_screen_answers_before_anything_else(self, whole: dict[str, Any], html: str) -> None:
        text = Reader(html).text.partition("What an attacker gets back")[0]
        for question in ("gone", "cost", "back"):
            assert whole["summary"][question] in text

    def test_headings_go_down_by_one(self, html: str) -> None:
        levels = [int(tag[1]) for tag, _ in Reader(html).elements if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))

    def test_every_value_has_its_interval_beside_it(self, whole: dict[str, Any], html: str) -> None:
        text = Reader(html).text
        for group in whole["groups"]:
            for found in group["measures"].values():
                for one in found.values():
                    if one["interval"]:
                        assert f"{one['interval']['low']:.2f} to {one['interval']['high']:.2f}" in text

    def test_names_cannot_break_out(self, hostile: dict[str, Any]) -> None:
        html = render(hostile)
        page = Reader(html)
        assert not [tag for tag, _ in page.elements if tag == "script"]
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)
        assert "<script>alert(1)</script>␛[2J" in page.text
        assert len(page.ids) == len(set(page.ids))

    def test_examples_appear_where_asked_for_only(self, whole: dict[str, Any], html: str) -> None:
        question = whole["examples"][0]["question"]
        assert question in Reader(html).text
        assert question not in Reader(render({**whole, "examples": []})).text


class TestTheEdges:
    def test_without_a_retrained_model_without_attacks_and_without_a_change(self, place: Path) -> None:
        asked = ("audit", place / "model", place / "model", "--data", place / "data", "--forget", "patient_1")
        assert chip_here(*asked, "--attacks", "none", "--out", place / "none").exit_code == 0
        report = json.loads((place / "none" / "report.json").read_bytes())
        jsonschema.validate(report, schema())
        text = Reader((place / "none" / "report.html").read_text()).text
        assert "No attack was made." in text
        assert "There is no model retrained without the target" in text
        assert "No weight differs between the two models." in text
        assert [one.name for one in figures_of(report) if not one.panels] == ["curves", "weights", "spectra"]

    @pytest.mark.parametrize("forget", ["inst_1", "study_1_0/FINDINGS"])
    def test_without_siblings_and_with_one_record(self, place: Path, forget: str) -> None:
        report = audited(place, forget.replace("/", "_"), "--attacks", "rephrasing", forget=forget)
        jsonschema.validate(report, schema())
        assert Reader((place / forget.replace("/", "_") / "report.html").read_text()).ids.count("tree-base-title") == 1

    def test_nothing_but_empty_lists_still_makes_a_page(self, whole: dict[str, Any]) -> None:
        empty = {
            **whole,
            **{name: [] for name in ("groups", "attacks", "methods", "hierarchy", "changes", "examples", "limits")},
            **{"gaps": {}, "distribution": {}, "losses": {"target": {}, "retained": {}}},
        }
        assert not any(one.panels for one in figures_of(empty))
        assert all(one.note in Reader(render(empty)).text for one in figures_of(empty))

    @pytest.mark.parametrize(("institutions", "patients"), [(1, 1), (10, 20), (3, 1000), (2000, 1)])
    def test_of_a_large_hierarchy_the_target_is_always_seen(
        self, whole: dict[str, Any], institutions: int, patients: int
    ) -> None:
        figure = next(one for one in figures_of(grown(whole, institutions, patients)) if one.name == "tree")
        target = f"inst_{institutions - 1}/patient_{institutions - 1}_{patients - 1}"
        assert [row[0] for row in figure.rows if row[0] == target]
        assert all(target in one.text for one in figure.panels)
        assert all(len(one.svg) < 200_000 for one in figure.panels)
        assert ("Not all fit" in figure.note) == (institutions * patients >= 1000)

    def test_of_a_curve_the_stronger_attack_is_on_the_right(self, whole: dict[str, Any]) -> None:
        report = copy.deepcopy(whole)
        finding = report["attacks"][0]["findings"][0]
        for found in finding["models"].values():
            found["curve"] = [[8, 0.1], [4, 0.6], [3, 0.7]]
        finding["axis"] = "bits of a weight"
        svg = next(one for one in figures_of(report) if one.name == "curves").panels[0].svg
        ticks = {bits: float(x) for x, bits in re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>([348])</text>', svg)}
        assert ticks["8"] < ticks["4"] < ticks["3"]

    def test_weights_of_every_name_are_accounted_for(self, whole: dict[str, Any]) -> None:
        names = ("model.layers.0.mlp.experts.7.down_proj.weight", "visual.merger.mlp.0.weight", "", "a.b.c", "odd name")
        changes = [{"tensor": name, "relative": 0.1, "spectrum": []} for name in names]
        figure = next(one for one in figures_of({**whole, "changes": changes}) if one.name == "weights")
        assert {row[0] for row in figure.rows} == set(names)
        assert "4 of them stand in no layer" in figure.note
        assert "mlp.experts.*.down_proj" in figure.panels[0].svg


def test_what_is_readable_stays_and_what_acts_is_shown() -> None:
    assert readable("Zoë, 患者, مريض, a\u200cb\n\t") == "Zoë, 患者, مريض, a\u200cb\n\t"
    assert readable("\x1b[31m\x00\x7f\u202e\ud800") == "␛[31m␀␡\ufffd\ufffd"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    quiet = ("background-networking", "component-update", "sync")
    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", *(f"--disable-{one}" for one in quiet)]
    with playwright.sync_playwright() as runner:
        started = runner.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments)
        yield started
        started.close()


class TestInChromium:
    @pytest.fixture(scope="class")
    def written(self, hostile: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("written") / "report.html"
        path.write_text(render(hostile))
        return path

    @pytest.mark.parametrize("width", [320, 768, 1280])
    def test_it_loads_alone_draws_every_figure_and_fits(self, browser: Any, written: Path, width: int) -> None:
        context = browser.new_context(viewport={"width": width, "height": 800})
        page, asked, said = context.new_page(), [], []
        page.on("request", lambda one: asked.append(one.url))
        page.on("console", lambda one: said.append(one.text))
        page.on("pageerror", lambda one: said.append(str(one)))
        page.goto(written.as_uri(), wait_until="networkidle")
        assert asked == [written.as_uri()]
        assert said == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = page.evaluate(
            "[...document.querySelectorAll('svg')].map(one => [one.getBoundingClientRect().width,"
            "one.getBoundingClientRect().height, one.querySelectorAll('text').length])"
        )
        assert len(boxes) >= len(FIGURES)
        assert all(wide > 100 and high > 50 and texts for wide, high, texts in boxes)
        context.close()

    @pytest.mark.parametrize(
        ("width", "look"),
        [(1280, {}), (1280, {"color_scheme": "dark"}), (320, {}), (1280, {"media": "print"})],
        ids=["light", "dark", "phone", "print"],
    )
    def test_axe_finds_nothing(self, browser: Any, written: Path, width: int, look: dict[str, str]) -> None:
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        context = browser.new_context(viewport={"width": width, "height": 800}, bypass_csp=True)
        page = context.new_page()
        page.emulate_media(**look)
        page.goto(written.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        found = axe.run(page).response
        assert len(found["passes"]) > 30
        assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]] == []
        context.close()

    def test_the_first_screen_of_a_phone_holds_the_three_answers(self, browser: Any, html: str, tmp_path: Path) -> None:
        (tmp_path / "report.html").write_text(html)
        context = browser.new_context(viewport={"width": 360, "height": 640})
        page = context.new_page()
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.querySelector('.answers').getBoundingClientRect().bottom") <= 640
        context.close()

    def test_it_prints_to_pages_of_a4(self, browser: Any, written: Path) -> None:
        page = browser.new_page()
        page.goto(written.as_uri())
        printed = page.pdf(prefer_css_page_size=True)
        boxes = {tuple(float(one) for one in box.split()) for box in re.findall(rb"/MediaBox ?\[([^\]]+)\]", printed)}
        assert {(round(x), round(y)) for _, _, x, y in boxes} == {(595, 842)}
        page.close()
