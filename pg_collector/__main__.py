"""`python -m pg_collector` is `pgc`."""

from pg_collector.cli import main

if __name__ == "__main__":
    main()
