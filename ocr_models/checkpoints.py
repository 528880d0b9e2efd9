"""Trained weights in and out: checkpoint artifacts, PaddleOCR's `.pdparams`, published inference folders.

Weights go by structured name ("backbone.conv.conv.weight"), as PaddleOCR writes them. Every key has to match: paddle's
own set_state_dict skips what is missing or misshaped, and the network then computes nonsense without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import paddle

import artifact
from artifact import Manifest
from command import ModelError
from ocr_models import catalogue
from ocr_models.pdparams import read_pdparams
from ocr_models.prune_plan import PrunePlan

WEIGHTS = "model.pdparams"
# The slimming tools leave the unpruned weights behind as buffers under this suffix.
LEFTOVER = "_backup"


def parameters(layer: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Every tensor of the network's state by the first of its structured names.

    nn.LSTM lists its weights twice, as `lstm.weight_ih_l0` and as `lstm.0.cell_fw.weight_ih`; see `aliases`.
    """
    second = aliases(layer)
    return {name: tensor for name, tensor in _state(layer).items() if name not in second}


def aliases(layer: paddle.nn.Layer) -> dict[str, str]:
    """Second structured names of tensors, each with the first name of the same tensor."""
    first: dict[int, str] = {}
    second: dict[str, str] = {}
    for name, tensor in _state(layer).items():
        if id(tensor) in first:
            second[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
    return second


def _state(layer: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    return {name: tensor for name, tensor in layer.state_dict().items() if not name.endswith(LEFTOVER)}


def assign(layer: paddle.nn.Layer, arrays: Mapping[str, np.ndarray], source: str | Path) -> None:
    """Fill the network with `arrays`; nothing is changed unless every key matches.

    source: what the arrays came from, for the message. Raises ModelError that names missing, extra or misshaped keys.
    """
    wanted, second = parameters(layer), aliases(layer)
    found: dict[str, np.ndarray] = {}
    extra: list[str] = []
    for name, array in arrays.items():
        target = second.get(name, name)
        if target not in wanted:
            extra.append(name)
        elif target in found and not np.array_equal(found[target], array):
            raise ModelError(f"{source}: expected the same weights in {name} and {target}, found two; copy it again")
        else:
            found[target] = array
    missing = [name for name in wanted if name not in found]
    if missing or extra:
        parts = [f"{what} {_some(keys)}" for what, keys in (("no", missing), ("the extra", extra)) if keys]
        raise ModelError(
            f"{source}: expected the {len(wanted)} tensors of {type(layer).__name__}, found "
            f"{' and '.join(parts)}; give weights of this network"
        )
    for name, array in found.items():
        shape = tuple(wanted[name].shape)
        if tuple(array.shape) != shape:
            raise ModelError(
                f"{source}: expected {name} of shape {list(shape)}, found {list(array.shape)}; "
                "give weights of this network, with its prune plan when it is a pruned one"
            )
        if array.dtype.kind != "f":
            raise ModelError(f"{source}: expected {name} as floats, found {array.dtype}; give float weights")
    for name, array in found.items():
        wanted[name].set_value(np.ascontiguousarray(array, dtype=np.float32))


def _some(keys: Iterable[str], limit: int = 4) -> str:
    keys = list(keys)
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def save_network(layer: paddle.nn.Layer, folder: str | Path) -> None:
    """Write the weights as `model.pdparams`, in the form that PaddleOCR itself loads.

    Weights under two names are written once, under the first.
    """
    paddle.save(parameters(layer), str(Path(folder) / WEIGHTS))


def load_network(folder: str | Path) -> tuple[paddle.nn.Layer, Manifest]:
    """The trained float network of a checkpoint artifact, pruned as its plan says, in eval mode.

    Raises ArtifactError for a damaged folder, ModelError for weights that are not exactly this network's.
    """
    folder = Path(folder)
    manifest = artifact.load(folder, kind="checkpoint")
    if manifest.quantized:
        raise ModelError(
            f"{folder}: expected a float checkpoint, found a quantized one "
            f"({manifest.compression['quantization']}); give its parent"
        )
    layer = catalogue.build(manifest.network)
    classes = manifest.network.get("classes")
    if manifest.charset is not None and classes != manifest.charset.classes:
        raise ModelError(
            f"{folder}: expected a charset of {classes} classes, found one of {manifest.charset.classes}; "
            "use the charset that the model was trained with"
        )
    plan = manifest.compression.get("prune_plan")
    if plan:
        PrunePlan.load(folder / plan).apply(layer)
    assign(layer, read_pdparams(folder / WEIGHTS), folder / WEIGHTS)
    layer.eval()
    return layer, manifest


def import_pdparams(layer: paddle.nn.Layer, path: str | Path) -> None:
    """Fill the network with a `.pdparams` file of PaddleOCR, such as `best_accuracy.pdparams`."""
    assign(layer, read_pdparams(path), path)


def import_published(layer: paddle.nn.Layer, folder: str | Path) -> list[str]:
    """Fill the network with a published inference folder, whose parameters have static names ("conv2d_56.w_0").

    Returns the structured names that the folder does not hold because inference does not need them: the detector's
    threshold head. They keep their present values.
    """
    from ocr_models.published import read_published

    arrays = read_published(layer, folder)
    kept = {name: tensor.numpy() for name, tensor in parameters(layer).items() if name not in arrays}
    train_only = tuple(getattr(layer, "train_only", ()))
    missing = [name for name in kept if not name.startswith(train_only or ("\0",))]
    if missing:
        raise ModelError(f"{folder}: expected weights for {_some(missing)}, found none; give a model of this network")
    assign(layer, {**arrays, **kept}, folder)
    return list(kept)
