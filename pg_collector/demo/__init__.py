"""`pgc demo`: a throw-away PostgreSQL with a workload, and the real agent beside it."""
