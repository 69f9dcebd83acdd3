"""Output for editing programs: videos with new audio, edit decision lists and tables of moments."""
