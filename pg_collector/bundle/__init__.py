"""What `pgc bundle` packs for support: looked up within bounds, cleaned, scanned, then written.

`parts` runs the look-ups, `content` scrubs what they found, `known`, `invalid` and `scan` look for
secrets in it, `archive` writes. The running agent does not load this room.
"""
