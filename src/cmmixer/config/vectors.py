"""How vectors are stored."""

# Bytes of a value. What a model computes in is another matter: see PRECISIONS.
VECTOR_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
