"""What the networks are: PP-OCR architectures, their weights and how to run them in Paddle."""
