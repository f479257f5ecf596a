"""Codes on disk: immutable HDF5 segments under one manifest. Knows nothing of networks or FAISS."""
