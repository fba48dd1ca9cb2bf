"""What is learnt over ids: one file per system."""
