"""Data sets as they are published, and the protocols that draw queries, training images and database from them."""
