"""Looking at runs: reports, `inspect`, and `probe`."""
