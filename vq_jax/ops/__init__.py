"""Arithmetic with no opinion about models."""
