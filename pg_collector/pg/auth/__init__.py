"""How a session proves who it is.

A lane asks its `Login` before each attempt to connect. That may fetch something (a file, a token
over the network) and gives what signs the attempt: at most a password for each host; libpq does the
rest. The SDKs of the clouds are extras, imported when a target first needs one.
"""
