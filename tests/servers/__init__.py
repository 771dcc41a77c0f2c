"""The servers that tests talk to: real ones (Postfix, sshd) and a scripted relay for faults that no real one
gives.
"""
