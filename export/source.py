"""Opens what `to_nb` converts: an inference artifact of ours, or a plain published inference folder."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import artifact
from artifact import Charset, Input, Manifest
from command import ModelError, UsageError
from export import inference_yml, lstm_storage, program, variants
from export.inference_yml import Settings
from export.program import Program

CHARSET = "charset.txt"


@dataclass(frozen=True)
class Source:
    """An inference model with the record of what it is.

    charset: content of its charset file; parent: digest of its manifest; None where it has none.
    """

    manifest: Manifest
    program: Program
    charset: bytes | None
    parent: str | None


def open_source(folder: str | Path, *, task: str | None = None, charset: Path | None = None) -> Source:
    """Read and check an inference model.

    A folder without a manifest is what its inference.yml says, then its program (rank of the output), then `task` and
    `charset`; the rest is that of the project's model for the task. Raises ArtifactError, ModelError or UsageError
    with one line.
    """
    folder = Path(folder)
    if (folder / artifact.MANIFEST).is_file():
        if charset is not None:
            raise UsageError(f"{folder}: expected its own charset, found --charset; leave it out")
        manifest = artifact.load(folder, kind="inference", task=task)
        model = program.read(folder)
        text = (folder / manifest.charset.file).read_bytes() if manifest.charset else None
        parent = artifact.digest(folder)
    else:
        model = program.read(folder)
        manifest, text = _published(folder, model, task, charset)
        parent = None
    _check(folder, manifest, model)
    return Source(manifest, model, text, parent)


def task_of(model: Program) -> str | None:
    """What a program does, by its first output: (N, 1, H, W) is a map, (N, 2) two directions, (N, T, C) a text."""
    shape = model.shapes.get(model.outputs[0], ()) if model.outputs else ()
    if len(shape) == 2 and shape[-1] != 2:
        return None
    return {4: "det", 2: "cls", 3: "rec"}.get(len(shape))


def _published(folder: Path, model: Program, task: str | None, charset: Path | None) -> tuple[Manifest, bytes | None]:
    """The record of a folder without one: its settings file, its program, the catalogue's card for its task."""
    from ocr_models import catalogue

    told = inference_yml.read(folder) or Settings()
    task = task or told.task or task_of(model)
    if task is None:
        shape = list(model.shapes.get(model.outputs[0], ())) if model.outputs else []
        raise UsageError(
            f"{folder}: expected an output of a detector (4 dimensions), a recognizer (3) or two directions (N, 2), "
            f"found {shape}; say what it is with --task det, cls or rec"
        )
    if told.task not in (None, task):
        raise UsageError(f"{folder}: expected --task {told.task} as its {inference_yml.FILE} says, found {task}")
    card = next(card for card in map(catalogue.card, catalogue.names()) if card.task == task)
    record: Charset | None = None
    text: bytes | None = None
    if task == "rec":
        if charset is not None or told.entries is None:
            path = charset or card.charset_path
            assert path is not None
            text = "".join(f"{entry}\n" for entry in artifact.read_charset_file(path)).encode()
            name, advice = (
                path.name,
                "give the one that it was trained with" if charset else "give its own with --charset",
            )
        else:
            text = "".join(f"{entry}\n" for entry in told.entries).encode()
            name, advice = inference_yml.FILE, "give the model's own file, or its charset with --charset"
        record = _charset_of(folder, text, output_classes(model), name, advice)
    elif charset is not None:
        raise UsageError(f"{folder}: expected --charset for a recognizer only, found one for task {task}; leave it out")
    manifest = Manifest(
        kind="inference",
        task=task,
        name=told.name or folder.resolve().name,
        input=_input(folder, card.input, told, model, task),
        post={**card.post, **told.post},
        charset=record,
        compression=_compression(model),
    )
    return manifest, text


def _compression(model: Program) -> dict[str, str]:
    """What the program itself tells."""
    found = {"quantization": "unknown"} if model.quantized else {}
    return {**found, variants.LSTM: variants.LSTM_BYTES} if lstm_storage.stored(model) else found


def _input(folder: Path, eats: Input, told: Settings, model: Program, task: str) -> Input:
    """The card's input, overruled by the program and by the settings file.

    Of the sizes that a published program declares only a recognizer's height is one that it insists on.
    """
    declared = model.shapes.get(model.inputs[0], ()) if model.inputs else ()
    batch, channels, height, width = eats.shape
    insists = declared[2] if task == "rec" and len(declared) == 4 and declared[2] > 0 else None
    height = insists or height
    if told.shape is not None and task != "det":
        if insists not in (None, told.shape[1]):
            raise ModelError(
                f"{folder}: expected an input {told.shape[1]} px high as {inference_yml.FILE} says, found a program "
                f"for {insists}; put the file beside the model that it belongs to"
            )
        height = told.shape[1]
        width = told.shape[2] if task == "cls" else width
    changes: dict[str, Any] = {"shape": (batch, channels, height, width), "color": told.color}
    if told.mean and told.std:
        changes.update(mean=told.mean, std=told.std)
    if told.limit and task == "det":
        changes.update(limit_side_len=told.limit[0], limit_type=told.limit[1])
    return dataclasses.replace(eats, **changes)


def _charset_of(folder: Path, text: bytes, classes: int, name: str, advice: str) -> Charset:
    """The record of the charset that makes exactly `classes`, with or without the extra space."""
    from ocr_models import catalogue

    space = catalogue.has_space(text.count(b"\n"), classes, model=folder, charset=name, advice=advice)
    return Charset(CHARSET, hashlib.sha256(text).hexdigest(), classes, space=space)


def output_classes(model: Program) -> int:
    """Size of the last side of the model's output; -1 where the program leaves it open."""
    shape = model.shapes.get(model.outputs[0], ())
    return int(shape[-1]) if shape else -1


def _check(folder: Path, manifest: Manifest, model: Program) -> None:
    """Prove that the program fits its record."""
    if manifest.input is None:
        raise artifact.ArtifactError(f"{folder}: expected an input record in the manifest, found none; export it again")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"{folder}: expected a program with one input and one output, found {len(model.inputs)} and "
            f"{len(model.outputs)}; give a {manifest.task} model"
        )
    # Height and width are the manifest's matter: published programs declare sizes that they do not insist on.
    eats, found = manifest.input.shape, model.shapes[model.inputs[0]]
    if len(found) != 4 or found[1] != eats[1]:
        raise ModelError(
            f"{folder}: expected a {manifest.task} model with input {list(eats)}, found {list(found)}; "
            "give a model of this task"
        )
    rank = len(model.shapes.get(model.outputs[0], ()))
    if rank != {"det": 4, "cls": 2, "rec": 3}[manifest.task]:
        raise ModelError(
            f"{folder}: expected the output of a {manifest.task} model, found one with {rank} dimensions; "
            "give a model of this task"
        )
    classes = output_classes(model)
    if manifest.charset is not None and classes != manifest.charset.classes:
        raise ModelError(
            f"{folder}: expected {manifest.charset.classes} classes as its charset has, found {classes}; "
            "use the charset that the model was trained with"
        )
    model.weights()
