"""Image to text with Paddle-Lite; never imports paddle."""
