"""The version lab: PostgreSQL 12 to 18 on one machine, for tests."""
