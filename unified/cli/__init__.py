"""The commands for people, one file a command; each one's `--help` is complete and has an example."""
