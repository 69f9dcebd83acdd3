"""A searchable library of moments: building the index, searching it, and the Python class over both."""
