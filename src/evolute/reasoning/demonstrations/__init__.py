"""Demonstrations: sample a teacher, verify, reformat, curate, perturb, measure the student."""
