"""Put detector, direction classifier and recognizer into the one folder that runtime, app and phone load.

    python export/bundle.py --det NB --cls NB --rec NB --inference DET CLS REC [--charset FILE] [--images DIR] --out DIR
    python export/bundle.py --check DIR

The three are checked first: role by output, one machine, one opt version, a charset that fits, the input's height.
The inference models that the .nb files were made from say what the bundle's self test expects. --check proves an
existing bundle; exit 1 with the finding when it falls short.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import artifact
import command
from artifact import ArtifactError, Manifest
from command import ModelError, UsageError
from export import nb_file, opt, to_nb
from export.bundle_check import NAMES, check_model, checks
from lite_runtime import bundle as sealed
from lite_runtime import self_test
from lite_runtime.bundle import ROLES
from lite_runtime.engine import this_machine

COMMAND = "export/bundle.py"
CHARSET = "charset.txt"
TIMEOUT_S = 300


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Bundle three .nb artifacts of one machine, or check it."
    )
    for role, name in NAMES.items():
        parser.add_argument(f"--{role}", type=Path, metavar="NB", help=f"nb artifact of the {name}")
    parser.add_argument(
        "--inference", type=Path, nargs=3, metavar=("DET", "CLS", "REC"), help="what the .nb files were made from"
    )
    parser.add_argument("--charset", type=Path, metavar="FILE", help="charset (default: the recognizer's own)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="self-test images (default: parts of samples/)")
    parser.add_argument("--out", type=Path, help="folder to write; must not exist yet")
    parser.add_argument("--check", type=Path, metavar="DIR", help="check this bundle instead of making one")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    parts = {role: getattr(args, role) for role in ROLES}
    if args.check is not None:
        if any((*parts.values(), args.inference, args.charset, args.images, args.out)):
            raise UsageError("expected --check DIR alone, found options of a bundle to make; leave them out")
        return _run_check(args)
    given = {**{f"--{role}": parts[role] for role in ROLES}, "--inference": args.inference, "--out": args.out}
    if missing := [name for name, value in given.items() if value is None]:
        raise UsageError(f"expected {', '.join(given)}, found no {missing[0]}; see --help")
    inference = dict(zip(ROLES, args.inference, strict=True))
    manifest = bundle(parts, args.out, inference=inference, charset=args.charset, images=args.images)
    models, tests = manifest.extra["models"], manifest.extra["self_test"]
    rows = [(role, m["name"], m["precision"], f"{m['bytes']:,}") for role, m in models.items()]
    rows.append(("self test", f"{tests['images']} images, {tests['lines']} lines", "", f"{tests['bytes']:,}"))
    rows.append(("total", "", "", f"{sum(record['bytes'] for record in manifest.files.values()):,}"))
    text = command.table(("role", "model", "precision", "bytes"), rows)
    tail = f"bundle for {manifest.extra['target']}, opt {manifest.extra['opt_version']}, written to {args.out}"
    command.emit(args, {"out": str(args.out), **manifest.extra}, f"{text}\n{tail}")
    return command.EXIT_DONE


def bundle(
    folders: Mapping[str, Path],
    out: str | Path,
    *,
    inference: Mapping[str, Path],
    charset: Path | None = None,
    images: Path | None = None,
) -> Manifest:
    """Copy the nb artifact of each role into `out`, add its self test, and return the bundle's manifest.

    Raises ArtifactError, ModelError or UsageError with one line; `out` is then not created.
    """
    manifests = {role: artifact.load(folders[role], kind="nb", task=role) for role in ROLES}
    files = {role: nb_file.read(Path(folders[role]) / to_nb.FILE) for role in ROLES}
    if charset is not None:
        manifests["rec"] = _with_charset(manifests["rec"], charset)
    labels = _labels(Path(folders["rec"]), manifests["rec"], charset)
    for role in ROLES:
        check_model(str(folders[role]), role, manifests[role], files[role], len(labels))
        check_source(folders[role], manifests[role], inference[role])
    target = _agree(folders, {role: m.extra["target"] for role, m in manifests.items()}, "target")
    version = _agree(folders, {role: nb.opt_version for role, nb in files.items()}, "opt version")
    models: dict[str, Any] = {
        role: {
            "name": manifest.name,
            "precision": manifest.extra["precision"],
            "bytes": files[role].size_bytes,
            "parent": artifact.digest(folders[role]),
        }
        for role, manifest in manifests.items()
    }
    # Paddle's library exports zlib functions of its own: bind Python's before it comes in.
    zlib.decompress(zlib.compress(b"paddle"))
    from export import expected

    pictures = expected.read_images(images) if images else expected.default_images()
    with artifact.create(out) as temporary:
        for role in ROLES:
            _copy(Path(folders[role]), manifests[role], temporary / role, charset if role == "rec" else None)
        run = expected.write(temporary, pictures, inference, manifests, labels)
        test = temporary / sealed.SELF_TEST
        tested = {
            "engine": run.engine,
            "images": len(run.images),
            "lines": sum(len(image.lines) for image in run.images),
            "bytes": sum(path.stat().st_size for path in test.rglob("*") if path.is_file()),
        }
        extra = {"target": target, "opt_version": version, "models": models, "self_test": tested}
        manifest = Manifest(kind="bundle", task="system", name=Path(out).resolve().name, extra=extra)
        manifest = sealed.write(temporary, manifest, COMMAND)
        if target == this_machine():
            _run_here(temporary)
        return manifest


def _run_here(folder: Path) -> None:
    """Run the new bundle's self test where its models can run. Raises ModelError when they compute something else."""
    argv = [sys.executable, str(Path(self_test.__file__)), str(folder), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(artifact.__file__).parent)}
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
            env=environment,
            preexec_fn=opt.limit_process,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"expected the self test within {TIMEOUT_S} s, found it still busy; give smaller images"
        ) from None
    if done.returncode == command.EXIT_CHECK_FAILED:
        failed = next(record for record in json.loads(done.stdout)["checks"] if not record["passed"])
        raise ModelError(
            f"expected the .nb files to compute what their inference models compute, found that {failed['what']} of "
            f"{failed['image']} differs by {failed['difference']}; find where with export/check_parity.py"
        )
    if done.returncode:
        said = command.one_line(done.stderr).replace(f"{folder}/", "")
        raise ModelError(f"expected the new bundle to run here, found: {said[-300:]}")


def check_source(folder: Path, manifest: Manifest, inference: Path) -> None:
    """Prove that an nb artifact was made from an inference model, where both have manifests that say so."""
    if not (inference / artifact.MANIFEST).is_file():
        if manifest.parent is not None:
            raise ArtifactError(
                f"{inference}: expected the inference artifact that {folder} was made from, found a folder without "
                f"{artifact.MANIFEST}; give the artifact"
            )
        return  # a published folder, converted as such: expected() runs it, and the self test tells whether they agree
    artifact.load(inference, kind="inference", task=manifest.task)
    if manifest.parent != artifact.digest(inference):
        raise ArtifactError(
            f"{inference}: expected the inference artifact that {folder} was made from, found another; "
            "give its own, or convert this one with export/to_nb.py"
        )


def _with_charset(manifest: Manifest, path: Path) -> Manifest:
    """The manifest with another charset of as many classes."""
    classes = manifest.charset.classes if manifest.charset else None
    for space in (True, False):
        record = replace(artifact.charset_record(path, space=space), file=CHARSET)
        if classes in (None, record.classes):
            return manifest.replace(charset=record)
    raise ModelError(
        f"{path}: expected a charset of {classes - 2} entries, or {classes - 1} without the space, for {classes} "  # type: ignore[operator]
        f"classes, found {len(artifact.read_charset_file(path))}; give the one that the model was trained with"
    )


def _labels(folder: Path, manifest: Manifest, charset: Path | None) -> list[str]:
    entries = artifact.read_charset_file(charset) if charset else artifact.read_charset(folder, manifest)
    assert manifest.charset is not None
    return artifact.charset_labels(entries, manifest.charset.space)


def _agree(folders: Mapping[str, Path], values: dict[str, str], what: str) -> str:
    """The value that all three have."""
    first = next(iter(values.values()))
    for role, value in values.items():
        if value != first:
            raise ModelError(
                f"{folders[role]}: expected {what} {first} as the {next(iter(values))} model has, found {value}; "
                "convert all three with the same export/to_nb.py and --target"
            )
    return first


def _copy(source: Path, manifest: Manifest, to: Path, charset: Path | None) -> None:
    """The manifest and the files that it lists, nothing that merely lies beside them."""
    to.mkdir()
    for name in manifest.files:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, to / name)
    if charset is None:
        shutil.copyfile(source / artifact.MANIFEST, to / artifact.MANIFEST)
    else:
        shutil.copyfile(charset, to / CHARSET)
        artifact.write(to, manifest.replace(parent=artifact.digest(source)), COMMAND)


def _run_check(args: argparse.Namespace) -> int:
    folder = args.check
    # What is no bundle at all is a wrong argument; everything else is a finding about the bundle.
    if not (folder / artifact.MANIFEST).is_file():
        artifact.load(folder)
    rows: list[tuple[str, str, str]] = []
    for what, probe in checks(folder):
        try:
            rows.append((what, probe(), "ok"))
        except (ArtifactError, ModelError, UsageError) as error:
            rows.append((what, str(error), "DIFFERS"))
            break
    passed = rows[-1][2] == "ok"
    verdict = f"{folder}: {'whole and consistent' if passed else 'not to be used'}"
    records = [dict(zip(("what", "found", "result"), row, strict=True)) for row in rows]
    text = f"{command.table(('what', 'found', ''), rows)}\n\n{verdict}"
    command.emit(args, {"bundle": str(folder), "passed": passed, "checks": records}, text)
    return command.EXIT_DONE if passed else command.EXIT_CHECK_FAILED


if __name__ == "__main__":
    command.main(build_parser(), run)
