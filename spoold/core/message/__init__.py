"""Messages as bytes.

Owns: which bytes of a message file go over the wire and whether they may, header fields as they were written, envelopes that a file brings.
Comes in: chunks of a file.
Goes out: facts about a message, and the bytes to send.
"""
