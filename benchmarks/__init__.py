"""Scripts that measure what the README says; each writes its JSON into `results/`."""
