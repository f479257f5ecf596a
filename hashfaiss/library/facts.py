"""What an index holds and how it is searched, in words and numbers."""

from __future__ import annotations

from typing import Any

from hashfaiss.indexes import CodeIndex, kernels
from hashfaiss.indexes.tuning import FLAT_UP_TO
from hashfaiss.library.made_with import described
from hashfaiss.storage.store import CodeStore


def describe(store: CodeStore, codes: CodeIndex) -> dict[str, Any]:
    """As plain values: what `ImageIndex.info` returns."""
    kind, manifest, distinct = codes.kind, store.manifest, len(codes.distinct)
    abilities = kind.abilities
    return {
        "images": len(store),
        "distinct_codes": distinct,
        "bits": store.bits,
        "labels": len(store.labels()),
        "method": manifest["encoder"]["method"],
        "encoder": manifest["encoder"]["identity"] or "none: it is asked with codes and ids",
        "made_with": described(store),
        "kind": str(kind),
        "why": _why(manifest),
        "kernels": kernels.available() or "none: FAISS",
        "search": f"{abilities.summary}; {abilities.guarantee}",
        "answers": _answers(codes),
        "exact": abilities.exact,
        "radius": abilities.radius,
        "filters": abilities.filter,
        "removal": abilities.removal,
        "bytes_per_code": f"{kind.held_bytes / max(1, distinct):.1f} "
        f"({abilities.bytes_per_code.replace('W', str(kind.width))})",
        "generation": manifest["generation"],
        "segments": len(manifest["segments"]),
    }


def _answers(codes: CodeIndex) -> str:
    """What a person's query is answered with, and why."""
    said = "exact by default, as encoding an image takes longer than proving its answer; approximate if asked"
    if codes.trust is None:
        return f"{said}, as the kind's probes find them"
    return f"{said}, tuned for up to {codes.trust.most:,} nearest: exact beyond these, and where answers are far"


def _why(manifest: dict[str, Any]) -> str:
    """Why FAISS's kind is what it is."""
    why: str = (manifest.get("index") or {}).get("why", "")
    if why or manifest["kind"] != "auto":
        return why or "asked for"
    return f"auto: at most {FLAT_UP_TO:,} distinct codes"
