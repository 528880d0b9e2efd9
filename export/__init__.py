"""Makes a checkpoint runnable on a phone, and proves that nothing changed."""
