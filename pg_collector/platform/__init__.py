"""The reference platform: the far side of the agent, on a machine of one's own.

One process. SQLite keeps who may do what (identity.py), DuckDB what was sent (store.py). What both
sides say to each other is in docs/specs/protocol.md and docs/specs/delivery.md, how to run it in
docs/platform.md. It knows nothing of the agent's other rooms: whoever writes another platform can
read this one by itself.
"""
