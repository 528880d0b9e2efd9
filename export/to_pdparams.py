"""Write a checkpoint's weights as the `.pdparams` file that PaddleOCR trains on and loads.

    python export/to_pdparams.py CHECKPOINT --out best_accuracy.pdparams

Names are PaddleOCR's own, so `Global.pretrained_model` and `Global.checkpoints` take the file as one of theirs. A
pruned network has shapes that PaddleOCR does not build, and it would skip them with a warning; with --fill its removed
channels come back as zeros. The filled network is of full size, computes the same, and stays pruned in training: no
gradient reaches a channel that is zero on both sides.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command

if TYPE_CHECKING:
    import numpy as np

    from ocr_models.prune_plan import PrunePlan

COMMAND = "export/to_pdparams.py"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="to_pdparams.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input."
    )
    parser.add_argument("checkpoint", type=Path, help="artifact folder of kind checkpoint, float")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="a .pdparams file that does not exist yet"
    )
    parser.add_argument("--fill", action="store_true", help="put the channels that pruning removed back as zeros")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("GLOG_minloglevel", "2")
    data = to_pdparams(args.checkpoint, args.out, fill=args.fill)
    text = f"{args.out}: {data['params']:,} params in {data['tensors']} tensors of {data['name']} ({data['task']})"
    if data["filled"]:
        text += f", {data['filled']:,} of them zeros that pruning had removed"
    if data["charset"]:
        text += f"\nits charset: {data['charset']}, for Global.character_dict_path"
    command.emit(args, data, text)
    return command.EXIT_DONE


def to_pdparams(checkpoint: Path, out: Path, *, fill: bool = False) -> dict[str, Any]:
    """Write the file and say what is in it.

    Raises ArtifactError, ModelError or UsageError with one line; `out` is then not written.
    """
    if out.suffix != ".pdparams":
        raise command.UsageError(f"{out}: expected --out FILE.pdparams, found another suffix; PaddleOCR asks for it")
    if out.exists():
        raise command.UsageError(f"{out}: expected a file that does not exist yet, found one; give another --out")
    if not out.parent.is_dir():
        raise command.UsageError(f"{out}: expected its folder to exist, found none; make it or give another --out")
    manifest = artifact.load(checkpoint, kind="checkpoint")
    if manifest.quantized:
        raise command.ModelError(
            f"{checkpoint}: expected a float checkpoint, found a quantized one "
            f"({manifest.compression['quantization']}), whose clipping levels PaddleOCR has no place for; "
            "give the checkpoint that it was made from"
        )
    plan = manifest.compression.get("prune_plan")
    if plan and not fill:
        raise command.ModelError(
            f"{checkpoint}: expected a network that PaddleOCR can build, found a pruned one; give --fill to put its "
            "removed channels back as zeros, or give the checkpoint that it was pruned from"
        )
    if fill and not plan:
        raise command.UsageError(f"{checkpoint}: expected a pruned checkpoint for --fill, found none; leave it out")
    import paddle

    from ocr_models import catalogue, checkpoints
    from ocr_models.prune_plan import PrunePlan

    # Paddle saves global names beside the weights; in a guard they do not depend on what was built before.
    with paddle.utils.unique_name.guard():
        layer, _ = checkpoints.load_network(checkpoint)
    held = _size(layer)
    if plan:
        arrays = {name: tensor.numpy() for name, tensor in checkpoints.parameters(layer).items()}
        arrays = filled(arrays, PrunePlan.load(checkpoint / plan))
        with paddle.utils.unique_name.guard():
            layer = catalogue.build(manifest.network)
        checkpoints.assign(layer, arrays, checkpoint)
    _save(layer, out)
    return {
        "out": str(out), "name": manifest.name, "task": manifest.task, "tensors": len(checkpoints.parameters(layer)),
        "params": _size(layer), "filled": _size(layer) - held,
        "charset": str(checkpoint / manifest.charset.file) if manifest.charset else None,
    }  # fmt: skip


def filled(arrays: dict[str, np.ndarray], plan: PrunePlan) -> dict[str, np.ndarray]:
    """A pruned network's arrays in the shapes before pruning: zeros, and a variance of one, where nothing was kept.

    A channel that batch norm makes zero stays zero behind every activation of these networks or is multiplied by
    weights that are zero, so the network computes what the pruned one does.
    """
    import numpy as np

    full = dict(arrays)
    for name, axes in plan.kept.items():
        fill = 1 if name.endswith("._variance") else 0
        whole = np.full(plan.shapes[name], fill, arrays[name].dtype)
        kept = [axes.get(axis, range(size)) for axis, size in enumerate(plan.shapes[name])]
        whole[np.ix_(*kept)] = arrays[name]
        full[name] = whole
    return full


def _size(layer: Any) -> int:
    from ocr_models import checkpoints

    return sum(tensor.size for tensor in checkpoints.parameters(layer).values())


def _save(layer: Any, out: Path) -> None:
    """The state dict as PaddleOCR's training saves it, second names of the LSTM's weights among them."""
    import paddle

    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / out.name
        paddle.save(layer.state_dict(), str(temporary))
        temporary.replace(out)


if __name__ == "__main__":
    command.main(build_parser(), run)
