"""What a person may say of a training: each setting once, with what the command line and the checks need to know.

Imports no torch: the command line makes its options of these.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hashfaiss.images.preprocessing import Fit
    from hashfaiss.networks.attention import PreConvolution, StatAxis
    from hashfaiss.networks.dual_stream import Streams
    from hashfaiss.networks.hashing import Attention
    from hashfaiss.networks.heads import Head
    from hashfaiss.train.data import Augment

Optimiser = Literal["rmsprop", "sgd", "adam", "adamw"]
Schedule = Literal["steps", "cosine", "one-cycle"]
Select = Literal["validation", "on-queries"]
Path = str | os.PathLike[str]


def setting(
    help: str = "", default: Any = None, common: Any = None, least: float | None = None, above: bool = False
) -> Any:
    """A field of `TrainOptions`.

    Args:
        help: of the command line's option, which takes the field's name; without it there is none.
        default: where nothing is said; None is the recipe's.
        common: what it is where a method's recipe leaves it out.
        least: the least number it may be: whole where this is an int; with `above`, 0 itself is refused.
    """
    return field(default=default, metadata={"help": help, "common": common, "least": least, "above": above})


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train, on what, and how. Where None stands, the method's recipe says what it is.

    Attributes:
        images: folder of images.
        out: the model file to write; the training's own files go to `<out without suffix>.training/` beside it.
        labels: CSV or list file; None takes the folder an image lies in as its label.
        method: a name in `methods.METHODS`.
        bits: K.
        network: "hash" (`HashNetwork`) or "dual-stream" (`DualStreamNetwork`); shallow methods have their own.
        backbone: a name that `backbones.build_backbone` takes.
        attention, stat_axis, attention_width, pre_conv: of "hash", see `HashNetwork`.
        streams: of "dual-stream", see `DualStreamNetwork`.
        head: see `networks.heads.build_head`; None is the method's own.
        weights: "imagenet", "none" or a file, see `load_weights`.
        size: side in pixels of what the network sees; None is the backbone's own.
        fit: "crop" or "stretch", see `Preprocessing`.
        epochs, batch: times through the images, and images a step.
        freeze: train what stands behind the backbone alone, for `epochs`, on features that are computed once.
        finetune: epochs of the whole network after those.
        minutes: for the whole training; decides `finetune` with `freeze`, else `epochs`, from measured images a second.
        schedule: see `phases.rate_factor`.
        optimiser, learning_rate, momentum, nesterov, weight_decay: momentum and nesterov are of "sgd".
        backbone_rate: the backbone's learning rate as a multiple of the hash layer's.
        lr_step: epochs after which the learning rate is multiplied by `lr_factor`; None is the recipe's, which follows
            `epochs` where that differs from the recipe's.
        method_options: arguments of the method's class; those left out are the recipe's, then the class's.
        augment, strong_augment: see `data.augment_batch`; the latter makes the second view of methods that take two.
        select: the best epoch by "validation" on a share of the training images, or "on-queries" as the popular code
            does, which looks at the test set.
        validation: that share, 0 for none; None is 0.1, or 0 with "on-queries".
        queries, database, cutoff: label files and R for "on-queries".
        evaluate_every: epochs between validations; the last epoch always has one.
        seed: of weights, order, augmentation and validation split.
        device: "auto", "cpu", "cuda", "cuda:1", "mps", ...
        precision: "auto", "float32", "bfloat16" or "float16", of the forward pass.
    """

    images: Path
    out: Path
    labels: Path | None = None
    method: str = setting(
        "See `hashfaiss methods`; default: hashnet, or dhida with --epochs alone, --weights none or --network.", "dhida"
    )
    bits: int = setting("Bits of a code, 1 to 1024.", 64)
    backbone: str | None = setting(
        "resnet18, alexnet, resnet-small, efficientnet-lite0, or timm/NAME for any of timm's.", common="resnet18"
    )
    weights: Path = setting(
        "imagenet (the default: a download, but for efficientnet-lite0), none, or the file of a state dict.", "imagenet"
    )
    network: str | None = setting("hash (one backbone) or dual-stream (DATH's).", common="hash")
    attention: Attention | None = setting("Of the network hash: ida, danet or none.", common="none")
    stat_axis: StatAxis = setting("Of ida: cross (the default), or softmax (the paper's letter; inert).", "cross")
    pre_conv: PreConvolution = setting("Before each attention branch: none (the default) or conv3x3bnrelu.", "none")
    attention_width: int | None = setting(least=1)
    streams: Streams | None = setting(
        "Of the network dual-stream: both, position, channel, none or shared.", common="both"
    )
    head: Head | None = setting(
        "What gives the outputs: linear, linear-bn, layernorm-tanh or mlp; default: the method's own."
    )
    size: int | None = setting("Input side in pixels; default: the backbone's.")
    fit: Fit | None = setting("crop (keeps the aspect ratio) or stretch.", common="crop")
    augment: Augment | None = setting(
        "none, flip, crop (flip and random crop), photo (resized crop, flip, colours) or randaugment.", common="none"
    )
    strong_augment: Augment | None = setting(
        "Of the second view, for methods that take two of each image.", common="photo"
    )
    epochs: int | None = setting("Times through the training images.", common=150, least=1)
    freeze: bool | None = setting(
        "Train the hash layer, and attention where asked, on features computed once.", common=False
    )
    finetune: int | None = setting("With --freeze: epochs of the whole network after those.", common=0, least=0)
    minutes: float | None = setting(
        "In place of the last --epochs or --finetune: as many as fit into this, told beforehand.", least=0.0, above=True
    )
    batch: int | None = setting("Images a step.", common=128, least=2)
    optimiser: Optimiser | None = setting("rmsprop, sgd, adam or adamw.", common="rmsprop")
    schedule: Schedule | None = setting("Of the learning rate: steps, cosine or one-cycle.", common="steps")
    learning_rate: float | None = setting("Of the hash layer; see --backbone-rate.", common=1e-5, least=0.0, above=True)
    backbone_rate: float | None = setting("The backbone's, as a multiple of that.", common=1.0, least=0.0)
    lr_step: int | None = setting("Epochs between drops of the learning rate.", common=50, least=1)
    lr_factor: float | None = setting("It is multiplied by this at each drop.", common=0.1, least=0.0, above=True)
    weight_decay: float | None = setting("Of the optimiser.", common=1e-5, least=0.0)
    momentum: float | None = setting(common=0.0, least=0.0)
    nesterov: bool | None = setting(common=False)
    method_options: dict[str, Any] = field(default_factory=dict)
    validation: float | None = setting("Share of the images kept to choose the best epoch; default: 0.1.", least=0.0)
    evaluate_every: int | None = setting("Epochs between validations.", common=5, least=1)
    select: Select = setting(default="validation")
    queries: Path | None = None
    database: Path | None = None
    cutoff: int | None = setting(least=1)
    seed: int = setting("Same seed, same weights (on a CPU).", 0, least=0)
    device: str = setting("auto, cpu, cuda, cuda:1, mps, ...", "auto")
    precision: str = setting("auto, float32, bfloat16 or float16.", "auto")


# What a method's recipe leaves out.
COMMON: dict[str, Any] = {
    item.name: item.metadata["common"]
    for item in dataclasses.fields(TrainOptions)
    if item.metadata.get("common") is not None
}
