"""Masking: the last place where raw query text exists.

`mask.Masker` masks query and error texts, `scrub.scrub` cleans log lines. This room imports
the standard library and `errors` only.
"""
