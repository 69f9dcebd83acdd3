"""SIGKILL at random moments: does a job that is called again end as if nothing had happened? Writes docs/kills.md."""
