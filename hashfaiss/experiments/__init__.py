"""A paper's table in one command: plans, runs, results, tables and figures."""
