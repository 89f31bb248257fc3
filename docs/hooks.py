"""Lays the site out as the repository is: a link between two files is the same in both."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
IN_THE_SITE = (
    "*.md",
    "docs/**/*.md",
    "docs/**/*.png",
    "docs/*.css",
    "benchmarks/**/*.md",
    "docker/README.md",
    "docker/grafana/*.json",
    "examples/*.ipynb",
    "zoo/README.md",
)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace the files of docs/ by those of the repository that belong to the site."""
    theirs = [file for file in files if file.src_dir != config.docs_dir]
    paths = sorted({str(path.relative_to(ROOT)) for pattern in IN_THE_SITE for path in ROOT.glob(pattern)})
    ours = [File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in paths]
    return Files([*theirs, *ours])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave the text alone of a link to what is in the repository and not in the site, such as a folder."""

    def one(link: re.Match[str]) -> str:
        target = (ROOT / page.file.src_uri).parent / link[2]
        outside = target.exists() and str(target.resolve().relative_to(ROOT)) not in files.src_uris
        return link[1] if outside else link[0]

    return LINK.sub(one, markdown)
