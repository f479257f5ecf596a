"""Which libraries made the codes of an index: another release may decode or compute otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hashfaiss.storage.store import CodeStore

LIBRARIES = ("hashfaiss", "torch", "torchvision", "torchcodec", "pillow", "pillow-heif", "timm")


def versions() -> dict[str, str]:
    """Of what decodes and encodes here: libraries, and the JPEG decoder that Pillow was built with."""
    from PIL import features

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # one that is not needed for every image
            continue
    for name, called in (("libjpeg_turbo", "libjpeg-turbo"), ("libtiff", "libtiff")):
        built_with = features.version(name)
        if built_with:
            found[called] = built_with
    return found


def note_makers(store: CodeStore, makers: Sequence[dict[str, Any]] | None = None) -> str | None:
    """Put into the manifest what makes the codes to be committed next; say what decodes otherwise than it did.

    Args:
        makers: manifests of the stores that the codes were put into first, which say it; None: they are made here.
    """
    from hashfaiss.images.probes import decoders

    troubles = []
    if makers is None:
        makers = [{"made_with": [versions()], "decoders": decoders()}]
    for maker in makers:
        before: list[dict[str, str]] = store.manifest.get("made_with") or []
        new = [each for each in maker.get("made_with") or [] if each not in before]
        store.manifest["made_with"] = before + new
        troubles.append(_trouble(store.manifest.get("decoders") or {}, maker.get("decoders") or {}))
        store.manifest["decoders"] = store.manifest.get("decoders") or maker.get("decoders")
    return next(filter(None, troubles), None)


def decoders_trouble(store: CodeStore) -> str | None:
    """Which kinds of files are decoded here to other pixels than when the first codes were made; None for none."""
    from hashfaiss.images.probes import decoders

    before = store.manifest.get("decoders") or {}
    return _trouble(before, decoders() if before else {})


def _trouble(before: dict[str, str], here: dict[str, str]) -> str | None:
    other = [name for name, digest in before.items() if here.get(name, digest) != digest]
    if not other:
        return None
    return (
        f"{', '.join(other)} files give other pixels here than where the codes were made (see `hashfaiss info`): codes "
        "of the same image may differ in a few bits; to have all alike, build another index"
    )


def described(store: CodeStore) -> str:
    """The libraries that made the codes, for people; where several releases did, all of them."""
    made: dict[str, list[str]] = {}
    for each in store.manifest.get("made_with") or []:
        for name, number in each.items():
            if number not in made.setdefault(name, []):
                made[name].append(number)
    return ", ".join(f"{name} {' then '.join(numbers)}" for name, numbers in made.items()) or "not stored"
