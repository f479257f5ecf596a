"""An index of images: encoder, stored codes and FAISS index as one thing that is built, kept in step and asked."""
