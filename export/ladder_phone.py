"""The last rung: what a phone recorded, against this machine's networks on the same images.

Nothing of the phone is needed but the folder that was pulled back (lite_runtime/recording.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from command import UsageError
from export import answers, ladder_photos, parity, tolerances
from export.answers import Answer
from export.ladder import Model, View, unshaped
from export.ladder_photos import TASK, Photo, Photos
from export.parity import Difference, Rung
from export.parity_cases import prepare_photo
from lite_runtime import preprocess, recording
from lite_runtime.recording import RecordedImage, Recording, Tensor


@dataclass(frozen=True)
class Phone:
    """A recorded run. name: how tables call it; photos: the recorded images that were found here, by name."""

    name: str
    folder: Path
    recording: Recording
    photos: dict[str, Photo]


def open_phone(folder: Path, places: Sequence[Path], name: str) -> Phone:
    """Read a recorded run; its images are looked for beside it and in `places`, by their hash.

    Raises ArtifactError for a damaged recording.
    """
    run = recording.read(folder)
    wanted = {image.sha256: image.image for image in run.images}
    photos: dict[str, Photo] = {}
    for path in _images((folder, *places)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        image = wanted.get(content)
        if image is not None and image not in photos:
            photos[image] = Photo(image, content, preprocess.read_image(path))
    return Phone(name, folder, run, photos)


def _images(folders: Iterable[Path]) -> Iterable[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in preprocess.IMAGE_SUFFIXES)


def photos(phone: Phone) -> list[Photo]:
    """All recorded images. Raises UsageError when one is not here: without it nothing can be read again."""
    for image in phone.recording.images:
        if image.image not in phone.photos:
            raise UsageError(
                f"{phone.folder}: expected the picture {image.image} with sha256 {image.sha256[:12]}… beside the "
                "recording, in a bundle's self_test or under --images, found none; give its folder with --images"
            )
    return list(phone.photos.values())


def missing(phone: Phone, expected: Iterable[Photo]) -> list[Rung]:
    """A photo that the phone was to read and did not record falls short."""
    recorded = {image.sha256 for image in phone.recording.images}
    return [
        Rung(phone.name, photo.name, None, 0.0, "missing in the recording", False, TASK)
        for photo in expected
        if photo.sha256 and photo.sha256 not in recorded
    ]


def climb_model(model: Model, phone: Phone, precision: str, found: Photos | None) -> None:
    """Every recorded run of one network again, on the very input that the phone fed.

    precision: the phone's, "fp16" widens the tolerance. found: what the networks made of the photos, with which the
    phone's inputs are compared; without it only the detector's are, because nobody knows what the crops were.
    """
    tensors = [(image, t) for image in phone.recording.images for t in image.tensors if t.task == model.task]
    if not tensors:
        model.unmeasured.append(f"{phone.name}: not measured, it recorded no tensors of {model.task}")
    for image, tensor in tensors:
        model.rungs.append(_rung(model, phone, image, tensor, precision, found))


def _rung(
    model: Model, phone: Phone, image: RecordedImage, tensor: Tensor, precision: str, found: Photos | None
) -> Rung:
    limit = {"fp16": tolerances.FP16, "int8": tolerances.PHONE_INT8}.get(precision, model.fused)
    assert model.manifest.input is not None
    case = f"{image.image} {tensor.index}"
    gap = _input_gap(model, phone, image, tensor, found)
    allowed = tolerances.phone_input(model.manifest.input.std).value
    if problem := unshaped(tensor.input, model.manifest):
        return Rung(phone.name, case, None, 0.0, problem, False, model.task, _APART, allowed)
    expected = model.network.engine.run(np.ascontiguousarray(tensor.input, np.float32))
    reader = model.network.reader
    verdict = answers.compare(model.task, reader.read(expected), reader.read(tensor.output))
    return Rung(
        phone.name,
        case,
        parity.difference(expected, tensor.output),
        limit.value,
        verdict.result,
        verdict.same,
        model.task,
        gap,
        allowed,
        verdict.boxes,
        verdict.edits,
    )


_APART = Difference(float("inf"), float("inf"), 0.0)


def _input_gap(
    model: Model, phone: Phone, image: RecordedImage, tensor: Tensor, found: Photos | None
) -> Difference | None:
    """The phone's input against ours; None where it is not known or where a box that moved made another crop."""
    if model.task == "det":
        photo = phone.photos.get(image.image)
        return parity.difference(prepare_photo(model.manifest, photo.image), tensor.input) if photo else None
    reference = found.references.get(image.sha256) if found else None
    if reference is None:
        return None
    line = image.lines[tensor.index]
    for index, other in enumerate(reference.lines):
        turned = model.task == "rec" and line.angle != other.angle
        ours = reference.tensor(model.task, index)
        if line.quad == other.quad and not turned and ours is not None:
            return parity.difference(ours.input, tensor.input)
    return None


def climb_photos(found: Photos, phone: Phone) -> None:
    """Lines of the phone against the networks'."""
    for image in phone.recording.images:
        photo = phone.photos[image.image]
        rung, _ = ladder_photos.compare(phone.name, found.references[image.sha256], image, photo.image)
        found.rungs.append(rung)
        for picture in found.pictures:
            if picture.title == found.references[image.sha256].image:
                said: Answer = ladder_photos.answer(image)
                picture.views.append(View(phone.name, said, rung.passed))
