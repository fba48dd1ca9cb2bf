"""Noise -> ids: one file per algorithm."""
