"""Pixels <-> ids."""
