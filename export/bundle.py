"""Put detector, direction classifier and recognizer into the one folder that the pipeline and the phone load.

    python export/bundle.py --det NB --cls NB --rec NB --out DIR

The three are checked first: their roles, one machine, one opt version, a charset that fits the recognizer's output.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import artifact
import command
from artifact import ArtifactError, Manifest
from command import ModelError
from export import nb_file, to_nb
from export.nb_file import NbFile
from lite_runtime import bundle as sealed

COMMAND = "export/bundle.py"
ROLES = ("det", "cls", "rec")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Bundle three .nb artifacts of one machine.")
    for role, name in zip(ROLES, ("detector", "direction classifier", "recognizer"), strict=True):
        parser.add_argument(f"--{role}", type=Path, required=True, metavar="NB", help=f"nb artifact of the {name}")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist yet")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    manifest = bundle({role: getattr(args, role) for role in ROLES}, args.out)
    models = manifest.extra["models"]
    rows = [(role, m["name"], m["precision"], f"{m['bytes']:,}") for role, m in models.items()]
    rows.append(("total", "", "", f"{sum(m['bytes'] for m in models.values()):,}"))
    text = command.table(("role", "model", "precision", ".nb bytes"), rows)
    target = manifest.extra["target"]
    tail = f"bundle for {target}, opt {manifest.extra['opt_version']}, written to {args.out}"
    command.emit(args, {"out": str(args.out), **manifest.extra}, f"{text}\n{tail}")
    return 0


def bundle(folders: dict[str, Path], out: str | Path) -> Manifest:
    """Copy the nb artifact of each role (det, cls, rec) into `out` and return the bundle's manifest.

    Raises ArtifactError or ModelError with one line; `out` is then not created.
    """
    manifests, files = {}, {}
    for role, folder in folders.items():
        manifests[role] = artifact.load(folder, kind="nb", task=role)
        files[role] = nb_file.read(Path(folder) / to_nb.FILE)
        check(Path(folder), manifests[role], files[role])
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
    extra = {"target": target, "opt_version": version, "models": models}
    with artifact.create(out) as temporary:
        for role, folder in folders.items():
            _copy(Path(folder), manifests[role], temporary / role)
        manifest = Manifest(kind="bundle", task="system", name=Path(out).resolve().name, extra=extra)
        return sealed.write(temporary, manifest, COMMAND)


def check(folder: Path, manifest: Manifest, nb: NbFile) -> None:
    """Prove that an nb artifact's file is what its manifest says. Raises ArtifactError or ModelError."""
    for key in ("target", "precision"):
        if not isinstance(manifest.extra.get(key), str):
            raise ArtifactError(f"{folder}: expected extra.{key} in the manifest, found none; convert the model again")
    to_nb.check(nb, manifest.extra["target"], manifest.extra["precision"], str(folder))
    if manifest.task != "rec":
        return
    classes = nb.output_shape[-1] if nb.output_shape else -1
    labels = len(artifact.charset_labels(artifact.read_charset(folder, manifest), manifest.charset.space))  # type: ignore[union-attr]
    if classes != labels:
        raise ModelError(
            f"{folder}: expected a recognizer of {labels} classes as its charset has, found {classes}; "
            "use the charset that the model was trained with"
        )


def _agree(folders: dict[str, Path], values: dict[str, str], what: str) -> str:
    """The value that all three have."""
    first = next(iter(values.values()))
    for role, value in values.items():
        if value != first:
            raise ModelError(
                f"{folders[role]}: expected {what} {first} as the {next(iter(values))} model has, found {value}; "
                "convert all three with the same export/to_nb.py and --target"
            )
    return first


def _copy(source: Path, manifest: Manifest, to: Path) -> None:
    """The manifest and the files that it lists, nothing that merely lies beside them."""
    to.mkdir()
    for name in (artifact.MANIFEST, *manifest.files):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, to / name)


if __name__ == "__main__":
    command.main(build_parser(), run)
