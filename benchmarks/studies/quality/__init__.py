"""Quality of generalists against specialists on equal data: `python -m benchmarks.studies.quality`."""
