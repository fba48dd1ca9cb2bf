"""Captions -> features [b m d]: one file per encoder."""
