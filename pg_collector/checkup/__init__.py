"""The preflight of the whole path: what `pgc check` looks at, a file for each section.

Nothing here writes on a server, and what is written on disk to try it is removed again. The agent
never imports it.
"""
