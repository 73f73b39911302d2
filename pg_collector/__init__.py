"""PG Collector: samples PostgreSQL's statistics views and streams the samples away."""

__version__ = "0.1.0"
