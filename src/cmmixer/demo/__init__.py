"""The quickstart: synthetic videos or a folder of the user's, trained, evaluated, indexed, and reported on one page."""
