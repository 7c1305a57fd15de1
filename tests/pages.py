"""Reading the pages of the documentation: headings, links, tables and fenced blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"```(?P<language>\w*)(?: title=\"(?P<title>[^\"]*)\")?\s*\Z")
_HEADING = re.compile(r"(#+) (.*?)(?: \{#([\w-]+)\})?\Z")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block and where it stands."""

    place: str
    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading; ``anchor`` is the one that was written, or empty."""

    level: int
    text: str
    anchor: str


def pages(docs: Path) -> list[Path]:
    """Return the English pages; translations carry their language before the suffix."""
    return sorted(
        p for p in docs.rglob("*.md") if p.suffixes[-2:] not in ([".ro", ".md"], [".ru", ".md"])
    )


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in their order."""
    found: list[Block] = []
    opened: re.Match[str] | None = None
    lines: list[str] = []
    start = 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if opened is None:
            opened, lines, start = _FENCE.match(line), [], number
        elif line.rstrip() == "```":
            place = f"{page.name}:{start}"
            title = opened["title"] or ""
            found.append(Block(place, opened["language"], title, "\n".join(lines)))
            opened = None
        else:
            lines.append(line)
    return found


def prose(page: Path) -> Iterator[str]:
    """Yield the lines outside of fenced blocks."""
    inside = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            yield line


def headings(page: Path) -> list[Heading]:
    """Return the headings of a page."""
    matches = (_HEADING.match(line) for line in prose(page))
    return [Heading(len(m[1]), m[2], m[3] or "") for m in matches if m]


def links(page: Path) -> list[str]:
    """Return where the links of a page lead."""
    return [target for line in prose(page) for target in _LINK.findall(line)]


def rows(page: Path, *, under: str = "") -> list[list[str]]:
    """Return the rows of the tables of a page, or of its section with the anchor ``under``."""
    found: list[list[str]] = []
    section = ""
    for line in prose(page):
        if heading := _HEADING.match(line):
            section = heading[3] or section
        if line.startswith("|") and not set(line) <= set("|- :") and under in ("", section):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            found.append([cell.strip().replace("\\|", "|") for cell in cells])
    return found


def code(text: str) -> list[str]:
    """Return what stands between backticks in ``text``."""
    return re.findall(r"`([^`]+)`", text)
