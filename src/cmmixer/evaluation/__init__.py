"""Evaluation of trained networks: retrieval metrics on a frozen gallery, and reconstructions of the masked autoencoder."""
