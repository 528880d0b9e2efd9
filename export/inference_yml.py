"""Writes `inference.yml`, the settings that PaddleOCR 3.x reads beside an inference model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from artifact import Input, Manifest

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
