"""kill -9 at random moments: does a job that is called again end as if nothing had happened? docs/kills.md."""
