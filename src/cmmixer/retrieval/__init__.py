"""A searchable library of moments: building the index, searching it."""
