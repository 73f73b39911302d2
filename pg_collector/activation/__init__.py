"""The device: activated once with a key, then granted a plan by signed policies.

docs/specs/protocol.md says what both sides hold to.
"""
