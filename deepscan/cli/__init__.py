"""The command line: reads arguments, prints text, returns exit codes."""
