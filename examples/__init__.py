"""Programs that show deepscan at work on a portrait in the public domain."""
