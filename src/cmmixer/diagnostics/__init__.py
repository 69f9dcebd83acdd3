"""`cmmixer doctor`: checks the machine, a folder of videos and an index, and says how to fix what does not work."""
