"""Images or ids -> numbers: one file per metric, each a fold."""
