"""Worklists: the node as pull performer of Unified Procedure Steps (PS3.4 CC, IHE AIW-I)."""
