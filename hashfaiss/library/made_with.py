"""Which libraries made the codes of an index: another release may decode or compute otherwise."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

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


def noted(store: CodeStore) -> list[dict[str, str]]:
    """What the manifest is to say of the libraries that made codes so far, those at hand among them, oldest first."""
    before: list[dict[str, str]] = store.manifest.get("made_with") or []
    here = versions()
    return before if here in before else [*before, here]


def described(store: CodeStore) -> str:
    """The libraries that made the codes, for people; where several releases did, all of them."""
    made: dict[str, list[str]] = {}
    for each in store.manifest.get("made_with") or []:
        for name, number in each.items():
            if number not in made.setdefault(name, []):
                made[name].append(number)
    return ", ".join(f"{name} {' then '.join(numbers)}" for name, numbers in made.items()) or "not stored"
