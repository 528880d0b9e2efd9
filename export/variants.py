"""The forms that a `.nb` file comes in, and which of them a model can have."""

from __future__ import annotations

from command import ModelError, UsageError

# name → what it buys, for reports
PRECISIONS = {
    "fp32": "float weights, float arithmetic",
    "fp16": "half-precision arithmetic: speed, not size",
    "int8": "int8 weights, int8 arithmetic: size and speed",
    "weight-int8": "int8 weights, float arithmetic: size, not speed",
    "weight-int16": "int16 weights, float arithmetic: size, not speed",
}
# How a recognizer's LSTM matrices may be stored, and under which key a manifest's `compression` says so.
LSTM, LSTM_BYTES = "lstm", "uint8"
LSTM_FORMS = ("fp32", LSTM_BYTES)
# name → how many bits opt stores a weight in
WEIGHT_BITS = {"weight-int8": 8, "weight-int16": 16}


def choose(model: str, precision: str | None, *, quantized: bool, target: str, lstm_bytes: bool = False) -> str:
    """The precision to convert to: what was asked for, else int8 for a quantized program and fp32 for a float one.

    lstm_bytes: the program makes its LSTM's weights on every run (export/lstm_storage.py).
    Raises ModelError or UsageError for what the program or the target does not allow.
    """
    if precision not in (None, *PRECISIONS):
        raise UsageError(f"expected --precision {' | '.join(PRECISIONS)}, found {precision!r}")
    if quantized and target == "x86":
        raise ModelError(
            f"{model}: expected a float model for x86, found an int8 one, whose results are wrong on Paddle-Lite x86; "
            "convert for --target arm, and judge its accuracy on the inference model with slim/evaluate.py"
        )
    if quantized and precision not in (None, "int8"):
        again = ", whose weights are int8 already" if precision in WEIGHT_BITS else ""
        raise UsageError(
            f"{model}: expected a float model with --precision {precision}, found an int8 one{again}; "
            "leave --precision out"
        )
    if not quantized and precision == "int8":
        raise UsageError(
            f"{model}: expected a quantized model for int8 arithmetic, found a float one; quantize it with "
            "slim/quantize.py first, or take --precision weight-int8 for a smaller file"
        )
    if precision == "fp16" and target != "arm":
        raise UsageError(
            f"expected --precision fp16 with --target arm, found {target}: only ARM has half-precision kernels"
        )
    if precision == "fp16" and lstm_bytes:
        raise UsageError(
            f"{model}: expected LSTM weights in fp32 with --precision fp16, found them stored as bytes: the "
            "half-precision kernel takes its weights before the run makes them; export it again with --lstm fp32"
        )
    if precision in WEIGHT_BITS and target != "arm":
        raise UsageError(
            f"expected --precision {precision} with --target arm, found {target}: there a matrix product with such "
            "weights gives NaN"
        )
    return precision or ("int8" if quantized else "fp32")
