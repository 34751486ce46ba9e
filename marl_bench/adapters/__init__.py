"""Other suites' environments here (`jumanji:ID`, `jaxmarl:ID`), and ours in other suites' interfaces.

Nothing in this folder imports another suite before an adapter is made.
"""
