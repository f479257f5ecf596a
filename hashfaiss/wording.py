"""Numbers and names as people read them. Pure text: what reads it, a terminal or a page, does the rest."""

from __future__ import annotations

import unicodedata


def counted(number: int, what: str) -> str:
    """`1 image`, `1,000 images`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """`text` with what nobody must be shown (control characters, bytes that are no text) written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def composed(text: str) -> str:
    """A name in the form it is compared in (NFC): Macs write é as e and an accent."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
