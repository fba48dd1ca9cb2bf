"""(z, t, cond) -> logits [b n K]: one file per network."""
