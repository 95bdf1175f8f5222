"""What lets the pages be one text on GitHub and in the site: a hook of mkdocs, which mkdocs.yml names.

Pages link as files of the repository do: `../benchmarks/results/frontier.md`. Whatever a page links to outside of docs/
comes along into the site at its place in the repository, and links are turned to where it then stands; the README too,
so that its links are checked with all others. Links that lead nowhere are left alone: mkdocs names them, and fails.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_DOCS = "docs/"
_README = {"README.md": "readme.md"}  # as a README it would stand for index.md
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_ELSEWHERE = re.compile(r"[a-z]+:|#|/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README and every file that a page leads to, however many links away."""
    root = Path(config.config_file_path).parent
    waiting = ["README.md", *(_DOCS + file.src_uri for file in files if file.is_documentation_page())]
    while waiting:
        path = waiting.pop()
        _add(files, config, root, path)
        known = {file.src_uri for file in files}
        for target in _targets(path, (root / path).read_text(encoding="utf-8")):
            if _place(target) not in known and (root / target).is_file():
                _add(files, config, root, target)
                known.add(_place(target))
                waiting += [target] if target.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """The page with its links turned from places in the repository to places in the site."""
    place = page.file.src_uri
    path = next((own for own, there in _README.items() if there == place), place)
    if (Path(config.docs_dir) / place).is_file():
        path = _DOCS + place

    def turned(found: re.Match[str]) -> str:
        opening, link, closing = found.groups()
        if _ELSEWHERE.match(link):
            return found[0]
        file, hash_sign, anchor = link.partition("#")
        target = posixpath.relpath(_place(_resolved(path, file)), posixpath.dirname(place) or ".")
        return f"{opening}{target}{hash_sign}{anchor}{closing}"

    return _LINK.sub(turned, markdown)


def _add(files: Files, config: MkDocsConfig, root: Path, path: str) -> None:
    if files.get_file_from_path(_place(path)) is None:
        files.append(File.generated(config, _place(path), abs_src_path=str(root / path)))


def _targets(path: str, markdown: str) -> Iterator[str]:
    """The files of the repository that a page links to, by their paths in it."""
    for found in _LINK.finditer(markdown):
        if not _ELSEWHERE.match(found[2]):
            yield _resolved(path, found[2].partition("#")[0])


def _resolved(path: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _place(path: str) -> str:
    """Where a file of the repository stands in the site."""
    return _README.get(path, path.removeprefix(_DOCS))
