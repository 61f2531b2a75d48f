"""The documentation says what the code does: generated pages are fresh, links lead somewhere, shown configs pass."""

import re
from pathlib import Path

import pytest

from docs.build import ROOT, broken_links, pages
from proxy.cli.app import VERBS


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_generated_page_is_what_the_code_gives(name):
    assert (ROOT / name).read_text(encoding="utf-8") == pages()[name], "run `make docs`"


def test_no_link_is_dead():
    assert broken_links() == []


def markdown() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", markdown(), ids=lambda path: path.name)
def test_every_command_that_is_shown_exists(path):
    blocks = re.findall(r"^```\w*\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    shown = {
        found.group(1)
        for block in blocks
        for line in block.splitlines()
        if (found := re.match(r"(?:\$ )?(?:\.venv/bin/)?tidegate ([a-z]+)", line.strip()))
    }
    assert shown <= set(VERBS)


@pytest.mark.parametrize("path", markdown(), ids=lambda path: path.name)
def test_no_page_names_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(^|[\s`(])/(work|root|home)/", text)
