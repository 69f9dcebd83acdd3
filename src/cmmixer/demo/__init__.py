"""The quickstart: trains, evaluates, indexes and reports on synthetic videos or the user's own, in one command."""
