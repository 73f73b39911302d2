"""States of a server, made on purpose: context managers that yield typed facts.

Each takes a Database (or a Server where it concerns the whole of it) and undoes itself.
"""
