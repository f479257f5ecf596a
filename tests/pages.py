"""HTML pages, read as a browser reads them."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

VOID = {"meta", "img", "wbr", "br"}


class Page(HTMLParser):
    """Elements by name with attributes and text, and that each is closed where it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.source = source
        self.feed(self.source)
        self.close()
        assert not self.open
        ids = [about["id"] for _, about, _ in self.elements if "id" in about]
        assert len(ids) == len(set(ids))

    @classmethod
    def read(cls, path: Path) -> Page:
        return cls(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = (tag, {name: value or "" for name, value in attrs}, [])
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data.replace("\xa0", " "))  # of names, these are escaped

    def of(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        return [about for name, about, _ in self.elements if name == tag and about.get("class", "") == kind]

    def texts(self, tag: str, kind: str = "") -> list[str]:
        return ["".join(text) for name, about, text in self.elements if name == tag and about.get("class", "") == kind]

    def paths(self) -> list[list[str]]:
        """Of each group's text."""
        return [text.split("\n") for text in self.texts("textarea")]


def thumbnail(image: dict[str, str]) -> Image.Image:
    kind, data = image["src"].split(",")
    assert kind == "data:image/jpeg;base64"
    made = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert (made.format, made.size) == ("JPEG", (int(image["width"]), int(image["height"])))
    return made.convert("RGB")
