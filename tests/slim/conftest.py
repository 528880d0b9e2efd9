"""Tiny labelled data, drawn once."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

WORDS = ["the", "and", "cat", "dog", "sun", "red", "12", "45.9", "Tea", "box", "Key", "run", "ICE", "hot", "big", "map"]


def _word(text: str, ink: int, paper: int) -> np.ndarray:
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    image = np.full((height + below + 10, width + 10, 3), paper, np.uint8)
    cv2.putText(image, text, (5, height + 5), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (ink,) * 3, 2, cv2.LINE_AA)
    return image


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """DIR/{det,cls,rec}/label.txt: 4 scenes (320 x 320 px) of four words, 32 lines, 32 crops, every second turned."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(7)
    labels: dict[str, list[str]] = {"det": [], "cls": [], "rec": []}
    for task in labels:
        (folder / task / "images").mkdir(parents=True)

    def put(task: str, number: int, image: np.ndarray, label: str) -> None:
        cv2.imwrite(str(folder / task / "images" / f"{number}.png"), image)
        labels[task].append(f"images/{number}.png\t{label}")

    for number in range(32):
        text = WORDS[number % len(WORDS)]
        image = _word(text, int(rng.integers(0, 90)), int(rng.integers(160, 255)))
        put("rec", number, image, text)
        put("cls", number, image[::-1, ::-1] if number % 2 else image, "180" if number % 2 else "0")
    for number in range(4):
        scene = np.full((320, 320, 3), 200, np.uint8)
        regions = []
        for row in range(4):
            text = WORDS[int(rng.integers(len(WORDS)))]
            word = _word(text, 30, 230)
            height, width = word.shape[:2]
            x, y = int(rng.integers(0, 320 - width)), row * 78 + int(rng.integers(0, 30))
            scene[y : y + height, x : x + width] = word
            points = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
            regions.append({"transcription": text, "points": points})
        put("det", number, scene, json.dumps(regions))
    for task, lines in labels.items():
        (folder / task / "label.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
