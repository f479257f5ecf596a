"""From images to codes: an encoder, the stream it works on, and the precisions it computes in."""
