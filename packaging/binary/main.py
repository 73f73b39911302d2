"""Where the binary begins."""

from pg_collector.cli import main

main()
