"""Short trainings that compare networks, tasks and settings."""
