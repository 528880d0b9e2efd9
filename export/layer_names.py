"""Which layer of the network a parameter of its exported program is."""

from __future__ import annotations

from pathlib import Path


def layer_names(checkpoint: Path) -> dict[str, str]:
    """Parameter of the program that export/to_inference.py makes ("conv2d_7.w_0") → layer ("backbone.conv.conv").

    Paddle numbers parameters by counters, which start at 0 when the network is built as the export builds it.
    """
    import paddle

    from export.ladder import open_network

    with paddle.utils.unique_name.guard():
        network, _ = open_network(checkpoint)
    found: dict[str, str] = {}
    for name, tensor in network.state_dict().items():
        # What quantization wraps around a layer (_layer, _fake_quant_input) is no part of the network's names.
        parts = name.removeprefix("network.").split(".")[:-1]
        # An LSTM lists its weights twice: the first name is the one that people know.
        found.setdefault(tensor.name, ".".join(part for part in parts if not part.startswith("_")))
    return found
