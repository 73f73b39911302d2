"""A live view of a target in a terminal, from the lines that the running agent takes of it.

Lines become a `Board`, which `sessions` and `server` read; `panels` words what they find, `page`
fits it into a terminal, which `terminal` owns. `feed` asks the agent; `run` drives it all.
"""
