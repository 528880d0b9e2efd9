"""Makes a checkpoint smaller: training data, fine-tuning, pruning, quantization, evaluation."""
