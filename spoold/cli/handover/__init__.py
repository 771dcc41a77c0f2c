"""Job folders, made, looked through and handed over.

Owns: validate, seal, pack, submit, resend and sendmail, and the ways to a spool here or on another machine.
Comes in: a folder, or a message and recipients.
Goes out: a whole job in new/, or what is wrong with it.
"""
