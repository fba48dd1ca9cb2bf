"""Frozen networks that only measure."""
