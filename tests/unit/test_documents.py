"""The pages do not lie: links lead somewhere, and the commands and names they mention exist.

Read from the Markdown text. What generated pages say is compared with the code where they are generated.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from sdwan.cli.bpf import sdwan_bpf
from sdwan.cli.main import sdwan
from sdwan.model import DropReason

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for folder in (".", "docs", "bpf", "config", "vagrant", "tests/vectors")
    for path in (ROOT / folder).glob("*.md" if folder != "docs" else "**/*.md")
)
IDS = [str(path.relative_to(ROOT)) for path in PAGES]


def links_of(text: str) -> list[str]:
    """Return the relative targets of Markdown links, without their anchors."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target.partition("#")[0] for target in targets if "://" not in target and target[0] != "#"]


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))


def commands_of(text: str, program: str) -> list[list[str]]:
    """Return the subcommand words of each call of ``program`` in code blocks and spans.

    ``sdwan edge run|status -c X`` gives [edge, run] and [edge, status].
    """
    code = re.findall(r"^```[^\n]*\n(.*?)^```|`([^`\n]+)`", text, re.M | re.S)
    calls = re.findall(
        rf"(?:^|[\s/])(?<!-){program} ([a-z][a-z|-]*(?: [a-z][a-z|-]*)*)", "\n".join(a or b for a, b in code)
    )
    found = []
    for call in calls:
        *head, last = call.split(" ")
        found += [[*head, word] for word in last.split("|")] if "|" in last else [[*head, last]]
    return found


def unknown_word(command: click.Command, words: list[str]) -> str | None:
    """Return the first word that is no subcommand of the group reached so far, or None."""
    context = click.Context(command)
    for word in words:
        if not isinstance(command, click.Group):
            return None  # an argument
        following = command.get_command(context, word)
        if following is None:
            return word
        command = following
    return None


def test_the_detectors_see_a_broken_page():
    assert links_of("[a](docs/x.md#y) [b](https://example.org) [c](#here)") == ["docs/x.md"]
    assert commands_of("`sdwan edge run|check -c F`", "sdwan") == [["edge", "run"], ["edge", "check"]]
    group = click.Group("sdwan", commands=[click.Group("edge", commands=[click.Command("run")])])
    assert unknown_word(group, ["edge", "fly"]) == "fly"
    assert unknown_word(group, ["edge", "run", "file"]) is None


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_somewhere(page):
    assert [link for link in links_of(page.read_text()) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_make_target_exists(page):
    mentioned = set(re.findall(r"(?:`|^|&& )make ([a-z][a-z-]*)", page.read_text(), re.M))
    assert mentioned <= make_targets()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_exists(page):
    text = page.read_text()
    for program, group in (("sdwan", sdwan), ("sdwan-bpf", sdwan_bpf)):
        for words in commands_of(text, program):
            assert unknown_word(group, words) is None, f"{program} {' '.join(words)}"


def test_every_reason_in_the_troubleshooting_page_is_one():
    page = (ROOT / "docs/operate/troubleshooting.md").read_text()
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", page)) - {"rp_filter", "sdwan_drops_total"}
    assert "unknown_receiver" in named
    assert named <= {reason.name.lower() for reason in DropReason}
