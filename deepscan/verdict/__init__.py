"""From scores over time to a label: arithmetic without files or networks."""
