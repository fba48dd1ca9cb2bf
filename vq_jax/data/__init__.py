"""Pixels, labels and captions in: one file per source."""
