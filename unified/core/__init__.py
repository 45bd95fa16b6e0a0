"""What everything else stands on; it imports nothing of the project but `types`, `errors` and `log`."""
