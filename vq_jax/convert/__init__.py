"""Official checkpoints -> our configs and parameter trees."""
