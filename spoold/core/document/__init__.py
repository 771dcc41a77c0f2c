"""Strict documents, read and written: job.yaml and spoold.yaml.

Owns: what is left of YAML, the places and words of faults, the forms that keys are held against.
Comes in: bytes, and a form.
Goes out: values with their places, or every problem at once; text that reads back as the same values.
"""
