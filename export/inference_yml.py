"""Writes and reads `inference.yml`, the settings that PaddleOCR 3.x keeps beside an inference model.

Reading is strict: what this project would do differently from PaddleOCR is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from artifact import Input, Manifest
from command import ModelError, one_line

FILE = "inference.yml"
# The narrowest batch that PaddleOCR makes for a recognizer of lines; it pads wider ones by itself.
LINE_WIDTH_PX = 320


def settings(manifest: Manifest, entries: list[str] | None) -> dict[str, Any]:
    """The content for one model. entries: the charset's, for a recognizer."""
    if manifest.input is None:
        raise ValueError("a manifest without input has no settings")
    top: dict[str, Any] = {"model_name": manifest.name}
    if manifest.charset is not None:
        top["use_space_char"] = manifest.charset.space
    before, after = {"det": _detector, "cls": _classifier, "rec": _recognizer}[manifest.task](manifest, manifest.input)
    if entries is not None:
        after["character_dict"] = entries
    decode = {"DecodeImage": {"img_mode": manifest.input.color, "channel_first": False}}
    return {"Global": top, "PreProcess": {"transform_ops": [decode, *before]}, "PostProcess": after}


def write(folder: Path, manifest: Manifest, entries: list[str] | None) -> None:
    text = yaml.safe_dump(settings(manifest, entries), allow_unicode=True, sort_keys=False)
    (folder / FILE).write_text(text, encoding="utf-8")


def _detector(manifest: Manifest, eats: Input) -> tuple[list[dict], dict[str, Any]]:
    names = ("thresh", "box_thresh", "unclip_ratio", "max_candidates", "score_mode", "use_dilation")
    return [
        {"DetResizeForTest": {"limit_side_len": eats.limit_side_len, "limit_type": eats.limit_type}},
        {"NormalizeImage": {"mean": list(eats.mean), "std": list(eats.std), "scale": "1./255.", "order": "hwc"}},
        {"ToCHWImage": None},
        {"KeepKeys": {"keep_keys": ["image", "shape"]}},
    ], {"name": "DBPostProcess", **{name: manifest.post[name] for name in names if name in manifest.post}}


def _classifier(manifest: Manifest, eats: Input) -> tuple[list[dict], dict[str, Any]]:
    return [
        {"ClsResizeImg": {"image_shape": list(eats.shape[1:])}},
        {"KeepKeys": {"keep_keys": ["image"]}},
    ], {"name": "ClsPostProcess", "label_list": list(manifest.post.get("labels", ["0", "180"]))}


def _recognizer(manifest: Manifest, eats: Input) -> tuple[list[dict], dict[str, Any]]:
    _, channels, height, width = eats.shape
    return [
        {"RecResizeImg": {"image_shape": [channels, height, width if width > 0 else LINE_WIDTH_PX]}},
        {"KeepKeys": {"keep_keys": ["image"]}},
    ], {"name": "CTCLabelDecode"}


@dataclass(frozen=True)
class Settings:
    """What the file beside an inference model says; None or empty where it is silent.

    shape: (channels, height, width); limit: detector's side (px) and "max" or "min"; entries: the charset's.
    mean and std: for pixels divided by 255, in the order of `color`.
    """

    name: str = ""
    task: str | None = None
    color: str = "BGR"
    shape: tuple[int, int, int] | None = None
    limit: tuple[int, str] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    post: dict[str, Any] = field(default_factory=dict)
    entries: tuple[str, ...] | None = None


def read(folder: str | Path) -> Settings | None:
    """The settings of a published inference folder; None without the file. Raises ModelError with one line."""
    path = Path(folder) / FILE
    if not path.exists():
        return None
    try:
        content = path.read_bytes()
        if len(content) > _LARGEST_BYTES:
            raise _Unread(f"a file of at most {_LARGEST_BYTES:,} bytes", f"{len(content):,}")
        record = yaml.load(content.decode("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return _settings(_mapping(record, "the file"))
    except OSError as error:
        raise ModelError(f"{path}: expected a readable file, found {error.strerror}; check the path") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        what = getattr(error, "problem", None) or type(error).__name__
        raise ModelError(f"{path}: expected YAML in UTF-8, found {one_line(str(what))[:120]}; copy it again") from None
    except _Unread as error:
        raise ModelError(f"{path}: {error}; correct it, or take it away and give --task and --charset") from None


class _Unread(Exception):
    def __init__(self, expected: str, found: object) -> None:
        super().__init__(f"expected {expected}, found {one_line(str(found))[:120]}")


def _settings(record: dict[str, Any]) -> Settings:
    _known(record, ("Global", "Hpi", "PreProcess", "PostProcess"), "the file")
    after = _mapping(record.get("PostProcess"), "PostProcess")
    values: dict[str, Any] = {"name": str(_mapping(record.get("Global") or {}, "Global").get("model_name", ""))}
    before = _mapping(record.get("PreProcess"), "PreProcess")
    _known(before, ("transform_ops",), "PreProcess")
    transforms = before.get("transform_ops")
    if not isinstance(transforms, list):
        raise _Unread("a list PreProcess.transform_ops", type(transforms).__name__)
    for transform in transforms:
        if not isinstance(transform, dict) or len(transform) != 1:
            raise _Unread("one name per entry of transform_ops", transform)
        ((kind, given),) = transform.items()
        if kind in _FOR_TRAINING or str(kind).endswith("LabelEncode"):
            continue
        if kind not in _TRANSFORMS:
            raise _Unread(f"transforms among {', '.join(_TRANSFORMS)}", f"the transform {kind}")
        values.update(_TRANSFORMS[kind](_mapping({} if given is None else given, str(kind))))
    return Settings(**{**values, **_post(after)})


def _decode(given: dict[str, Any]) -> dict[str, Any]:
    _known(given, ("img_mode", "channel_first", "ignore_orientation"), "DecodeImage")
    mode = given.get("img_mode", "RGB")
    if mode not in ("BGR", "RGB"):
        raise _Unread("DecodeImage.img_mode BGR or RGB", mode)
    if given.get("channel_first"):
        raise _Unread("DecodeImage.channel_first false", given["channel_first"])
    return {"color": mode}


def _limits(given: dict[str, Any]) -> dict[str, Any]:
    """PaddleOCR's defaults; `resize_long` is a limit of the longer side, as its own predictor takes it."""
    _known(given, ("limit_side_len", "limit_type", "resize_long"), "DetResizeForTest")
    if "resize_long" in given:
        side, kind = given["resize_long"], given.get("limit_type", "max")
    else:
        side, kind = given.get("limit_side_len", 736), given.get("limit_type", "min")
    if kind not in ("max", "min"):
        raise _Unread("DetResizeForTest.limit_type max or min", kind)
    return {"limit": (_whole(side, "DetResizeForTest's side length"), kind)}


def _line(given: dict[str, Any]) -> dict[str, Any]:
    _known(given, ("image_shape", "infer_mode", "eval_mode", "character_dict_path", "padding"), "RecResizeImg")
    if given.get("padding") is False:
        raise _Unread("RecResizeImg.padding true", False)
    return {"shape": _shape(given, "RecResizeImg"), "mean": _HALVES, "std": _HALVES}


def _direction(given: dict[str, Any]) -> dict[str, Any]:
    _known(given, ("image_shape",), "ClsResizeImg")
    return {"shape": _shape(given, "ClsResizeImg"), "mean": _HALVES, "std": _HALVES}


def _normalize(given: dict[str, Any]) -> dict[str, Any]:
    """(x·scale - mean) / std, written for pixels divided by 255."""
    _known(given, ("mean", "std", "scale", "order", "channel_num"), "NormalizeImage")
    if given.get("order", "hwc") not in ("hwc", "chw", ""):
        raise _Unread("NormalizeImage.order hwc or chw", given["order"])
    factor = 255 * _number(given.get("scale", 1 / 255), "NormalizeImage.scale")
    if factor <= 0:
        raise _Unread("NormalizeImage.scale above 0", given["scale"])
    # A scale that is written as 0.00392156862745098 must not move the mean's last digit.
    factor = 1.0 if abs(factor - 1) < 1e-6 else factor
    found = {}
    for key, default in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
        numbers = given.get(key, list(default))
        if not isinstance(numbers, list) or len(numbers) != 3:
            raise _Unread(f"NormalizeImage.{key} with 3 numbers", numbers)
        found[key] = tuple(_number(number, f"NormalizeImage.{key}") / factor for number in numbers)
    if min(found["std"]) <= 0:
        raise _Unread("NormalizeImage.std above 0", given["std"])
    return found


_HALVES = (0.5, 0.5, 0.5)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LARGEST_BYTES = 4 << 20
# Steps of training and evaluation that PaddleOCR's exporter leaves in the file; an image passes them unchanged.
_FOR_TRAINING = ("KeepKeys", "ToCHWImage")
_TRANSFORMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "DecodeImage": _decode,
    "DetResizeForTest": _limits,
    "RecResizeImg": _line,
    "ClsResizeImg": _direction,
    "NormalizeImage": _normalize,
}
_THRESHOLDS = ("thresh", "box_thresh", "unclip_ratio")


def _post(after: dict[str, Any]) -> dict[str, Any]:
    if "Topk" in after:
        _known(after, ("Topk",), "PostProcess")
        top = _mapping(after["Topk"], "PostProcess.Topk")
        return {"task": "cls", "post": {"labels": _angles(top.get("label_list"))}}
    name = after.get("name")
    if name == "DBPostProcess":
        _known(after, ("name", *_THRESHOLDS, "max_candidates", "score_mode", "use_dilation", "box_type"), name)
        if after.get("box_type", "quad") != "quad":
            raise _Unread("PostProcess.box_type quad", after["box_type"])
        post = {key: _number(after[key], f"PostProcess.{key}") for key in _THRESHOLDS if key in after}
        if "max_candidates" in after:
            post["max_candidates"] = _whole(after["max_candidates"], "PostProcess.max_candidates")
        for key, allowed in (("score_mode", ("fast", "slow")), ("use_dilation", (True, False))):
            if key in after and after[key] not in allowed:
                raise _Unread(f"PostProcess.{key} {allowed[0]} or {allowed[1]}", after[key])
            post.update({key: after[key]} if key in after else {})
        return {"task": "det", "post": post}
    if name == "ClsPostProcess":
        _known(after, ("name", "label_list"), name)
        return {"task": "cls", "post": {"labels": _angles(after.get("label_list"))}}
    if name == "CTCLabelDecode":
        _known(after, ("name", "character_dict", "use_space_char"), name)
        return {"task": "rec", "entries": _entries(after.get("character_dict"))}
    raise _Unread("PostProcess.name DBPostProcess, ClsPostProcess or CTCLabelDecode", name)


def _angles(labels: Any) -> list[str]:
    found = [str(label).removesuffix("_degree") for label in labels] if isinstance(labels, list) else labels
    if found != ["0", "180"]:
        raise _Unread("the labels 0 and 180", labels)
    return ["0", "180"]


def _entries(given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not given:
        raise _Unread("a list character_dict", type(given).__name__)
    for entry in given:
        if not isinstance(entry, str) or not entry or "\n" in entry or "\r" in entry:
            raise _Unread("texts of one line in character_dict", repr(entry))
    return tuple(given)


def _known(given: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    unknown = sorted(str(key) for key in given if key not in keys)
    if unknown:
        raise _Unread(f"only {', '.join(keys)} in {where}", ", ".join(unknown))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Unread(f"{where} to hold names and values", type(value).__name__)
    return value


def _shape(given: dict[str, Any], where: str) -> tuple[int, int, int]:
    sides = given.get("image_shape")
    if not isinstance(sides, list) or len(sides) != 3 or sides[0] != 3:
        raise _Unread(f"{where}.image_shape [3, height, width]", sides)
    return 3, _whole(sides[1], f"{where}.image_shape"), _whole(sides[2], f"{where}.image_shape")


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 16:
        raise _Unread(f"a whole number from 1 for {what}", value)
    return value


def _number(value: Any, what: str) -> float:
    """A number, or a quotient such as "1./255."."""
    try:
        if isinstance(value, str):
            above, _, below = value.partition("/")
            value = float(above) / float(below) if below else float(above)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise _Unread(f"a number for {what}", value) from None
    return float(value)
