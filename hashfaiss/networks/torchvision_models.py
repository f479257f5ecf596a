"""torchvision's ResNet18 and AlexNet without the rest of torchvision.

`import torchvision` takes three seconds, most of them for detection operators that bring torch's compiler along. The
files of these two models need none of it. Where torchvision is not imported yet, they are therefore loaded from its
folder alone, by packages that stand in for its own and are taken away again: whoever imports torchvision later gets
it whole, and knows nothing of these.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

_LOCK = threading.Lock()
_MODELS = ("torchvision.models.resnet", "torchvision.models.alexnet")


def _load() -> tuple[Any, Any]:
    with _LOCK:
        if "torchvision" not in sys.modules:
            try:
                return _alone()
            except Exception:  # a torchvision that is built another way: then all of it
                pass
            finally:
                for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                    del sys.modules[name]
        resnet, alexnet = map(importlib.import_module, _MODELS)
        return resnet, alexnet


def _alone() -> tuple[Any, Any]:
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        raise ImportError("torchvision")
    (folder,) = found.submodule_search_locations
    outer, inner = _stand_in("torchvision", folder), _stand_in("torchvision.models", f"{folder}/models")
    outer.models = inner  # type: ignore[attr-defined]
    resnet, alexnet = map(importlib.import_module, _MODELS)
    return resnet, alexnet


def _stand_in(name: str, folder: str) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = [folder]
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module
    return module


resnet, alexnet = _load()
