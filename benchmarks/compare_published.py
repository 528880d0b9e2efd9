"""Our default models beside PaddleOCR's published v2.0 ones: the same photos through the same pipeline, on Paddle.

    python benchmarks/compare_published.py --published DIR [--models out] [--out out/published.json]

DIR holds models/ (det, cls and English rec as published inference folders), charsets/en_dict.txt, and images/ with
scenes_en/, words/en/ and icdar2015_det/. The models are imported first. Printed: every photo's lines side by side, how
many of the lines printed on it each system reads exactly (benchmarks/printed_lines.py says what counts), words, and the
detector's hmean on ten ICDAR 2015 photos, which are too few for more than information.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command
from benchmarks.steps import ROOT

if TYPE_CHECKING:
    from lite_runtime.pipeline import OcrPipeline

PRETRAINED = ROOT / "ocr_models" / "pretrained"
PUBLISHED_MODELS = {
    "det": "ch_ppocr_mobile_v2.0_det_infer",
    "cls": "ch_ppocr_mobile_v2.0_cls_infer",
    "rec": "en_number_mobile_v2.0_rec_infer",
}
CHARSET = Path("charsets") / "en_dict.txt"
WORDS = Path("images") / "words" / "en" / "rec_gt.txt"
ICDAR = Path("images") / "icdar2015_det" / "Label_det.txt"
KINDS = ("checkpoint", "inference")
NAMES = {"published": "published v2.0", "ours": "ours"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="compare_published.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input."
    )
    parser.add_argument(
        "--published", type=Path, required=True, metavar="DIR", help="published models, charsets and photos"
    )
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="det/ cls/ rec/ of ours (default: ocr_models/pretrained)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result as JSON")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    from benchmarks import printed_lines

    printed = printed_lines.load()
    needed = [Path("models") / name for name in PUBLISHED_MODELS.values()]
    for part in [*needed, CHARSET, WORDS, ICDAR, *(Path("images") / photo for photo in printed)]:
        if not (args.published / part).exists():
            raise command.UsageError(
                f"{args.published}: expected {part} in it, found none; give the folder of the published models"
            )
    if args.out is not None and (args.out.is_dir() or not args.out.parent.is_dir()):
        raise command.UsageError(
            f"{args.out}: expected a JSON file to write in a folder that exists, found none; give another --out"
        )
    own = args.models or (PRETRAINED if PRETRAINED.is_dir() else None)
    ours = {task: own / task for task in PUBLISHED_MODELS} if own else {}
    for task, folder in ours.items():
        artifact.load(folder, kind=KINDS, task=task)  # before the minute that the published ones take
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"published": _import_published(args.published, Path(scratch))}
        if ours:
            folders["ours"] = ours
        report = {
            "schema": 1,
            "systems": {
                name: _judge(NAMES[name], parts, args.published, printed, Path(scratch))
                for name, parts in folders.items()
            },
        }
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        command.write_text(args.out, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    text = _as_text(report, printed)
    if own is None:
        text += f"\n{PRETRAINED}: no default models there yet; --models DIR names others"
    command.emit(args, report, text)
    return command.EXIT_DONE


def _import_published(published: Path, scratch: Path) -> dict[str, Path]:
    """task → checkpoint artifact made of the published folder."""
    from ocr_models.import_weights import import_weights

    folders = {}
    for task, name in PUBLISHED_MODELS.items():
        folders[task] = scratch / task
        charset = published / CHARSET if task == "rec" else None
        import_weights(published / "models" / name, folders[task], charset=charset, command_line="import_weights")
    return folders


def _judge(
    name: str, folders: Mapping[str, Path], published: Path, printed: Mapping[str, list[str]], scratch: Path
) -> dict[str, Any]:
    """Everything that is said of one system: photos, words, hmean."""
    from benchmarks import printed_lines
    from lite_runtime.preprocess import read_image

    pipeline, models = open_pipeline(folders)
    photos: dict[str, Any] = {}
    with contextlib.closing(pipeline):
        for photo in command.progress(list(printed), name):
            result = pipeline(read_image(published / "images" / photo))
            photos[photo] = {
                "lines": [{"text": line.text, "score": line.score, "quad": line.quad} for line in result.lines],
                **_counts(printed_lines.count_read, result.texts, printed[photo]),
            }
        labels = _word_labels(published / WORDS)
        crops = [read_image((published / WORDS).parent / image) for image in labels]
        read = [text for text, _ in pipeline.rec.recognize(crops)]
    exact = sum(text == label for text, label in zip(read, labels.values(), strict=True))
    words = {"read": dict(zip(labels, read, strict=True)), "labels": labels, "exact": exact, "of": len(labels)}
    return {
        "models": models,
        "photos": photos,
        "words": words,
        "icdar2015_det": _hmean(folders["det"], published, scratch),
    }


def open_pipeline(folders: Mapping[str, Path]) -> tuple[OcrPipeline, dict[str, Any]]:
    """The runtime's pipeline on Paddle, and what it was made of."""
    from lite_runtime.detector import TextDetector
    from lite_runtime.direction import DirectionClassifier
    from lite_runtime.options import Options
    from lite_runtime.pipeline import OcrPipeline
    from lite_runtime.recognizer import TextRecognizer
    from ocr_models import checkpoints
    from ocr_models.paddle_engine import InferenceEngine, NetworkEngine

    engines: dict[str, InferenceEngine | NetworkEngine] = {}
    manifests: dict[str, artifact.Manifest] = {}
    models: dict[str, Any] = {}
    for task, folder in folders.items():
        manifest = artifact.load(folder, kind=KINDS, task=task)
        if manifest.kind == "inference":
            engines[task] = InferenceEngine(folder)
        else:
            engines[task] = NetworkEngine(checkpoints.load_network(folder)[0])
        manifests[task] = manifest
        models[task] = {
            "name": manifest.name,
            "kind": manifest.kind,
            "manifest_sha256": artifact.digest(folder),
            "steps": manifest.extra.get("steps"),
            "metrics": manifest.metrics,
        }
    options = Options.from_manifests(*manifests.values())
    record = manifests["rec"].charset
    entries = artifact.read_charset(folders["rec"], manifests["rec"])
    labels = artifact.charset_labels(entries, record.space if record else True)
    pipeline = OcrPipeline(
        TextDetector(engines["det"], manifests["det"]),
        DirectionClassifier(engines["cls"], manifests["cls"]),
        TextRecognizer(engines["rec"], manifests["rec"], labels),
        options,
    )
    return pipeline, models


def _counts(count: Any, read: list[str], printed: list[str]) -> dict[str, int]:
    return {
        "exact": count(read, printed, spaces=True),
        "exact_spaces_ignored": count(read, printed, spaces=False),
        "of": len(printed),
    }


def _word_labels(path: Path) -> dict[str, str]:
    """Image → text of a recognition label file."""
    rows = [row.split("\t", 1) for row in path.read_text(encoding="utf-8").splitlines() if row]
    if any(len(row) != 2 for row in rows):
        raise command.UsageError(f"{path}: expected image, tab, text on every line, found another; fetch it again")
    return {image: text for image, text in rows}


def _hmean(detector: Path, published: Path, scratch: Path) -> dict[str, Any]:
    """{"metrics", "intervals", "samples"} as slim/evaluate.py finds them, in a process of its own."""
    data = scratch / "icdar" / "det"
    data.mkdir(parents=True, exist_ok=True)
    photos = (published / ICDAR).parent.resolve()
    rows = (published / ICDAR).read_text(encoding="utf-8").splitlines()
    # An absolute path stands in a label file as well as a relative one, so no photo is copied.
    (data / "label.txt").write_text("".join(f"{photos / row}\n" for row in rows if row), encoding="utf-8")
    argv = [sys.executable, "slim/evaluate.py", str(detector.resolve()), "--data", str(data.parent), "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise command.ModelError(command.one_line(done.stderr.strip().rsplit("\n", 1)[-1]))
    return json.loads(done.stdout)["results"]["det"]


def _as_text(report: dict[str, Any], printed: Mapping[str, list[str]]) -> str:
    """Every photo's lines side by side, then the table of counts."""
    systems = report["systems"]
    blocks = [_side_by_side(photo, systems) for photo in printed]
    headers = ["read exactly", "of"]
    for name in systems:
        headers += [NAMES[name], "spaces ignored"]
    rows: list[list[Any]] = []
    for photo, lines in printed.items():
        row: list[Any] = [photo, len(lines)]
        for system in systems.values():
            row += [system["photos"][photo][key] for key in ("exact", "exact_spaces_ignored")]
        rows.append(row)
    total: list[Any] = ["all lines", sum(map(len, printed.values()))]
    words: list[Any] = ["words/en", next(iter(systems.values()))["words"]["of"]]
    hmean: list[Any] = ["icdar2015_det hmean, for information", ""]
    for system in systems.values():
        for key in ("exact", "exact_spaces_ignored"):
            total.append(sum(photo[key] for photo in system["photos"].values()))
        words += [system["words"]["exact"], ""]
        hmean += [f"{system['icdar2015_det']['metrics']['hmean']:.3f}", ""]
    return "\n".join([*blocks, command.table(headers, [*rows, total, words, hmean])])


def _side_by_side(photo: str, systems: Mapping[str, Any]) -> str:
    """One row for each place on the photo: what each system read there, with its score."""
    import numpy as np

    from benchmarks import printed_lines

    found = [system["photos"][photo]["lines"] for system in systems.values()]
    quads = [np.array([line["quad"] for line in lines], np.float32).reshape(-1, 4, 2) for lines in found]
    if len(found) == 1:
        found, quads = [*found, []], [*quads, np.zeros((0, 4, 2), np.float32)]
    cells = [
        [_cell(lines, index) for lines, index in zip(found, pair, strict=True)]
        for pair in printed_lines.pair_lines(quads[0], quads[1])
    ]
    names = [NAMES[name] for name in systems]
    rows = [names, *[row[: len(names)] for row in cells]]
    width = max(len(row[0]) for row in rows)
    return "\n".join([photo, *("  " + "  ".join([row[0].ljust(width), *row[1:]]).rstrip() for row in rows), ""])


def _cell(lines: list[dict[str, Any]], index: int | None) -> str:
    return "-" if index is None else f"{lines[index]['score']:.2f} {lines[index]['text']}"


if __name__ == "__main__":
    command.main(build_parser(), run)
