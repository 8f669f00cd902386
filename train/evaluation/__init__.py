"""What a network is worth on data that others made, and the measures of it."""
