"""Make a checkpoint artifact of weights that PaddleOCR trained.

    python ocr_models/import_weights.py ch_ppocr_mobile_v2.0_det_infer --out out/det
    python ocr_models/import_weights.py best_accuracy.pdparams --model rec_mv3_crnn_en --charset keys.txt --out out/rec

PATH is a .pdparams file or a published inference folder. The model is found by what PATH holds unless --model names it.
A recognizer keeps its own number of classes: give the charset that it was trained with, when it is not the default one.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command

if TYPE_CHECKING:
    import numpy as np

    from ocr_models.catalogue import ModelCard

# PaddleOCR pads every line to 32x320 at least, so its recognizers have never seen a narrower input.
MIN_WIDTH_PX = 320
# What tells a task by its parameters, most telling first.
_SIGNS = (("det", "head.binarize."), ("rec", "neck.encoder.lstm."), ("cls", "head.fc."))
_RANKS = {4: "det", 3: "rec", 2: "cls"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="import_weights.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input."
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a .pdparams file or a published inference folder")
    parser.add_argument("--model", metavar="NAME", help="which model of the catalogue it is (default: found in PATH)")
    parser.add_argument("--charset", type=Path, metavar="FILE", help="the recognizer's charset, one entry a line")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint artifact to write")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    line = "ocr_models/import_weights.py " + " ".join(sys.argv[1:])
    done = import_weights(args.path, args.out, model=args.model, charset=args.charset, command_line=line)
    rows = [
        (part, f"{row['tensors']}", f"{row['matched']}", f"{row['params']:,}", f"{row['params_matched']:,}")
        for part, row in done.parts.items()
    ]
    text = command.table((f"{done.name} ({done.task})", "tensors", "matched", "params", "matched"), rows)
    if done.made_anew:
        text += (
            f"\n{args.path} does not hold {', '.join(done.made_anew)}: only training uses it, and it begins anew"
            f"\n{args.out}: params matched {done.matched:,} of the {done.matched:,} that inference needs"
        )
    else:
        text += f"\n{args.out}: params matched {done.matched:,} of {done.matched:,}"
    data = {"out": str(args.out), **dataclasses.asdict(done), "params_matched": done.matched}
    command.emit(args, data, text)
    return command.EXIT_DONE


@dataclass(frozen=True)
class Imported:
    """What an import did: {part of the network: tensors and params, in all and matched}, and what PATH did not hold."""

    name: str
    task: str
    classes: int | None
    parts: dict[str, dict[str, int]]
    made_anew: tuple[str, ...]

    @property
    def matched(self) -> int:
        """Numbers that came from the source, batch norm's running mean and variance among them."""
        return sum(row["params_matched"] for row in self.parts.values())


def import_weights(
    path: Path, out: Path, *, model: str | None = None, charset: Path | None = None, command_line: str = ""
) -> Imported:
    """Write the checkpoint artifact `out` from PaddleOCR's weights at `path`.

    model: a name of the catalogue, found by the weights when None. charset: the recognizer's file, the card's when
    None. command_line: for the manifest's `made_by`. Raises ModelError, ArtifactError or UsageError with one line.
    """
    import paddle

    from ocr_models import catalogue, checkpoints

    source = _open(path)
    card = _card(path, source, model)
    network = dict(card.network)
    chosen, space = None, True
    if card.task == "rec":
        network["classes"] = source.classes
        chosen, space = _charset(path, source.classes, card, charset)
    elif charset is not None:
        raise command.UsageError(f"{path}: expected --charset for a recognizer only, found a {card.task} model")
    paddle.seed(0)  # what the source does not hold is the same in every import
    layer = catalogue.build(network)
    if source.arrays is None:
        missing = checkpoints.import_published(layer, path)
    else:
        checkpoints.assign(layer, source.arrays, path)
        missing = []
    anew = tuple(sorted({".".join(name.split(".")[:2]) + ".*" for name in missing}))
    own = chosen is not None and card.charset_path is not None and not _same(chosen, card.charset_path)
    eats = card.input
    if card.task == "rec":
        widths = tuple(width for width in eats.width_buckets if width >= MIN_WIDTH_PX)
        eats = dataclasses.replace(eats, width_buckets=widths)
    with artifact.create(out) as folder:
        checkpoints.save_network(layer, folder)
        manifest = card.manifest(folder).replace(network=network, input=eats)
        if chosen is not None:
            shutil.copyfile(chosen, folder / catalogue.CHARSET)
            record = artifact.charset_record(folder / catalogue.CHARSET, space=space)
            # A card's name speaks of its charset; with another one the source's own name says more.
            manifest = manifest.replace(charset=record, name=_own_name(path) if own else card.name)
        extra = {"source": path.resolve().name, "source_files": source.files, "made_anew": list(anew)}
        artifact.write(folder, manifest.replace(extra=extra), command_line)
    return Imported(manifest.name, card.task, network.get("classes"), _parts(layer, set(missing)), anew)


@dataclass(frozen=True)
class _Source:
    """Weights before a network is chosen. arrays: of a .pdparams file, None for a folder; files: name → sha256."""

    task: str
    classes: int
    arrays: dict[str, np.ndarray] | None
    files: dict[str, str]


def _open(path: Path) -> _Source:
    from ocr_models import inference_files

    if path.is_dir():
        if not (path / inference_files.PROGRAM).exists() and (files := sorted(path.glob("*.pdparams"))):
            raise command.ModelError(
                f"{path}: expected an inference folder, found one with {files[0].name}; give that file itself"
            )
        return _folder(path)
    if path.is_file() and path.suffix != ".pdparams":
        raise command.ModelError(
            f"{path}: expected a .pdparams file or an inference folder, found a {path.suffix or 'nameless'} file; "
            "unpack an archive first, give the folder of a .pdmodel"
        )
    if not path.exists():
        raise command.ModelError(
            f"{path}: expected a .pdparams file or an inference folder, found nothing; check the path"
        )
    from ocr_models.pdparams import read_pdparams

    arrays = read_pdparams(path)
    task = next((task for task, sign in _SIGNS if any(name.startswith(sign) for name in arrays)), None)
    if task is None:
        found = ", ".join(list(arrays)[:3]) or "no array"
        raise command.ModelError(
            f"{path}: expected weights of a DB detector, a direction classifier or a CRNN recognizer, found {found}; "
            "give PP-OCR mobile v2.0 weights"
        )
    head = arrays.get("head.fc.weight")
    classes = int(head.shape[-1]) if head is not None and head.ndim == 2 else 0
    return _Source(task, classes, arrays, _hashes(path))


def _folder(path: Path) -> _Source:
    from ocr_models import inference_files
    from ocr_models.paddle_engine import is_quantized

    program = inference_files.read_program(path)
    if is_quantized(program):
        raise command.ModelError(
            f"{path}: expected float weights, found a program that simulates int8; give the model it was made from"
        )
    block = program.blocks[0]
    shapes = {var.name: tuple(var.type.lod_tensor.tensor.dims) for var in block.vars}
    fetched = [name for op in block.ops if op.type == "fetch" for slot in op.inputs for name in slot.arguments]
    shape = shapes.get(fetched[0], ()) if len(fetched) == 1 else ()
    if len(shape) not in _RANKS:
        raise command.ModelError(
            f"{path}: expected a map (N, 1, H, W), lines (N, T, classes) or directions (N, classes) as the only "
            f"output, found {len(fetched)} outputs{f', the first {list(shape)}' if shape else ''}; give a det, cls or "
            "rec model"
        )
    # The output's last side may be left open in a program; the weights of the layer before it never are.
    products = [op for op in block.ops if op.type in ("mul", "matmul", "matmul_v2", "fc")]
    sides = [shapes[n] for op in products[-1:] for slot in op.inputs for n in slot.arguments if len(shapes[n]) == 2]
    files = _hashes(path / inference_files.PROGRAM, path / inference_files.WEIGHTS)
    return _Source(_RANKS[len(shape)], int(sides[-1][1]) if sides else int(shape[-1]), None, files)


def _card(path: Path, source: _Source, model: str | None) -> ModelCard:
    from ocr_models import catalogue

    if model is not None:
        card = catalogue.card(model)
        if card.task != source.task:
            raise command.ModelError(
                f"{path}: expected weights of a {card.task} model as --model {model} says, found those of a "
                f"{source.task} model; give another --model or another file"
            )
        return card
    cards = [card for card in map(catalogue.card, catalogue.names()) if card.task == source.task]
    fitting = [card for card in cards if card.network.get("classes") == source.classes] or cards
    if len(fitting) != 1:
        names = " | ".join(card.name for card in fitting)
        raise command.UsageError(f"{path}: expected --model {names} for these {source.task} weights, found none")
    return fitting[0]


def _charset(path: Path, classes: int, card: ModelCard, given: Path | None) -> tuple[Path, bool]:
    """The charset file and whether a class for the space follows its entries, so that all makes `classes`."""
    chosen = given or card.charset_path
    if chosen is None:
        raise command.UsageError(f"{path}: expected --charset FILE for {card.name}, found none")
    entries = artifact.read_charset_file(chosen)
    for space in (True, False):
        if len(artifact.charset_labels(entries, space)) == classes:
            return chosen, space
    default = "" if given else ", the default"
    raise command.ModelError(
        f"{path}: expected a charset of {classes - 2} entries (its {classes} classes less the blank and the space, "
        f"or one more without the space), found {len(entries)} in {chosen.name}{default}; "
        "give the charset that it was trained with as --charset"
    )


def _own_name(path: Path) -> str:
    return path.resolve().name.removesuffix(".pdparams")


def _same(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()


def _hashes(*paths: Path) -> dict[str, str]:
    try:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    except OSError as error:
        raise command.ModelError(
            f"{error.filename}: expected a readable file, found {error.strerror}; check the path"
        ) from None


def _parts(layer: Any, missing: set[str]) -> dict[str, dict[str, int]]:
    """Tensors and numbers of backbone, neck and head: in all, and matched."""
    from ocr_models import checkpoints

    parts: dict[str, dict[str, int]] = {}
    for name, tensor in checkpoints.parameters(layer).items():
        zero = {"tensors": 0, "matched": 0, "params": 0, "params_matched": 0}
        row = parts.setdefault(name.split(".")[0], zero)
        row["tensors"] += 1
        row["params"] += tensor.size
        if name not in missing:
            row["matched"] += 1
            row["params_matched"] += tensor.size
    return parts


if __name__ == "__main__":
    command.main(build_parser(), run)
