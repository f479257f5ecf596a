"""Methods by name.

A deep one (`Method`) is a loss over a network's outputs; a shallow one (`Shallow`) is solved on the features of a
network that stays as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hashfaiss import extensions
from hashfaiss.errors import ArgumentError
from hashfaiss.train.methods.adsh import ADSH
from hashfaiss.train.methods.cca_itq import CCAITQ
from hashfaiss.train.methods.crh import CRH
from hashfaiss.train.methods.csq import CSQ
from hashfaiss.train.methods.dath import DATH
from hashfaiss.train.methods.dbdh import DBDH
from hashfaiss.train.methods.dfh import DFH
from hashfaiss.train.methods.dhd import DHD
from hashfaiss.train.methods.dhida import DHIDA
from hashfaiss.train.methods.dhn import DHN
from hashfaiss.train.methods.dpn import DPN
from hashfaiss.train.methods.dpsh import DPSH
from hashfaiss.train.methods.dsdh import DSDH
from hashfaiss.train.methods.dsh import DSH
from hashfaiss.train.methods.dtsh import DTSH
from hashfaiss.train.methods.gah import GAH
from hashfaiss.train.methods.hashnet import HashNet
from hashfaiss.train.methods.hyp2 import HyP2
from hashfaiss.train.methods.idhn import IDHN
from hashfaiss.train.methods.itq import ITQ
from hashfaiss.train.methods.lcdsh import LCDSH
from hashfaiss.train.methods.lsh import LSH
from hashfaiss.train.methods.method import About, Method, Shallow, SteppingMethod
from hashfaiss.train.methods.orthohash import OrthoHash
from hashfaiss.train.methods.pca_rr import PCARR
from hashfaiss.train.methods.sdh import SDH

__all__ = [
    "METHODS",
    "About",
    "Method",
    "Shallow",
    "SteppingMethod",
    "build_method",
    "method_class",
    "method_defaults",
    "method_names",
]

METHODS: dict[str, type[Method] | type[Shallow]] = {
    "dhida": DHIDA,
    "dath": DATH,
    "adsh": ADSH,
    "crh": CRH,
    "csq": CSQ,
    "dbdh": DBDH,
    "dfh": DFH,
    "dhd": DHD,
    "dhn": DHN,
    "dpn": DPN,
    "dpsh": DPSH,
    "dsdh": DSDH,
    "dsh": DSH,
    "dtsh": DTSH,
    "gah": GAH,
    "hashnet": HashNet,
    "hyp2": HyP2,
    "idhn": IDHN,
    "lcdsh": LCDSH,
    "orthohash": OrthoHash,
    "lsh": LSH,
    "pca-rr": PCARR,
    "itq": ITQ,
    "cca-itq": CCAITQ,
    "sdh": SDH,
}


def method_names() -> tuple[str, ...]:
    """Those of METHODS, and those that other packages add."""
    return tuple(dict.fromkeys((*METHODS, *extensions.added(extensions.METHODS))))


def method_class(name: str) -> type[Method] | type[Shallow]:
    """The class of the method called `name`; ArgumentError where there is none."""
    kind: type[Method] | type[Shallow] | None = METHODS.get(name)
    kind = kind or extensions.load_added(extensions.METHODS, name, (Method, Shallow))
    if kind is None:
        raise ArgumentError(f"unknown method {name!r}: give one of {', '.join(method_names())}")
    return kind


def method_defaults(name: str) -> dict[str, Any]:
    """The options of the method called `name` and their defaults, in the order of its class's signature."""
    parameters = inspect.signature(method_class(name)).parameters.values()
    return {option.name: option.default for option in parameters if option.default is not option.empty}


def build_method(name: str, labels: Tensor, bits: int, options: Mapping[str, Any]) -> Method | Shallow:
    """The method called `name` for training images with these labels, 0/1 (N, classes).

    Raises:
        ArgumentError: an unknown one, or options it does not take.
    """
    kind, known = method_class(name), method_defaults(name)
    for option in options:
        if option not in known:
            takes = ", ".join(known) or "none"
            raise ArgumentError(f"the method {name!r} has no option {option!r}; its options: {takes}")
    return kind(labels, bits, **options)
