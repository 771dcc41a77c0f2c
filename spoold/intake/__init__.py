"""Uploads become jobs.

Owns: what stands in new/, when an upload is complete, how it is taken out of its sender's hands, looked through and accepted.
Comes in: folders and message files in new/, hints of the kernel, the settings of the configuration.
Goes out: accepted and rejected jobs in the database and in their folders; to the agent, the ids of those that are to be sent.
"""
