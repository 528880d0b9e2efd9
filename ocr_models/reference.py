"""The input at which a network's work is counted and its latency measured, where it takes any size.

Without Paddle, because the runtime's latency command needs it too.
"""

# (N, C, H, W): the sizes that the papers' tables and this project's own use.
REFERENCE_SHAPES = {"det": (1, 3, 640, 640), "cls": (1, 3, 48, 192), "rec": (1, 3, 32, 320)}
