"""From scores to evidence, what that promises, and the card that says so."""
