"""The site of docs/: links that lead out of docs/ are followed, and none that leads nowhere passes."""

import re
import shutil
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parents[1]


def built(directory: Path, link: str) -> Path:
    """The site of a small repository, by this one's settings, one of whose pages has a link."""
    (directory / "docs").mkdir()
    (directory / "results").mkdir()
    shutil.copytree(ROOT / "docs" / "tools", directory / "docs" / "tools")
    (directory / "docs" / "site.css").write_text("")
    (directory / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[0])
    (directory / "README.md").write_text("# Readme\n\n[The way in](docs/index.md)\n")
    (directory / "results" / "all.md").write_text("# Results\n\n## Of today\n\n[Back](../docs/index.md#there)\n")
    (directory / "docs" / "index.md").write_text(f"# Index\n\n## There\n\n[A link]({link})\n")
    settings = load_config(config_file=str(directory / "mkdocs.yml"))
    build(settings)
    return Path(settings.site_dir)


def test_a_page_outside_of_docs_comes_along_with_links_both_ways(tmp_path: Path) -> None:
    site = built(tmp_path, "../results/all.md#of-today")
    assert 'href="results/all.html#of-today"' in (site / "index.html").read_text(encoding="utf-8")
    assert 'href="../index.html#there"' in (site / "results" / "all.html").read_text(encoding="utf-8")


def test_a_page_of_the_site_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = (built(tmp_path, "#there") / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*", page)


@pytest.mark.parametrize(
    "link", ["nowhere.md", "../results/none.md", "../results/all.md#of-tomorrow", "#nowhere", "/docs"]
)
def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path, link: str) -> None:
    with pytest.raises(Abort):
        built(tmp_path, link)
