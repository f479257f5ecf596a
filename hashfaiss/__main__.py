"""`python -m hashfaiss`."""

from hashfaiss.cli import app

app(prog_name="hashfaiss")
