"""What can be proved about a bundle, or about a model that goes into one, without running it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from artifact import ArtifactError, Manifest
from command import ModelError
from export import nb_file, to_nb
from export.nb_file import NbFile
from lite_runtime import bundle as sealed
from lite_runtime import self_test, versions
from lite_runtime.bundle import ROLES, Models
from lite_runtime.engine import library_version

NAMES = {"det": "detector", "cls": "direction classifier", "rec": "recognizer"}


def check_model(name: str, role: str, manifest: Manifest, nb: NbFile, classes: int) -> None:
    """Prove that a .nb file is what its manifest says and what its role needs. classes: blank, charset, space.

    Raises ArtifactError or ModelError.
    """
    for key in ("target", "precision"):
        if not isinstance(manifest.extra.get(key), str):
            raise ArtifactError(f"{name}: expected extra.{key} in the manifest, found none; convert the model again")
    if manifest.extra["precision"] not in self_test.OUTPUT_TOLERANCE:
        raise ModelError(
            f"{name}: expected a precision {' | '.join(self_test.OUTPUT_TOLERANCE)}, found "
            f"{manifest.extra['precision']}, whose answers Paddle cannot tell for the self test; bundle another variant"
        )
    to_nb.check(nb, manifest.extra["target"], manifest.extra["precision"], name)
    rank = {"det": 4, "cls": 2, "rec": 3}[role]
    shape = nb.output_shape
    if len(shape) != rank:
        raise ModelError(
            f"{name}: expected a {NAMES[role]}, whose output has {rank} sides, found {list(shape)}; give another model"
        )
    if role == "det" and shape[1] != 1:
        raise ModelError(f"{name}: expected one probability map of a detector, found {shape[1]}; give another model")
    angles = len(manifest.post.get("labels", ("0", "180")))
    if role == "cls" and shape[1] != angles:
        raise ModelError(f"{name}: expected {angles} directions of a classifier, found {shape[1]}; give another model")
    if role == "rec" and shape[-1] != classes:
        raise ModelError(
            f"{name}: expected a recognizer of {classes} classes as its charset has, found {shape[-1]}; "
            "use the charset that the model was trained with"
        )
    _check_height(name, role, manifest, nb)


def _check_height(name: str, role: str, manifest: Manifest, nb: NbFile) -> None:
    """A recognizer collapses the height that it was made for, 32 or 48 px, into one row."""
    var = nb.vars.get(nb.inputs[0])
    height = var.shape[2] if var and len(var.shape) == 4 else -1
    assert manifest.input is not None
    if role == "rec" and -1 not in (height, manifest.input.shape[2]) and height != manifest.input.shape[2]:
        raise ModelError(
            f"{name}: expected an input of {manifest.input.shape[2]} px height as its manifest has, found {height}; "
            "convert the model again with the settings that it was trained with"
        )


def checks(folder: Path) -> list[tuple[str, Callable[[], str]]]:
    """(what, probe) of everything that can be proved about a bundle without running its models, in order.

    A probe says what it found, and raises ArtifactError or ModelError for what must not be.
    """
    found: list[Models] = []

    def files() -> str:
        found.append(sealed.read(folder))
        assert found[0].bundle is not None
        return f"{len(found[0].bundle.files)} files, each of its hash"

    def model(role: str) -> Callable[[], str]:
        return lambda: _check_role(found[0], role)

    return [
        ("files", files),
        *((NAMES[role], model(role)) for role in ROLES),
        ("library here", lambda: _check_library(found[0])),
        ("self test", lambda: _check_self_test(found[0])),
    ]


def _check_role(models: Models, role: str) -> str:
    manifest, nb = models.manifests[role], nb_file.read(models.nb(role))
    assert models.bundle is not None
    check_model(str(models.folders[role]), role, manifest, nb, len(models.labels))
    if nb.opt_version != models.bundle.extra["opt_version"]:
        raise ModelError(
            f"{models.nb(role)}: expected opt version {models.bundle.extra['opt_version']} as the bundle has, found "
            f"{nb.opt_version}; make the bundle again"
        )
    if "kernels" in manifest.extra and manifest.extra["kernels"] != nb.kernels():
        raise ModelError(
            f"{models.nb(role)}: expected the kernels that its manifest lists, found others; convert again"
        )
    parts = [manifest.name, manifest.extra["precision"], f"{manifest.extra['target']}, opt {nb.opt_version}"]
    return ", ".join([*parts, f"{len(models.labels)} classes"] if role == "rec" else parts)


def _check_library(models: Models) -> str:
    """What the version rule says of the library that is installed here; another one on the phone decides there."""
    assert models.bundle is not None
    try:
        library = library_version()
    except ModelError:
        return "none installed"
    version = models.bundle.extra["opt_version"]
    verdicts = [versions.judge(version, library, models.manifests[role].extra["precision"]) for role in ROLES]
    worst = min(verdicts, key=lambda verdict: (verdict.allowed, not verdict.warning))
    return f"{library}: {worst.warning or 'the version that the files were made for'}"


def _check_self_test(models: Models) -> str:
    from export import expected
    from lite_runtime import preprocess

    run = self_test.read_expected(models)
    assert models.self_test is not None
    for image in run.images:
        picture = preprocess.read_image(models.self_test / image.image)
        if difference := expected.replay(image, picture, models.manifests, models.labels):
            raise ModelError(f"{models.self_test / image.image}: {difference}; make the bundle again")
    lines = sum(len(image.lines) for image in run.images)
    if not lines:
        raise ModelError(f"{models.self_test}: expected lines of text, found none; make the bundle again with --images")
    return f"{len(run.images)} images, {lines} lines by {run.engine}"
