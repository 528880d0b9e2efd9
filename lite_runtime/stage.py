"""What the three stages of the pipeline have in common."""

from __future__ import annotations

from artifact import Manifest
from command import ModelError
from lite_runtime.engine import Engine
from lite_runtime.options import Options


class Stage:
    """A network with its pre- and post-processing; sizes, colours and thresholds come from its manifest."""

    TASK = ""
    NAME = ""

    def __init__(self, engine: Engine, manifest: Manifest, options: Options | None = None) -> None:
        if manifest.task != self.TASK or manifest.input is None:
            raise ModelError(
                f"expected a {self.NAME} with `input` in its manifest, found task {manifest.task}; give another"
            )
        self.engine = engine
        self.manifest = manifest
        self.input = manifest.input
        self.options = options or Options.from_manifests(manifest)
