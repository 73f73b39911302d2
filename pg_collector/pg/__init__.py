"""The only room that knows psycopg: sessions that can never hurt a server."""
