"""What is generated for users out of the parser and the forms: manual pages, completion, schemas.

Owns: their order and the texts that only they have.
Comes in: the parser, the forms of the documents.
Goes out: the files in `spoold/data/`.
"""
