"""The ladder as one page that needs nothing else: tables, and each image with what every rung made of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from export.answers import Answer
from export.ladder import Picture
from export.ladder_report import Report
from lite_runtime.draw import FONT, PALETTE

TEMPLATE = Path(__file__).with_name("parity.html.j2")
MAX_SIDE_PX = 640
CROP_HEIGHT_PX = 32
JPEG_QUALITY = 80


def page(report: Report) -> str:
    from jinja2 import Environment, StrictUndefined, select_autoescape

    environment = Environment(autoescape=select_autoescape(default=True), undefined=StrictUndefined, trim_blocks=True)
    heads, rows = report.ladder()
    # Photos first: they are what the user knows.
    pictures = [*report.pictures, *(picture for model in report.models for picture in model.pictures)]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"Parity of {report.name}",
        verdict=report.verdict(),
        passed=report.passed,
        heads=heads,
        rows=rows,
        differences=[
            (rung.stage, f"{rung.task} {rung.case}", rung.fault, rung.result) for rung in report.rungs if rung.fault
        ],
        repeats=[(r.stage, f"{r.task} {r.case}", r.order, r.found, _ok(r.passed)) for r in report.repeats],
        structure=[(f.what, f.expected, f.found, _ok(f.passed)) for f in report.findings],
        tolerances=report.tolerances(),
        missing=report.missing,
        pictures=[_picture(picture) for picture in pictures],
    )


def _ok(passed: bool) -> str:
    return "ok" if passed else "DIFFERS"


def _picture(picture: Picture) -> dict[str, Any]:
    boxed = picture.task not in ("cls", "rec")
    views = []
    for view in picture.views:
        record: dict[str, Any] = {"stage": view.stage, "passed": view.passed, "texts": view.answer.texts}
        record["error"] = view.answer.error
        record["data"] = _jpeg(_drawn(picture, view.answer)) if boxed else ""
        views.append(record)
    crops = [] if boxed else [_jpeg(_at_height(image)) for image in picture.images]
    return {"title": picture.title, "views": views, "crops": crops}


def _drawn(picture: Picture, answer: Answer) -> np.ndarray:
    """The image with its boxes, numbered as their texts are listed."""
    image = picture.images[0]
    share = min(1.0, MAX_SIDE_PX / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * share)), max(1, round(image.shape[0] * share))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    for number, quad in enumerate(answer.quads):
        corners = np.rint(quad * (np.array(picture.scale) * share)).astype(np.int32)
        colour = PALETTE[number % len(PALETTE)]
        cv2.polylines(canvas, [corners[:, None]], True, colour, 2, cv2.LINE_AA)
        at = int(corners[0][0]), max(10, int(corners[0][1]) - 3)
        cv2.putText(canvas, str(number + 1), at, FONT, 0.45, colour, 1, cv2.LINE_AA)
    return canvas


def _at_height(image: np.ndarray) -> np.ndarray:
    width = max(1, min(MAX_SIDE_PX, round(image.shape[1] * CROP_HEIGHT_PX / image.shape[0])))
    return cv2.resize(image, (width, CROP_HEIGHT_PX), interpolation=cv2.INTER_AREA)


def _jpeg(image: np.ndarray) -> str:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
